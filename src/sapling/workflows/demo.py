"""The settings of ``sapling demo``: scikit-learn's digits, end to end, about a minute on two cores."""

from __future__ import annotations

from typing import Any


def demo_blocks() -> dict[str, Any]:
    """Blocks of settings; the digits are 1,797 grey images of 8x8 pixels, shown at 32."""
    return {
        "data": {"source": "digits", "img_size": 32, "views": "shift"},
        "teacher": {"model": "resnet18", "epochs": 12},
        "student": {"model": "cnn3"},
        "method": {"name": "dist"},
        "train": {"epochs": 8, "num_seeds": 5},  # its page stands in the README: a claim needs five
    }
