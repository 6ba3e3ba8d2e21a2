"""How close a student is to its teacher: same answers, same probabilities, same geometry of the embeddings.

Fidelity is no accuracy: a student may answer as its teacher does and be as wrong (Stanton et al. 2021, "Does knowledge
distillation really work?").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapling.errors import UsageError
from sapling.evaluation.metrics import log_probabilities

Floats = NDArray[np.float64]
MIN_IMAGES = 4
"""The unbiased estimate of HSIC divides by n (n - 3)."""


def agreement(student_logits: ArrayLike, teacher_logits: ArrayLike, *, multi_label: bool = False) -> float:
    """Share of images with the same answer as the teacher's: the same class, or the same set of labels.

    Args:
        student_logits: ``[n,K]``.
        teacher_logits: ``[n,K]``.
        multi_label: whether an image may have several labels (a logit of 0 or more gives one).
    """
    student, teacher = _pair(student_logits, teacher_logits, "logits")
    if multi_label:
        return float(((student >= 0) == (teacher >= 0)).all(1).mean())
    return float((student.argmax(1) == teacher.argmax(1)).mean())


def kl_to_teacher(student_logits: ArrayLike, teacher_logits: ArrayLike, *, multi_label: bool = False) -> float:
    """KL(teacher || student) of the probabilities at temperature 1, mean over images, in nats.

    Of several labels per image it is that of each label's sigmoid, mean over images and labels.

    Args:
        student_logits: ``[n,K]``.
        teacher_logits: ``[n,K]``.
        multi_label: whether an image may have several labels.
    """
    student, teacher = _pair(student_logits, teacher_logits, "logits")
    if multi_label:
        # log of the sigmoid and of its complement, without overflow
        student, teacher = (np.stack([-np.logaddexp(0, -x), -np.logaddexp(0, x)], -1) for x in (student, teacher))
        return float((np.exp(teacher) * (teacher - student)).sum(-1).mean())
    log_student, log_teacher = log_probabilities(student), log_probabilities(teacher)
    return float((np.exp(log_teacher) * (log_teacher - log_student)).sum(-1).mean())


def linear_cka(student: ArrayLike, teacher: ArrayLike, *, debiased: bool = True) -> float | None:
    """Linear centred kernel alignment of two embeddings of the same images (Kornblith et al. 2019, equation 6).

    1: the same up to rotation and scale; 0: nothing in common. The paper's estimate (``debiased=False``) is far above
    0 for unrelated embeddings whose dimension is not small beside the number of images, which is the ordinary case
    here. So HSIC is estimated without bias (Song et al. 2012, equation 4), as Nguyen et al. 2021 do; the result may
    come out slightly below 0.

    Args:
        student: ``[n,D]``.
        teacher: ``[n,E]``, rows of the same images.
        debiased: see above.

    Returns:
        The alignment; None where an embedding does not vary, or for fewer than 4 images.

    Raises:
        UsageError: the shapes do not fit.
    """
    first, second = np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise UsageError(
            f"embeddings {list(first.shape)} and {list(second.shape)} do not fit", allowed="[n,D] and [n,E]"
        )
    if len(first) < MIN_IMAGES or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    # CKA knows no scale; so no product can overflow, and "does not vary" is one number for all networks.
    grams = [x @ x.T for x in map(_unit_scale, (first, second))]
    hsic = _unbiased_hsic if debiased else _biased_hsic
    own = [hsic(gram, gram) for gram in grams]
    if min(own) <= 1e-12:
        return None
    return float(hsic(*grams) / np.sqrt(own[0] * own[1]))


def fidelity(student_logits: ArrayLike, teacher_logits: ArrayLike, *, multi_label: bool = False) -> dict[str, Any]:
    """``agreement`` and ``kl`` of a student on a split; shapes as above."""
    return {
        "agreement": agreement(student_logits, teacher_logits, multi_label=multi_label),
        "kl": kl_to_teacher(student_logits, teacher_logits, multi_label=multi_label),
    }


def _unit_scale(values: Floats) -> Floats:
    centred = values - values.mean(0)
    scale = np.abs(centred).max() if centred.size else 0.0
    # what is left of a constant after rounding is no variation
    floor = 1e-9 * max(float(np.abs(values).max(initial=0.0)), 1e-300)
    return np.asarray(centred / scale) if scale > floor else np.zeros_like(centred)


def _biased_hsic(first: Floats, second: Floats) -> float:
    # of centred rows: the Gram matrices are centred already
    return float((first * second).sum() / (len(first) - 1) ** 2)


def _unbiased_hsic(first: Floats, second: Floats) -> float:
    n = len(first)
    a, b = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    rows_a, rows_b = a.sum(0), b.sum(0)
    whole = (a * b).sum() + rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2)) - 2 * (rows_a @ rows_b) / (n - 2)
    return float(whole / (n * (n - 3)))


def _pair(student: ArrayLike, teacher: ArrayLike, name: str) -> tuple[Floats, Floats]:
    first, second = np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise UsageError(
            f"{name} of student {list(first.shape)} and teacher {list(second.shape)} do not fit", allowed="both [n,K]"
        )
    return first, second
