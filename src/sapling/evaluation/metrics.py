"""Measures of one classifier on one split, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from sapling.errors import DataError, UsageError
from sapling.evaluation.calibration import bin_numbers, reliability

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sapling.types import Batch, Outputs

NUM_CALIBRATION_BINS = 15
NUM_ROC_POINTS = 101


def collect_logits(
    model: Callable[[Tensor], Outputs],
    batches: Iterable[Batch],
    *,
    autocast: torch.dtype | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run ``model`` over ``batches`` in eval mode, without gradient, and put it back into its mode.

    Args:
        model: images ``[B,C,H,W]`` to ``Outputs``.
        batches: labelled batches, on the device of the model.
        autocast: precision to run under, ``torch.bfloat16`` for example; None leaves it as it is.

    Returns:
        Logits ``[n,K]`` float32 and labels ``[n]``, in the order of the batches; of images that may have several
        labels ``[n,K]``, 0 and 1.

    Raises:
        DataError: there are no batches, or they have no labels.
    """
    import torch

    module = model if isinstance(model, torch.nn.Module) else None
    # Each part has its own mode: a frozen teacher may be in eval mode inside a module that trains.
    modes = [(part, part.training) for part in module.modules()] if module is not None else []
    all_logits: list[NDArray[np.float32]] = []
    all_labels: list[NDArray[np.int64]] = []
    try:
        if module is not None:
            module.eval()
        # no_grad and not inference_mode: taps compare version counters, which inference tensors do not have.
        with torch.no_grad():
            for batch in batches:
                truth = batch.labels if batch.labels is not None else batch.targets
                if truth is None:
                    raise DataError(
                        "A batch without labels cannot be evaluated.",
                        allowed="batches with one label per image",
                    )
                with torch.autocast(batch.images.device.type, dtype=autocast, enabled=autocast is not None):
                    logits = model(batch.images).logits
                all_logits.append(logits.float().cpu().numpy())
                all_labels.append(truth.cpu().numpy().astype(np.int64))
    finally:
        for part, was_training in modes:
            part.training = was_training
    if not all_logits:
        raise DataError("There is nothing to evaluate: the split has no images.")
    return np.concatenate(all_logits), np.concatenate(all_labels)


def confusion_matrix(predictions: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count ``[K,K]``; rows are true classes, columns are predicted ones."""
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def macro_scores(confusion: NDArray[np.int64]) -> tuple[float, float, float]:
    """Macro precision, recall and F1: plain means over the classes that have test images.

    A class that is never predicted has precision 0.
    """
    hits = np.diag(confusion).astype(np.float64)
    actual, predicted = confusion.sum(1), confusion.sum(0)
    recall = hits / np.maximum(actual, 1)
    precision = hits / np.maximum(predicted, 1)
    f1 = 2 * hits / np.maximum(actual + predicted, 1)
    present = actual > 0
    return float(precision[present].mean()), float(recall[present].mean()), float(f1[present].mean())


def log_probabilities(logits: NDArray[np.generic]) -> NDArray[np.float64]:
    """Log-softmax over the last axis, in float64."""
    scores = np.asarray(logits, dtype=np.float64)
    scores = scores - scores.max(-1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(-1, keepdims=True)), dtype=np.float64)


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], num_bins: int = NUM_CALIBRATION_BINS
) -> float:
    """Average the gap of confidence and accuracy over equally wide bins (Guo et al. 2017, equation 3)."""
    gaps = np.bincount(bin_numbers(confidence, num_bins), weights=confidence - correct, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def label_ranks(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank the true class, 0 the highest; of equal logits the lower class comes first, as in argmax."""
    own = np.take_along_axis(logits, labels[:, None], 1)
    before = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return np.asarray(((logits > own) | before).sum(1), dtype=np.int64)


def binary_auc(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    """Area under the ROC curve: share of pairs of both classes that ``scores [n]`` rank rightly; a tie counts half.

    None where all images are of one class.
    """
    positive = int((labels > 0).sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return None
    wins = rankdata(scores)[labels > 0].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * negative))


def roc_points(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """ROC curve: the share of positives found at 0, 1, .. 100 % of false alarms, ``[101]``.

    Between the thresholds that ``scores [n]`` allow it is a straight line. None where all images are of one class.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores come together
    found = np.cumsum(labels[order] > 0)[ends]
    alarms = ends + 1 - found
    if not found[-1] or not alarms[-1]:
        return None
    places = np.linspace(0, 1, NUM_ROC_POINTS)
    curve = np.interp(places, np.append(0, alarms / alarms[-1]), np.append(0, found / found[-1]))
    return np.asarray(curve, dtype=np.float64)


def check_logits(logits: ArrayLike, labels: ArrayLike, num_classes: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Logits ``[n,K]`` and labels ``[n]`` as arrays.

    Raises:
        DataError: nothing to measure, labels out of range, or logits that are not finite.
        UsageError: the shapes do not fit.
    """
    scores, truth = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or scores.shape[1] != num_classes or truth.shape != scores.shape[:1]:
        raise UsageError(
            f"Logits {list(scores.shape)} and labels {list(truth.shape)} do not fit {num_classes} classes.",
            allowed=f"logits [n, {num_classes}] and labels [n]",
        )
    if not len(truth):
        raise DataError("There is nothing to measure: the split has no images.")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= num_classes:
        raise DataError(
            f"Labels go from {truth.min()} to {truth.max()}.",
            allowed=f"whole numbers from 0 to {num_classes - 1}",
        )
    broken = ~np.isfinite(scores).all(1)
    if broken.any():
        raise DataError(
            f"{int(broken.sum())} of {len(truth)} images have logits that are not finite.",
            where=f"first in image {int(broken.argmax())}",
            remedy="the network diverged or its weights are damaged: train again with a lower learning rate",
        )
    return scores, truth.astype(np.int64)


def classification_metrics(logits: ArrayLike, labels: ArrayLike, num_classes: int) -> dict[str, Any]:
    """All measures of one classifier on one split, as JSON types.

    Macro means run over the classes that have images here; ``per_class_recall`` is None for the others.
    Shares are in [0,1].

    Args:
        logits: ``[n,K]``.
        labels: ``[n]``, class numbers; or ``[n,K]`` 0 and 1 of images with several labels, whose measures are those
            of :func:`sapling.evaluation.multilabel.multilabel_metrics`.
        num_classes: K.

    Returns:
        ``top1``, ``top5`` (None unless K > 5), ``macro_f1``, ``macro_precision``, ``macro_recall``,
        ``worst_class_recall`` (of the classes that have images here), ``auc`` (area under the ROC curve; None unless
        K is 2 and both classes have images), ``roc`` (its curve, see :func:`roc_points`; only where there is an
        ``auc``), ``nll`` (nats), ``ece`` (15 bins), ``calibration`` (see
        :func:`sapling.evaluation.calibration.reliability`), ``per_class_recall`` ``[K]``, ``confusion`` ``[K,K]``
        (rows true) and ``num_images``.

    Raises:
        DataError: nothing to measure, labels out of range, or logits that are not finite.
        UsageError: the shapes do not fit.
    """
    if np.ndim(labels) == 2:
        from sapling.evaluation.multilabel import multilabel_metrics

        return multilabel_metrics(logits, labels, num_classes)
    scores, truth = check_logits(logits, labels, num_classes)
    ranks = label_ranks(scores, truth)
    log_p = log_probabilities(scores)
    predictions = scores.argmax(1)
    confusion = confusion_matrix(predictions, truth, num_classes)
    precision, recall, f1 = macro_scores(confusion)
    counts = confusion.sum(1)
    hits = np.diag(confusion)
    confidence = np.exp(log_p.max(1))
    margin = scores[:, 1].astype(np.float64) - scores[:, 0] if num_classes == 2 else None
    curve = None if margin is None else roc_points(margin, truth)
    return {
        "top1": float((ranks == 0).mean()),
        "top5": float((ranks < 5).mean()) if num_classes > 5 else None,
        "macro_f1": f1,
        "macro_precision": precision,
        "macro_recall": recall,
        "worst_class_recall": float((hits / np.maximum(counts, 1))[counts > 0].min()),
        "auc": None if margin is None else binary_auc(margin, truth),
        **({} if curve is None else {"roc": curve.round(4).tolist()}),
        "nll": float(-np.take_along_axis(log_p, truth[:, None], 1).mean()),
        "ece": expected_calibration_error(confidence, ranks == 0),
        "calibration": reliability(confidence, ranks == 0, NUM_CALIBRATION_BINS),
        "per_class_recall": [float(h / c) if c else None for h, c in zip(hits, counts, strict=True)],
        "confusion": confusion.tolist(),
        "num_images": len(truth),
    }
