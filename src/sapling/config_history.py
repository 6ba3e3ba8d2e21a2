"""Settings that came after the first runs, with what they were before they could be set."""

from __future__ import annotations

from typing import Any

# At their defaults those runs go on, and print their results, as before.
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
    "train": {"ema_decay": None, "imbalance": "none", "imbalance_power": 1.0, "layer_decay": None},
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
    },
    "student": {"freeze_backbone": False},
    "deploy": {"latency_seconds": 1.0},
}
