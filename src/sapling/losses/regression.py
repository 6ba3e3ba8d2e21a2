"""Losses on values: the student should give the teacher's numbers themselves."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision


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
