"""Losses that take the student's features for the mean of a normal distribution of the teacher's."""

from __future__ import annotations

from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision


def gaussian_nll(student_mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """``mean of ((mean - teacher)^2 / variance + log variance) / 2``, in nats, without the constant log(2 pi) / 2.

    The variational bound of Ahn et al. 2019 (VID): the better the student's features foretell the teacher's, the more
    they know of them. It may be below 0.

    Args:
        student_mean: ``[B,C,..]``, what is foretold.
        teacher: the same shape.
        variance: ``[C]``, above 0.

    Raises:
        MethodError: the shapes do not fit.
    """
    if student_mean.shape != teacher.shape or teacher.dim() < 2 or variance.shape != teacher.shape[1:2]:
        raise MethodError(
            f"the foretold mean has the shape {list(student_mean.shape)}, the teacher's feature {list(teacher.shape)}, "
            f"the variance {list(variance.shape)}",
            allowed="one shape [B,C,..] for both features, and a variance [C]",
        )
    spread = variance.view(-1, *[1] * (teacher.dim() - 2))
    gap = full_precision(student_mean) - full_precision(teacher)
    return 0.5 * (gap.square() / spread + spread.log()).mean()
