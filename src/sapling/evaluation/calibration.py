"""Reliability: how often answers of a stated certainty are right (Guo et al. 2017, section 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapling.errors import UsageError


def bin_numbers(confidence: NDArray[np.float64], num_bins: int) -> NDArray[np.int64]:
    """Number of the equally wide bin of each confidence in [0,1], closed on the right as in the paper.

    (0, 1/15], (1/15, 2/15] .. for 15 bins; 0 itself is in the first.
    """
    return np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], num_bins: int) -> dict[str, Any]:
    """What a reliability diagram shows, as JSON types; bin b holds confidences in (b / num_bins, (b + 1) / num_bins].

    Args:
        confidence: ``[n]`` in [0,1]: the probability of the answer; or of each label, where there may be several.
        correct: ``[n]``: whether the answer is right; or whether the image has the label.
        num_bins: number of bins.

    Returns:
        ``count``, ``confidence`` and ``accuracy``, each ``[num_bins]``: answers in the bin, their mean confidence and
        the share of them that is right; None for the two of an empty bin. The mean of
        ``|confidence - accuracy|`` weighted by ``count`` is the expected calibration error.

    Raises:
        UsageError: no answers, shapes that differ, or fewer than one bin.
    """
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence) or num_bins < 1:
        raise UsageError(
            f"confidence {list(confidence.shape)} and correct {list(correct.shape)} in {num_bins} bins cannot be used",
            allowed="both [n], one answer or more, in one bin or more",
        )
    bins = bin_numbers(confidence, num_bins)
    count = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, correct))
    certainty, right = ([float(s / c) if c else None for s, c in zip(total, count, strict=True)] for total in sums)
    return {"count": count.tolist(), "confidence": certainty, "accuracy": right}
