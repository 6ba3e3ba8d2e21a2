"""How much a teacher's answers on training images still say, against those on images it has not seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapling.evaluation.metrics import check_logits, expected_calibration_error, log_probabilities
from sapling.evaluation.multilabel import binary_cross_entropy, multilabel_metrics, probabilities_of


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """A teacher's answers to some images.

    Attributes:
        top1: share of right answers; the mean average precision where an image may have several labels.
        ece: expected calibration error, 15 bins.
        entropy: mean entropy of the answers, in nats; 0 means one-hot. Of several labels that of one label.
        num_images: how many.
        measure: what ``top1`` is called in records: ``top1`` or ``map``.
    """

    top1: float
    ece: float
    entropy: float
    num_images: int
    measure: str = "top1"

    def as_dict(self) -> dict[str, Any]:
        """For ``card.json``."""
        values = asdict(self)
        return {values.pop("measure"): values.pop("top1"), **values}


def soft_targets(logits: ArrayLike, labels: ArrayLike) -> SoftTargets:
    """Measure answers ``[n,K]`` to images with labels ``[n]``, or ``[n,K]`` 0 and 1.

    Raises:
        DataError: nothing to measure, or logits that are not finite.
    """
    if np.ndim(labels) == 2:
        measured = multilabel_metrics(logits, labels, np.asarray(logits).shape[-1])
        p = probabilities_of(np.asarray(logits))
        # The entropy of a sigmoid is its cross-entropy with itself.
        doubt = binary_cross_entropy(np.asarray(logits), p).mean()
        return SoftTargets(measured["map"], measured["ece"], float(doubt), measured["num_images"], "map")
    scores, truth = check_logits(logits, labels, np.asarray(logits).shape[-1])
    log_p = log_probabilities(scores)
    probabilities: NDArray[np.float64] = np.exp(log_p)
    right = scores.argmax(1) == truth
    entropy = -(probabilities * log_p).sum(1)
    return SoftTargets(
        float(right.mean()),
        expected_calibration_error(probabilities.max(1), right),
        float(entropy.mean()),
        len(truth),
    )


def memorised(train: SoftTargets, val: SoftTargets) -> bool:
    """Whether the teacher knows its training images by heart, so that its answers there are nearly one-hot."""
    return train.top1 >= 0.98 and train.top1 - val.top1 >= 0.05 and train.entropy < 0.25 * val.entropy
