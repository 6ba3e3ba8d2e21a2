"""Losses between feature maps at several resolutions at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision


def hierarchical_context(student_map: Tensor, teacher_map: Tensor, sizes: Sequence[int] = (4, 2, 1)) -> Tensor:
    """Weighted mean of squared errors at full resolution and of maps pooled to a few cells.

    The hierarchical context loss of Chen et al. 2021 (ReviewKD): full resolution counts 1, each following size half of
    the one before, and the sum is divided by the weights. A size that is not below that of the map is left out; each
    error is a mean over images, channels and cells, so the value does not depend on resolution or batch.

    Args:
        student_map: ``[B,C,H,W]``.
        teacher_map: the same shape.
        sizes: sides of the pooled maps, largest first.

    Raises:
        MethodError: the shapes differ, or are no maps.
    """
    if student_map.shape != teacher_map.shape or student_map.dim() != 4:
        raise MethodError(
            f"student map has the shape {list(student_map.shape)}, teacher map {list(teacher_map.shape)}",
            allowed="one shape [B,C,H,W] for both",
        )
    student, teacher = full_precision(student_map), full_precision(teacher_map)
    value, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for size in sizes:
        if size >= min(student.shape[2:]):
            continue
        weight /= 2
        pooled = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
        value = value + weight * F.mse_loss(*pooled)
        total += weight
    return value / total
