"""What the method changed in each class, with an interval.

The recall of a class is a mean over its images, so its gain has the interval of the verdict (:mod:`.crossed`), which is
honest about a handful of images, and not that of the bootstrap: a class of which no answer differs would have none.
With two or three seeds it may be wider than what can be; it is cut to what the intervals of the two recalls allow. In
simulations of equal methods (30 images, 1 to 3 seeds, accuracies of 60 to 97 %) that cost no coverage. Groups count
alike, as in the verdict. Of labels it is the average precision, by the jackknife of :mod:`.ranked`. These intervals are
read one by one: of 100 classes without any change some five lie beside zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapling.errors import UsageError
from sapling.evaluation.crossed import make_layout, read, take_apart
from sapling.evaluation.ranked import compare_rankings
from sapling.evaluation.verdict import Verdict, check_column, compare


@dataclass(frozen=True, slots=True)
class ClassGain:
    """Difference method - control of one class: recall, or average precision; None where no test image has it."""

    difference: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """JSON types: ``difference``, ``low``, ``high``."""
        return asdict(self)


def class_gains(
    control_logits: ArrayLike,
    method_logits: ArrayLike,
    truth: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
) -> list[ClassGain]:
    """Gain of each class.

    Args:
        control_logits: ``[S,n,K]``.
        method_logits: ``[S,n,K]``; row ``s`` has the seed of the control's row ``s``.
        truth: ``[n]`` class numbers, or ``[n,K]`` 0 and 1 of images with several labels.
        groups: ``[n]`` what images belong together; None if each stands alone.
        confidence: of each interval.

    Raises:
        UsageError: the shapes do not fit.
    """
    control, method, labels = np.asarray(control_logits), np.asarray(method_logits), np.asarray(truth)
    if control.shape != method.shape or control.ndim != 3 or labels.shape[:1] != control.shape[1:2]:
        raise UsageError(
            f"control {list(control.shape)}, method {list(method.shape)} and truth {list(labels.shape)} do not fit",
            allowed="control and method [seeds, images, classes], and truth of the same images",
        )
    members = None if groups is None else np.asarray(groups)
    found = []
    for k in range(control.shape[2]):
        verdict = _label(control, method, labels, k, members, confidence) if labels.ndim == 2 else None
        lowest, highest = -1.0, 1.0
        if labels.ndim == 1 and (own := labels == k).any():
            right = [arm[:, own].argmax(2) == k for arm in (control, method)]
            in_class = None if members is None else members[own]
            verdict = compare(*right, groups=in_class, confidence=confidence)
            (low, high), (method_low, method_high) = (_recall(arm, in_class, confidence) for arm in right)
            # no more than what the control leaves, nor than the method has
            lowest, highest = max(-high, method_low - 1.0), min(1.0 - low, method_high)
        found.append(
            ClassGain(verdict.difference, max(verdict.low, lowest), min(verdict.high, highest))
            if verdict
            else ClassGain(None, None, None)
        )
    return found


def _recall(right: NDArray[np.bool_], groups: NDArray[np.generic] | None, confidence: float) -> tuple[float, float]:
    """Interval of a recall, by the same model: what is right less nothing. ``right`` is ``[S,n]``."""
    num_images = right.shape[1]
    parts = take_apart(right, make_layout(num_images, groups=check_column(groups, num_images, "groups")))
    half_width = float(read(parts, confidence).half_width) if parts.num_groups > 1 else 1.0
    level = float(parts.difference)
    return max(level - half_width, 0.0), min(level + half_width, 1.0)


def _label(
    control: NDArray[np.floating],
    method: NDArray[np.floating],
    targets: NDArray[np.int64],
    k: int,
    groups: NDArray[np.generic] | None,
    confidence: float,
) -> Verdict | None:
    if not targets[:, k].any():
        return None
    part = slice(k, k + 1)
    return compare_rankings(
        control[..., part], method[..., part], targets[:, part], groups=groups, confidence=confidence
    )
