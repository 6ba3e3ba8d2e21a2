"""The licence of weights, as their publisher states it: in config.json, or in the card (README.md) beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sapling.errors import ModelError
from sapling.models.hub import fetch

NOT_STATED = "not stated"
_LONGEST = 200


def licence_of(source: str, folder: Path, config: Mapping[str, Any]) -> str | None:
    """Licence of a saved network, or None where nobody says.

    Args:
        source: how the network was named; a card of the hub is fetched for ``hf-hub:`` names.
        folder: where its config.json lies.
        config: the content of config.json.
    """
    for place in (config.get("pretrained_cfg"), config):
        stated = place.get("license") if isinstance(place, Mapping) else None
        if isinstance(stated, str) and stated.strip():
            return " ".join(stated.split())[:_LONGEST]
    card = folder / "README.md"
    if source.startswith("hf-hub:"):
        with contextlib.suppress(ModelError):  # a card is not needed to use the weights
            card = Path(fetch(source.removeprefix("hf-hub:"), "README.md"))
    return _of_card(card)


def _of_card(card: Path) -> str | None:
    """``license: mit`` in the front matter of a card."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    start, _, rest = text.lstrip("\ufeff").partition("---\n")
    front, sign, _ = rest.partition("\n---")
    if start.strip() or not sign:
        return None
    try:
        content = yaml.safe_load(front)
    # of text that is no such number, date or name, the parser raises whatever Python does
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError):
        return None
    stated = content.get("license_name") or content.get("license") if isinstance(content, dict) else None
    if isinstance(stated, list):
        stated = ", ".join(map(str, stated))
    return " ".join(stated.split())[:_LONGEST] if isinstance(stated, str) and stated.strip() else None
