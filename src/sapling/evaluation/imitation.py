"""How much a teacher's answers say. Numpy, no torch; how near a student comes to them is :mod:`.fidelity`.

Shapes: n images, K classes. Where an image may have several labels each logit answers for itself (a sigmoid), and
means run over images and labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapling.evaluation.metrics import log_probabilities
from sapling.evaluation.multilabel import binary_cross_entropy, probabilities_of

FEWEST_PER_CLASS = 5
"""Images per class below which some renaming of classes fits by chance."""


def entropy(logits: ArrayLike, temperature: float = 1.0, *, multi_label: bool = False) -> float:
    """Mean entropy of ``softmax(logits / temperature)`` in nats; 0 means one-hot.

    An answer that says nothing has :func:`most_entropy`. Of several labels the mean entropy of one label.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    if multi_label:
        # The entropy of a sigmoid is its cross-entropy with itself.
        return float(binary_cross_entropy(scaled, probabilities_of(scaled)).mean())
    log_p = log_probabilities(scaled)
    return float(-(np.exp(log_p) * log_p).sum(1).mean())


def most_entropy(num_classes: int, *, multi_label: bool = False) -> float:
    """Entropy of an answer that says nothing: log K, or log 2 for each of several labels."""
    return float(np.log(2 if multi_label else num_classes))


def z_scores(logits: ArrayLike) -> NDArray[np.float64]:
    """Logits of each image with mean 0 and (unbiased) deviation 1, as standardised distillation softens them."""
    values = np.asarray(logits, np.float64)
    centred = values - values.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).sum(1, keepdims=True) / max(values.shape[1] - 1, 1))
    return np.asarray(centred / np.maximum(spread, 1e-12))


@dataclass(frozen=True, slots=True)
class Answers:
    """A teacher's answers to some images.

    Attributes:
        num_images: n.
        right: share of right answers; of several labels the share of labels that are right.
        confidence: mean probability of the answers that it gives; above ``right`` it is too sure.
        entropy: at T = 1, in nats.
        entropy_at_temperature: of what the student is asked to match, at the method's temperature.
        renamed: share of right answers after the renaming of classes that fits best; None, not looked at, where an
            image may have several labels, or where there are fewer than five images per class.
    """

    num_images: int
    right: float
    confidence: float
    entropy: float
    entropy_at_temperature: float
    renamed: float | None


def answers(logits: ArrayLike, truth: ArrayLike, *, temperature: float = 1.0, standardized: bool = False) -> Answers:
    """Measure a teacher's logits ``[n,K]`` against labels ``[n]``, or ``[n,K]`` 0 and 1 of several labels.

    Args:
        logits: of the teacher.
        truth: the data's labels.
        temperature: of the method.
        standardized: whether the method takes z-scores of the logits first.
    """
    scores, labels = np.asarray(logits), np.asarray(truth)
    several = labels.ndim == 2
    softened = z_scores(scores) if standardized and not several else scores
    if several:
        p = probabilities_of(scores)
        right, confidence = ((scores >= 0) == (labels > 0)).mean(), np.maximum(p, 1 - p).mean()
    else:
        right, confidence = (scores.argmax(1) == labels).mean(), np.exp(log_probabilities(scores).max(1)).mean()
    return Answers(
        len(scores),
        float(right),
        float(confidence),
        entropy(scores, multi_label=several),
        entropy(softened, temperature, multi_label=several),
        None
        if several or len(scores) < FEWEST_PER_CLASS * scores.shape[1]
        else _renamed(scores.argmax(1), labels, scores.shape[1]),
    )


def _renamed(predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> float:
    from scipy.optimize import linear_sum_assignment

    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(labels))
