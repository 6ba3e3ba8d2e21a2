"""What keeps the fingerprint of settings: which came after the first runs, and which are written in two ways."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# With what they were before they could be set. At these defaults the first runs go on, and print their results.
YOUNGER: dict[str, dict[str, Any]] = {
    "data": {
        "on_bad_image": "skip",
        "split_file": None,
        "image_column": "image",
        "label_column": "label",
        "group_column": None,
        "view_options": {},
        "mixup": 0.0,
        "cutmix": 0.0,
        "mix_share": 1.0,
        "bands": None,
        "value_range": None,
        "multi_label": "auto",
    },
    "train": {
        "ema_decay": None,
        "imbalance": "none",
        "imbalance_power": 1.0,
        "layer_decay": None,
        "half_size_share": 0.0,
    },
    "teacher": {
        "recipe": "plain",
        "views": None,
        "mixup": None,
        "cutmix": None,
        "ema_decay": None,
        "freeze_backbone": False,
        "layer_decay": None,
        "img_size": None,
        "mean": None,
        "std": None,
        "num_teachers": 1,
        "symmetrise": False,
        "cross_fit": False,
        "cache": "auto",
    },
    "student": {"freeze_backbone": False},
    "deploy": {"latency_seconds": 1.0},
    "evaluate": {"tuning_trials": {"control": 0, "method": 0}},
}


def with_floats(settings: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """Whole numbers as floats (alpha: 1 and alpha: 1.0 are one setting), in the blocks of ``parts`` too."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key in parts and isinstance(value, Mapping):
            value = with_floats(value, ())
        found[key] = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return found
