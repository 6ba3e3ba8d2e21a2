"""Losses on class maps: what the classifier says of each position.

Shapes: B batch, K classes, H and W positions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sapling.losses.checks import check_pair, full_precision


def class_map_error(
    student: Tensor, teacher: Tensor, size: tuple[int, int] = (2, 2), *, normalise: bool = False
) -> Tensor:
    """Mean over images, classes and cells of the squared difference of two class maps, averaged to ``size``.

    Source: Guo, Yan, Li, Lin 2023 (CAT-KD), class attention transfer. With ``normalise`` each map of a class has
    length 1, so that it says where the class is seen and not how strongly; the scale of either side then does not
    matter. A map that is 0 everywhere stays 0.

    Args:
        student: ``[B,K,H,W]``.
        teacher: ``[B,K,H',W']``.
        size: cells, rows and columns.
        normalise: whether each class's map is brought to length 1.

    Raises:
        MethodError: B or K differ.
    """
    own, theirs = (F.adaptive_avg_pool2d(full_precision(maps), size).flatten(2) for maps in (student, teacher))
    check_pair(own, theirs, "class maps")
    if normalise:
        own, theirs = F.normalize(own, dim=2), F.normalize(theirs, dim=2)
    return F.mse_loss(own, theirs)
