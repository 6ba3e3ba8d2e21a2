"""Settings as text: YAML, and single ones as ``--set`` gives them: ``block.name=value``. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from sapling.errors import ConfigError

# of text that is no such number, date or name, the parser raises whatever Python does
_RAISED = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)


def read_yaml(text: str) -> Any:
    """Plain data.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except _RAISED as error:
        raise ValueError(str(error) or type(error).__name__) from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """``"train.lr=0.1"`` -> ``("train.lr", 0.1)``; the value is read as YAML.

    Raises:
        ConfigError: there is no ``=``, no name, or the value is no YAML.
    """
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise ConfigError(f"--set {text!r} is not understood", allowed="--set block.name=value")
    try:
        return path.strip(), read_yaml(value)
    except ValueError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML", allowed="--set block.name=value") from None


def with_value(block: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    """``block`` with one value changed: ``["view_options", "flip"]`` reaches into a setting that is a mapping."""
    if len(keys) > 1:
        inner = block.get(keys[0])
        value = with_value(inner if isinstance(inner, Mapping) else {}, keys[1:], value)
    return {**block, keys[0]: value}
