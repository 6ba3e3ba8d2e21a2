"""Losses between one vector per image of the student and one of the teacher.

Shapes: B batch, D embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sapling.losses.checks import check_pair, full_precision


def mean_gap(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean over images and channels of the squared gap between the means over positions.

    The feature matching of Yang et al. 2021 (SRRL), which they call statistics matching though only means enter.

    Args:
        student_map: ``[B,C,..]``, any positions behind; vectors ``[B,C]`` are their own means.
        teacher_map: the same B and C; its positions may differ.

    Raises:
        MethodError: B or C differ.
    """
    student, teacher = _mean(student_map), _mean(teacher_map)
    check_pair(student, teacher, "means")
    return F.mse_loss(student, teacher)


def normalized_smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of the smooth L1 distance between ``student`` and the teacher's layer-normalised vector.

    The loss of Miles, Elezi, Deng 2024 (VkD): the teacher's vector loses its mean and is divided by its standard
    deviation (``eps`` 1e-5, nothing learned); half the square below a gap of 1, the gap less 0.5 above; mean over all.

    Args:
        student: ``[B,D]``, already projected.
        teacher: ``[B,D]``.

    Raises:
        MethodError: the shapes differ.
    """
    check_pair(student, teacher, "embeddings")
    target = F.layer_norm(full_precision(teacher), teacher.shape[1:])
    return F.smooth_l1_loss(full_precision(student), target)


def norm_and_direction(student: Tensor, teacher: Tensor, centres: Tensor) -> Tensor:
    """Mean over images of ``1 - <s, c / |c|> / max(|s|, |t|)``: how short of the class's direction the student falls.

    Source: Wang, Cheng, Duan, Wang, Feng, Kong 2023 (ND). A student's vector that is shorter than the teacher's is
    asked to grow; one that is longer counts by its direction alone. In [0,2].

    Args:
        student: ``[B,D]``.
        teacher: ``[B,D]``.
        centres: ``[B,D]``, the teacher's mean embedding of each image's class.

    Raises:
        MethodError: the shapes differ.
    """
    check_pair(student, teacher, "embeddings")
    check_pair(centres, teacher, "class means")
    own, theirs = full_precision(student), full_precision(teacher)
    along = (own * F.normalize(full_precision(centres), dim=1)).sum(dim=1)
    # a floor far below any embedding: two that are 0 have no direction, and the root no gradient
    longer = torch.maximum(own.square().sum(dim=1), theirs.square().sum(dim=1)).clamp_min(1e-12).sqrt()
    return (1 - along / longer).mean()


def _mean(maps: Tensor) -> Tensor:
    values = full_precision(maps)
    return values if values.dim() == 2 else values.flatten(2).mean(dim=2)
