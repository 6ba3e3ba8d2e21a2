"""Losses that care less for values below 0, which the activation behind them will cut off."""

from __future__ import annotations

import torch
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision


def partial_distance(student_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
    """Squared distance to ``max(teacher, margin)`` that forgives a student below a target that is not above 0.

    The partial L2 of Heo et al. 2019 (OFD): both maps stand before the activation. Where the target is above 0 it must
    be met; where it is not, the student only has to be below it. The sum over channels and positions, mean over
    images: it grows with the size of the map (the authors divide by B outside).

    Args:
        student_map: ``[B,C,H,W]``, already of the teacher's channels.
        teacher_map: the same shape.
        margin: ``[C]``, not above 0: the most negative value that is asked of each channel.

    Raises:
        MethodError: the shapes do not fit.
    """
    if student_map.shape != teacher_map.shape or student_map.dim() != 4 or margin.shape != teacher_map.shape[1:2]:
        raise MethodError(
            f"student map has the shape {list(student_map.shape)}, teacher map {list(teacher_map.shape)}, margin "
            f"{list(margin.shape)}",
            allowed="one shape [B,C,H,W] for both maps, and a margin [C]",
        )
    student, teacher = full_precision(student_map), full_precision(teacher_map)
    target = torch.maximum(teacher, margin[:, None, None].to(teacher))
    counts = (student > target) | (target > 0)
    return ((student - target).square() * counts).sum() / len(student)


def negative_means(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over images and positions of the values below 0, ``[C]``, and how many there are, ``[C]``.

    Args:
        maps: ``[B,C,H,W]``.

    Returns:
        ``(means, counts)``; the mean of a channel without any is 0.
    """
    values = full_precision(maps)
    counts = (values < 0).sum(dim=(0, 2, 3))
    return values.clamp(max=0).sum(dim=(0, 2, 3)) / counts.clamp(min=1), counts
