"""Losses on correlation: what is learned is the order and relative size of answers, not their values.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sapling.losses.checks import check_pair, check_temperature, full_precision


def pearson(first: Tensor, second: Tensor, dim: int, eps: float = 1e-8, *, center: bool = True) -> Tensor:
    """Compute Pearson's correlation along ``dim``: in [-1,1], and 0 where one side is constant.

    Without ``center`` it is the cosine of the angle between the values as they are.

    ``eps`` is added to the product of the two norms, as in the authors' code of DIST.

    Args:
        first: any shape.
        second: the same shape.
        dim: the axis along which values are compared; it disappears.
        eps: keeps constant values finite.
        center: take the means away first.
    """
    if center:
        first, second = (values - values.mean(dim=dim, keepdim=True) for values in (first, second))
    norms = torch.linalg.vector_norm(first, dim=dim) * torch.linalg.vector_norm(second, dim=dim)
    correlation: Tensor = (first * second).sum(dim=dim) / (norms + eps)
    return correlation


def inter_class(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    center: bool = True,
    multi_label: bool = False,
) -> Tensor:
    """``T^2 * (1 - mean over images of pearson over classes)`` of the softened probabilities.

    The inter-class relation of Huang et al. 2022 (DIST): does each image rank classes as for the teacher?

    Args:
        student_logits: ``[B,K]``.
        teacher_logits: ``[B,K]``.
        temperature: T, one number; T^2 is included, so T = 4 is up to 16 times larger than T = 1.
        center: False compares the angle of the probabilities instead.
        multi_label: each logit answers for itself: its probability is a sigmoid.

    Raises:
        MethodError: the shapes differ, or the temperature is not above 0.
    """
    student, teacher, scale = _softened(student_logits, teacher_logits, temperature, multi_label=multi_label)
    return scale * (1 - pearson(student, teacher, dim=1, center=center).mean())


def intra_class(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    center: bool = True,
    multi_label: bool = False,
) -> Tensor:
    """``T^2 * (1 - mean over classes of pearson over images)`` of the softened probabilities.

    The intra-class relation of Huang et al. 2022 (DIST): does each class rank images as for the teacher?
    Its value depends on the batch: below about 8 images it says little; with 1 it is T^2 without gradient.

    Args:
        student_logits: ``[B,K]``.
        teacher_logits: ``[B,K]``.
        temperature: T, one number; T^2 is included.
        center: False compares the angle of the probabilities instead.
        multi_label: each logit answers for itself: its probability is a sigmoid.

    Raises:
        MethodError: the shapes differ, or the temperature is not above 0.
    """
    student, teacher, scale = _softened(student_logits, teacher_logits, temperature, multi_label=multi_label)
    return scale * (1 - pearson(student, teacher, dim=0, center=center).mean())


def class_similarity(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0, mask: Tensor | None = None
) -> Tensor:
    """``|P_s^T P_s - P_t^T P_t|^2 / K`` of the softened probabilities ``P [B,K]``: which classes are answered together.

    Source: Jin, Wang, Lin 2023 (MLKD), class correlation. There is no T^2. Its value grows with the batch.

    Args:
        student_logits: ``[B,K]``.
        teacher_logits: ``[B,K]``.
        temperature: T, one number.
        mask: ``[K]``, weight of each class: each pair counts by that of its second; None: all count 1.

    Raises:
        MethodError: the shapes differ, or the temperature is not above 0.
    """
    student, teacher, _ = _softened(student_logits, teacher_logits, temperature)
    return _gram_gap(student.mT, teacher.mT, mask)


def image_similarity(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0, mask: Tensor | None = None
) -> Tensor:
    """``|P_s P_s^T - P_t P_t^T|^2 / B`` of the softened probabilities ``P [B,K]``: which images are answered alike.

    Source: Jin, Wang, Lin 2023 (MLKD), batch correlation. There is no T^2.

    Args:
        student_logits: ``[B,K]``.
        teacher_logits: ``[B,K]``.
        temperature: T, one number.
        mask: ``[B]``, weight of each image: each pair counts by that of its second; None: all count 1.

    Raises:
        MethodError: the shapes differ, or the temperature is not above 0.
    """
    student, teacher, _ = _softened(student_logits, teacher_logits, temperature)
    return _gram_gap(student, teacher, mask)


def _gram_gap(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Squared difference of the products of all pairs of rows, summed, over the number of rows."""
    gaps = (student @ student.mT - teacher @ teacher.mT).square()
    return (gaps if mask is None else gaps * mask).sum() / len(gaps)


def _softened(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor, *, multi_label: bool = False
) -> tuple[Tensor, Tensor, float | Tensor]:
    check_pair(student_logits, teacher_logits)
    check_temperature(temperature)
    student, teacher = (full_precision(logits) / temperature for logits in (student_logits, teacher_logits))
    if multi_label:
        return torch.sigmoid(student), torch.sigmoid(teacher), temperature**2
    return torch.softmax(student, dim=1), torch.softmax(teacher, dim=1), temperature**2
