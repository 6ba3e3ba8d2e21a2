"""What is measured and compared: of one class per image, or of several labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapling import methods
from sapling.config import RunConfig
from sapling.data.loader import Dataset
from sapling.data.sources import Source
from sapling.errors import ConfigError, UsageError
from sapling.evaluation.ranked import compare_rankings
from sapling.evaluation.verdict import AnyMeasure, Verdict, compare, primary_measure
from sapling.types import PairInfo

LONG = ("confusion", "roc", "calibration", "per_class_recall", "per_label_ap", "per_label_auc", "per_label_images")
"""Measures with more than one number: kept of the test split, not looked at on validation."""


def headline(measured: Mapping[str, Any]) -> str:
    """Name of the one measure that log lines show."""
    return "map" if "map" in measured else "top1"


def shown(measured: Mapping[str, Any]) -> str:
    """That measure in words."""
    return f"{100 * measured[headline(measured)]:.1f} %" + (" mAP" if "map" in measured else "")


def per_epoch(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of validation after every epoch."""
    names = ("map", "macro_f1", "bce") if "map" in measured else ("top1", "macro_f1", "nll")
    return {name: measured[name] for name in names}


def check_labels(config: RunConfig, source: Source, task: str) -> None:
    """Refuse settings that need one class per image where there may be several labels; before images are decoded.

    Raises:
        UsageError: the method, or another setting, needs one class per image.
    """
    if not source.multi_label:
        return
    name, options = config.method.name, config.method.options
    why = "these images may have several labels"
    if task == "distill":
        allowed = [n for n in methods.names() if n != "none" and methods.load_class(n).requires.multi_label]
        if not methods.requires(name, **options).multi_label:
            settings = " with these settings" if name in allowed else ""
            raise UsageError(
                f"method {name!r}{settings} needs one class per image, and {why}",
                where=source.location,
                allowed=f"methods for several labels: {', '.join(allowed)}",
                remedy="--method kd",
            )
        taps = methods.taps(name, **options)
        if not (taps.student or taps.teacher):
            info = PairInfo(num_classes=len(source.classes), num_samples=len(source.items), multi_label=True)
            try:
                methods.build(name, info, **options)
            except ConfigError as error:
                raise UsageError(error.what, where=source.location, remedy=error.remedy) from error
    if config.train.imbalance not in ("none", "class_weights"):
        raise UsageError(
            f"train.imbalance {config.train.imbalance} needs one class per image, and {why}",
            allowed="none, class_weights",
        )
    if config.evaluate.measure != "auto":
        raise UsageError(
            f"evaluate.measure {config.evaluate.measure} needs one class per image, and {why}",
            allowed="auto, which is the mean average precision here",
        )


def measure_of(config: RunConfig, data: Dataset) -> AnyMeasure:
    """The measure of the verdict, settled before the test split is opened."""
    if data.multi_label:
        return "map"
    if config.evaluate.measure != "auto":
        return config.evaluate.measure
    return primary_measure(np.bincount(data.labels("train"), minlength=data.num_classes))


def judge_students(
    control: NDArray[np.float32],
    method: NDArray[np.float32],
    truth: NDArray[np.int64],
    *,
    groups: list[str] | None,
    measure: AnyMeasure,
    confidence: float,
) -> Verdict:
    """Verdict on logits ``[S,n,K]`` on the test split."""
    if measure == "map":
        return compare_rankings(control, method, truth, groups=groups, confidence=confidence)
    return compare(
        control.argmax(2) == truth,
        method.argmax(2) == truth,
        labels=truth,
        groups=groups,
        measure=measure,
        confidence=confidence,
    )
