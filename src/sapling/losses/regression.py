"""Losses on values: the student should give the teacher's numbers themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import check_pair, full_precision

ROUNDING, TINY = 4e-3, 1e-20


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


def standardize_channels(feature: Tensor) -> Tensor:
    """Each channel less its mean and divided by its standard deviation, over images and pixels of the batch.

    Args:
        feature: ``[B,C,H,W]``.

    Returns:
        The same shape in float32. A channel is 0 where it deviates by less than ``ROUNDING`` of its mean: in bfloat16 a
        constant with a little noise moves as much.
    """
    values = full_precision(feature)
    mean = values.mean(dim=(0, 2, 3), keepdim=True)
    centred = values - mean
    deviation = centred.square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
    is_constant = deviation <= ROUNDING * mean.abs() + TINY  # what is left is rounding; no answer stays none
    return torch.where(is_constant, torch.zeros_like(centred), centred / deviation)


def summed_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over all values of ``(student - teacher)^2``, mean over images: it grows with the size of the feature.

    Source: Yang et al. 2022 (MGD).

    Args:
        student: ``[B,..]``.
        teacher: the same shape.

    Raises:
        MethodError: the shapes differ.
    """
    return squared_error(student, teacher) * (student.numel() / student.shape[0])


def repeated_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over N copies of the teacher's channels of the mean squared error of one copy.

    Source: Liu, Li, Li, Yao 2023 (NORM): N times the mean squared error against the teacher's map repeated N
    times along the channels.

    Args:
        student: ``[B,N C,H,W]``; the first C channels are compared with the teacher, then the next C, ..
        teacher: ``[B,C,H,W]``.

    Raises:
        MethodError: the shapes differ in anything but a multiple of channels.
    """
    num_copies = max(1, student.shape[1] // teacher.shape[1])
    return num_copies * squared_error(student, teacher.repeat(1, num_copies, 1, 1))


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
