"""Losses on values: the student should give the teacher's numbers themselves."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import check_pair, full_precision


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of ``(student - teacher)^2``.

    Args:
        student: any shape.
        teacher: the same shape.

    Raises:
        MethodError: the shapes differ; they are not broadcast, as that would compare the wrong numbers in silence.
    """
    if student.shape != teacher.shape:
        raise MethodError(
            f"the student's feature has the shape {list(student.shape)}, the teacher's {list(teacher.shape)}",
            allowed="one shape for both",
            remedy="project the student's feature to the teacher's channels",
        )
    return F.mse_loss(full_precision(student), full_precision(teacher))


def cosine_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images and positions of 1 - cos between the channels of student and teacher: in [0,2].

    Args:
        student: ``[B,C,..]``; channels are axis 1, any positions behind it.
        teacher: the same shape.

    Raises:
        MethodError: the shapes differ.
    """
    check_pair(student, teacher, "features")
    return 1 - F.cosine_similarity(full_precision(student), full_precision(teacher), dim=1).mean()
