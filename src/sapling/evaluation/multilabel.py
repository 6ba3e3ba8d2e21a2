"""Measures of a classifier of several labels per image, in numpy; and what each image does to them.

A label is given where its probability, the sigmoid of its logit, is 0.5 or more. Rankings (average precision, area
under the ROC curve) need no such threshold. Labels that no test image has are in no mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from sapling.errors import DataError, UsageError
from sapling.evaluation.calibration import reliability
from sapling.evaluation.metrics import NUM_CALIBRATION_BINS, expected_calibration_error, roc_points

Floats = NDArray[np.float64]


def average_precision(logits: NDArray[Any], targets: NDArray[Any]) -> Floats:
    """``[K]``: for each label the mean over its images of the precision at their rank; NaN for one without images.

    Of equal scores all count as named together, as in scikit-learn.

    Args:
        logits: ``[n,K]``.
        targets: ``[n,K]`` 0 or 1.
    """
    found = np.full(logits.shape[1], np.nan)
    for label in range(logits.shape[1]):
        order, last, hits = _ranking(logits[:, label], targets[:, label])
        if hits[-1]:
            positive = targets[order, label] > 0
            found[label] = (hits[last] / (last + 1.0))[positive].mean()
    return found


def influence_on_map(logits: NDArray[Any], targets: NDArray[Any]) -> Floats:
    """``[n]``: what each image does to the mean average precision: ``(n - 1) (mAP - mAP without the image)``.

    The jackknife's influence values: mAP plus one of them is the pseudo-value of that image. A label that would have
    no image left is in the mean no more.

    Args:
        logits: ``[n,K]``.
        targets: ``[n,K]`` 0 or 1.
    """
    num, num_labels = logits.shape
    without = np.full((num, num_labels), np.nan)
    for label in range(num_labels):
        order, last, hits = _ranking(logits[:, label], targets[:, label])
        total = hits[-1]
        if not total:
            continue
        positive = targets[order, label] > 0
        counted, right = last + 1.0, hits[last].astype(np.float64)
        # Sums over positives at the places 0..k of the precision there: as it is, one image less, one positive less.
        as_it_is = _cumulated(np.where(positive, right / counted, 0.0))
        fewer = np.maximum(counted - 1, 1)
        less_one = _cumulated(np.where(positive, right / fewer, 0.0))
        less_positive = _cumulated(np.where(positive, (right - 1) / fewer, 0.0))
        # Those that rank above the image keep their precision; its own tie group and all below it lose it.
        start = np.searchsorted(last, last)
        above = as_it_is[start]
        gone = np.where(
            positive,
            (above + less_positive[-1] - less_positive[start] - (right - 1) / fewer) / max(total - 1, 1),
            (above + less_one[-1] - less_one[start]) / total,
        )
        if total == 1:
            gone[positive] = np.nan
        without[order, label] = gone
    whole = average_precision(logits, targets)
    remaining = np.isfinite(without)
    counts = remaining.sum(1)
    rest = np.where(remaining, without, 0.0).sum(1) / np.maximum(counts, 1)
    return np.where(counts > 0, (num - 1) * (np.nanmean(whole) - rest), 0.0)


def area_under_roc(logits: NDArray[Any], targets: NDArray[Any]) -> Floats:
    """``[K]``: the share of pairs with and without a label that are ranked rightly; NaN where there are no pairs."""
    ranks = rankdata(logits, axis=0)
    positive = targets.sum(0).astype(np.float64)
    negative = len(targets) - positive
    pairs = positive * negative
    wins = (ranks * targets).sum(0) - positive * (positive + 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def probabilities_of(logits: NDArray[Any]) -> Floats:
    """Sigmoid, in float64."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64))))


def binary_cross_entropy(logits: NDArray[Any], targets: NDArray[Any]) -> Floats:
    """``[...]`` in nats, of each logit."""
    scores = np.asarray(logits, dtype=np.float64)
    return np.asarray(np.logaddexp(0.0, scores) - scores * targets)


def f1_scores(given: NDArray[Any], targets: NDArray[Any]) -> tuple[float, float]:
    """Micro and macro F1 of labels given, ``[n,K]`` 0 or 1; macro over the labels that occur."""
    hits = ((given > 0) & (targets > 0)).sum(0)
    named, there = (given > 0).sum(0), (targets > 0).sum(0)
    micro = 2.0 * hits.sum() / max(int((named + there).sum()), 1)
    f1 = 2.0 * hits / np.maximum(named + there, 1)
    return float(micro), float(f1[there > 0].mean()) if (there > 0).any() else 0.0


def multilabel_metrics(logits: ArrayLike, targets: ArrayLike, num_classes: int) -> dict[str, Any]:
    """All measures of one classifier of several labels per image on one split, as JSON types.

    Args:
        logits: ``[n,K]``.
        targets: ``[n,K]`` 0 or 1.
        num_classes: K.

    Returns:
        ``map`` (mean average precision, over the labels that occur), ``auc`` (mean area under the ROC curve), ``roc``
        (the mean of these curves, see :func:`sapling.evaluation.metrics.roc_points`),
        ``micro_f1`` and ``macro_f1`` at 0.5, ``same_labels`` (share of images with exactly the right labels), ``bce``
        (nats, mean over images and labels), ``ece`` (of all probabilities, 15 bins), ``calibration`` (the same bins),
        ``per_label_ap``, ``per_label_auc`` and ``per_label_images``, each ``[K]``, None where a label does not occur,
        and ``num_images``.

    Raises:
        DataError: nothing to measure, or logits that are not finite.
        UsageError: the shapes do not fit.
    """
    scores, truth = check_targets(logits, targets, num_classes)
    ap, auc = average_precision(scores, truth), area_under_roc(scores, truth)
    curves = [c for one, there in zip(scores.T, truth.T, strict=True) if (c := roc_points(one, there)) is not None]
    probabilities = probabilities_of(scores)
    given = scores >= 0
    micro, macro = f1_scores(given, truth)
    return {
        "map": float(np.nanmean(ap)),
        "auc": float(np.nanmean(auc)) if np.isfinite(auc).any() else None,
        **({"roc": np.mean(curves, axis=0).round(4).tolist()} if curves else {}),
        "micro_f1": micro,
        "macro_f1": macro,
        "same_labels": float((given == (truth > 0)).all(1).mean()),
        "bce": float(binary_cross_entropy(scores, truth).mean()),
        "ece": expected_calibration_error(probabilities.ravel(), truth.ravel() > 0),
        "calibration": reliability(probabilities.ravel(), truth.ravel() > 0, NUM_CALIBRATION_BINS),
        "per_label_ap": _listed(ap),
        "per_label_auc": _listed(auc),
        "per_label_images": truth.sum(0).tolist(),
        "num_images": len(truth),
    }


def check_targets(logits: ArrayLike, targets: ArrayLike, num_classes: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Logits and targets ``[n,K]`` as arrays.

    Raises:
        DataError: nothing to measure, no label occurs, or logits that are not finite.
        UsageError: the shapes or values do not fit.
    """
    scores, truth = np.asarray(logits), np.asarray(targets)
    if scores.ndim != 2 or scores.shape[1] != num_classes or truth.shape != scores.shape:
        raise UsageError(
            f"Logits {list(scores.shape)} and targets {list(truth.shape)} do not fit {num_classes} labels.",
            allowed=f"both [n, {num_classes}]",
        )
    if not np.isin(truth, (0, 1)).all():
        raise UsageError("The targets hold values other than 0 and 1.")
    if not truth.any():
        raise DataError("There is nothing to measure: no image of the split has a label.")
    broken = ~np.isfinite(scores).all(1)
    if broken.any():
        raise DataError(
            f"{int(broken.sum())} of {len(truth)} images have logits that are not finite.",
            where=f"first in image {int(broken.argmax())}",
            remedy="the network diverged or its weights are damaged: train again with a lower learning rate",
        )
    return scores, truth.astype(np.int64)


def _listed(values: Floats) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _ranking(scores: NDArray[Any], truth: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Order from the highest score, last place of each place's tie group, and positives up to each place."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    last = ends[np.searchsorted(ends, np.arange(len(ranked)))]
    return order, last, np.cumsum(truth[order] > 0)


def _cumulated(values: Floats) -> Floats:
    """Sums before each place, and of all at the end: ``[n + 1]``."""
    return np.concatenate([np.zeros(1), np.cumsum(values)])
