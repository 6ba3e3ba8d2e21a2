"""Bringing two features to one form: maps of one size, or one vector per image.

Shapes: B batch, C channels, H and W pixels, T tokens, D embedding. A feature is ``[B,C,H,W]``, ``[B,T,D]`` (the patches
of a vision transformer, row by row, without class token and registers) or ``[B,D]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision
from sapling.types import PairInfo, Taps


def map_shape(shape: Sequence[int], what: str = "the feature") -> tuple[int, int, int]:
    """``(C,H,W)`` of the map that :func:`as_map` makes of a feature.

    Args:
        shape: of the feature, without B.
        what: names the feature in the error.

    Raises:
        MethodError: no map can be made of it; with its shape.
    """
    shape = tuple(shape)
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        side = math.isqrt(shape[0])
        if side**2 == shape[0] > 0:
            return shape[1], side, side
    raise MethodError(
        f"{what} has the shape {list(shape)}, of which no map can be made",
        allowed="[C,H,W], [D], or tokens [T,D] of a square of patches",
        remedy="tap another place, such as stage3 or stage4",
    )


def pair_shapes(taps: Taps, info: PairInfo) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """``(C,H,W)`` of the maps that are made of the features at the one tap of each network: student, teacher.

    Raises:
        MethodError: of one of them no map can be made; with its tap and shape.
    """
    (student,), (teacher,) = taps.student, taps.teacher
    return (
        map_shape(info.student_shapes[student], f"the student's {student}"),
        map_shape(info.teacher_shapes[teacher], f"the teacher's {teacher}"),
    )


def as_map(feature: Tensor) -> Tensor:
    """Make a map ``[B,C,H,W]`` in float32 of any feature.

    Tokens ``[B,T,D]`` become ``[B,D,n,n]`` with n the root of T. A vector becomes a map of one pixel.

    Raises:
        MethodError: the tokens are no square grid.
    """
    values = full_precision(feature)
    channels, height, width = map_shape(tuple(feature.shape[1:]))
    if values.dim() == 3:
        values = values.transpose(1, 2)
    return values.reshape(values.shape[0], channels, height, width)


def as_vectors(feature: Tensor) -> Tensor:
    """One vector per image, ``[B,D]`` float32: the mean over the pixels of a map, or over all tokens."""
    values = full_precision(feature)
    if values.dim() == 3:
        return values.mean(dim=1)
    return values.flatten(2).mean(dim=2) if values.dim() > 3 else values


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the larger of two maps to the size of the smaller (adaptive mean), per axis.

    Args:
        student: ``[B,C,H,W]``.
        teacher: ``[B,C',H',W']``.

    Returns:
        Both, with ``min(H,H')`` times ``min(W,W')`` pixels.
    """
    size = smaller_size(student.shape[2:], teacher.shape[2:])
    return _pooled(student, size), _pooled(teacher, size)


def smaller_size(student: Sequence[int], teacher: Sequence[int]) -> tuple[int, int]:
    """``(H,W)`` to which :func:`same_size` pools maps of these sizes."""
    return min(student[0], teacher[0]), min(student[1], teacher[1])


def _pooled(feature: Tensor, size: tuple[int, int]) -> Tensor:
    return feature if tuple(feature.shape[2:]) == size else F.adaptive_avg_pool2d(feature, size)
