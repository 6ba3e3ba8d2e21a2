"""Networks: make, save and load them, and tap their features. Importing it registers our own with timm."""

from __future__ import annotations

from sapling.models.build import Origin, origin_of
from sapling.models.create import count_macs, count_parameters, create_model, list_models, resolve_name
from sapling.models.load import LoadedModel, Preprocess, load_model, save_model
from sapling.models.tapped import TappedModel, stage_modules

__all__ = [
    "LoadedModel",
    "Origin",
    "Preprocess",
    "TappedModel",
    "count_macs",
    "count_parameters",
    "create_model",
    "list_models",
    "load_model",
    "origin_of",
    "resolve_name",
    "save_model",
    "stage_modules",
]
