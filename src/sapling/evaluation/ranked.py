"""The verdict on images with several labels: mean average precision, seeds and images crossed.

Mean average precision is no mean over images, so ``d[s, i]`` of :mod:`sapling.evaluation.crossed` are here the
differences of the jackknife's influence values: what leaving out image i does to the mAP of the method's student of
seed s, less what it does to that of the control's. To first order mAP varies over test images as the mean of these
values does (Efron and Stein 1981; the jackknife variance errs upwards). The differences of seeds are those of the mAP
itself. An approximation: labels with a handful of test images have few influential images, and no linear term says all
of them. ``benchmarks/verdict_map.py`` measures how often two equal methods are told apart all the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapling.errors import UsageError
from sapling.evaluation.bootstrap import Interval, bootstrap_interval
from sapling.evaluation.crossed import Parts, make_layout, parts_of
from sapling.evaluation.metrics import expected_calibration_error
from sapling.evaluation.multilabel import (
    average_precision,
    binary_cross_entropy,
    check_targets,
    f1_scores,
    influence_on_map,
    probabilities_of,
)
from sapling.evaluation.verdict import Verdict, check_column, check_confidence, conclude

Array = NDArray[np.float64]


def compare_rankings(
    control_logits: ArrayLike,
    method_logits: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    method_name: str = "the distilled student",
    control_name: str = "the same student trained alone",
) -> Verdict:
    """Compare a method with its control by mean average precision, over the same seeds and the same test images.

    Args:
        control_logits: ``[S,n,K]``.
        method_logits: ``[S,n,K]``; row ``s`` has the seed of the control's row ``s``.
        targets: ``[n,K]`` 0 or 1.
        groups: ``[n]`` what images belong together; None if each stands alone.
        confidence: of the interval.
        method_name: how the statement calls the method.
        control_name: how the statement calls the control.

    Raises:
        UsageError: shapes, values or confidence cannot be used.
        DataError: there are no test images with a label, or logits that are not finite.
    """
    control, method = _logits(control_logits), _logits(method_logits)
    if control.shape != method.shape:
        raise UsageError(
            f"The control has shape {list(control.shape)}, the method {list(method.shape)}.",
            allowed="the same seeds and the same test images for both",
        )
    check_confidence(confidence)
    truth = np.asarray(targets)
    for logits in (*control, *method):
        truth = check_targets(logits, truth, control.shape[2])[1]
    num_images = len(truth)
    parts = take_rankings_apart(control, method, truth, check_column(groups, num_images, "groups"))
    names = (method_name, control_name)
    return conclude(
        parts, "map", confidence, num_images=num_images, has_groups=parts.num_groups < num_images, names=names
    )


def take_rankings_apart(
    control: Array, method: Array, targets: NDArray[np.int64], groups: NDArray[np.int64] | None = None
) -> Parts:
    """Parts of the variance of the difference of mAP; shapes as for :func:`compare_rankings`."""
    layout = make_layout(len(targets), groups=groups)
    gains = [_map(m, targets) - _map(c, targets) for c, m in zip(control, method, strict=True)]
    differences = np.stack(
        [influence_on_map(m, targets) - influence_on_map(c, targets) for c, m in zip(control, method, strict=True)]
    )
    # Influence values are those of single images times n, so that their mean over images is on the scale of mAP.
    summed = np.add.reduceat(differences[:, layout.order], layout.starts, axis=1)
    table = summed * (layout.num_groups / len(targets))
    differs = (np.abs(summed) > 1e-12).any(0)
    # The share of mAP that rests on an image: of every label that it has, one of the images with that label.
    occurs = targets.sum(0)
    weights = (targets / np.maximum(occurs, 1)).sum(1) / (occurs > 0).sum()
    return parts_of(
        np.array(gains),
        table,
        np.add.reduceat(weights[layout.order], layout.starts),
        np.asarray(differs.sum(), dtype=np.int64),
        np.asarray(not differs.any()),
    )


def label_intervals(
    control_logits: ArrayLike,
    method_logits: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Crossed bootstrap intervals of ``macro_f1``, ``bce`` and ``ece``; shapes as for :func:`compare_rankings`."""
    truth = np.asarray(targets)
    size = truth.shape[1]

    def packed(logits: ArrayLike) -> Array:
        """``[S,n,2K+1]``: probabilities, targets, and the mean cross-entropy of each image."""
        scores = _logits(logits)
        loss = binary_cross_entropy(scores, truth).mean(2, keepdims=True)
        return np.concatenate([probabilities_of(scores), np.broadcast_to(truth, scores.shape), loss], axis=2)

    def macro_f1(values: Array, _: NDArray[np.int64]) -> float:
        return f1_scores(values[:, :size] >= 0.5, values[:, size:-1])[1]

    def ece(values: Array, _: NDArray[np.int64]) -> float:
        return expected_calibration_error(values[:, :size].ravel(), values[:, size:-1].ravel() > 0)

    def bce(values: Array, _: NDArray[np.int64]) -> float:
        return float(values[:, -1].mean())

    control, method, images = packed(control_logits), packed(method_logits), np.arange(len(truth))
    how: dict[str, Any] = {"groups": groups, "confidence": confidence, "num_draws": num_draws, "seed": seed}
    statistics = {"macro_f1": macro_f1, "bce": bce, "ece": ece}
    found = {name: bootstrap_interval(one, control, method, images, **how) for name, one in statistics.items()}
    return {name: gain if name == "bce" else gain.within(-1.0, 1.0) for name, gain in found.items()}


def _logits(values: ArrayLike) -> Array:
    logits = np.asarray(values, dtype=np.float64)
    if logits.ndim == 2:
        logits = logits[None]
    if logits.ndim != 3:
        raise UsageError(f"The logits have shape {list(logits.shape)}.", allowed="[seeds, images, labels]")
    return logits


def _map(logits: Array, targets: NDArray[np.int64]) -> float:
    return float(np.nanmean(average_precision(logits, targets)))
