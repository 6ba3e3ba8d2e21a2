"""Distillation methods. Listing and checking import no torch; building a method does.

One file per method: its name is the name in settings, on the command line and in the docs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sapling.methods.registry import build, catalogue, latent_shapes, load_class, names, parts, requires, taps
from sapling.methods.validate import check_config

if TYPE_CHECKING:
    from sapling.methods.base import Method, MethodConfig, Requires
    from sapling.methods.labelloss import LabelLoss, make_label_loss

__all__ = [
    "LabelLoss",
    "Method",
    "MethodConfig",
    "Requires",
    "build",
    "catalogue",
    "check_config",
    "latent_shapes",
    "load_class",
    "make_label_loss",
    "names",
    "parts",
    "requires",
    "taps",
]

_NEED_TORCH = {
    "LabelLoss": "labelloss",
    "Method": "base",
    "MethodConfig": "base",
    "Requires": "base",
    "make_label_loss": "labelloss",
}


def __getattr__(name: str) -> Any:
    """Import the base classes when they are asked for, as they need torch."""
    if name in _NEED_TORCH:
        return getattr(importlib.import_module(f"sapling.methods.{_NEED_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
