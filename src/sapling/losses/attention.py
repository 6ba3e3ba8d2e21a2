"""Losses on where a network looks: the energy of a feature map at each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision
from sapling.losses.maps import as_map, same_size
from sapling.losses.relation import unit


def attention_map(feature: Tensor, power: float = 2.0) -> Tensor:
    """``[B,H W]``: the mean over channels of ``|F|^power`` at each pixel, scaled to length 1 per image.

    Source: Zagoruyko, Komodakis 2017, activation-based attention F_sum^p; with a mean in place of the sum, which the
    normalisation makes the same. An image whose map is 0 everywhere has an attention of 0 and no gradient.

    Args:
        feature: ``[B,C,H,W]``, or tokens ``[B,T,D]`` of a square grid.
        power: p, 1 or more: the larger, the more the strongest channels count.

    Raises:
        MethodError: the feature is no map, or the power is below 1, where the gradient at 0 is infinite.
    """
    if not power >= 1:
        raise MethodError(f"power is {power}", allowed="1 or more")
    return unit(as_map(feature).abs().pow(power).mean(dim=1).flatten(1), dim=1)


def attention_error(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Mean over images and pixels of the squared difference of two attention maps.

    The larger map is pooled to the size of the smaller before attention is computed, as in mdistiller. A mean over
    ``B H W`` elements of maps of length 1 is about 1 / (H W): the weight that fits depends on the size of the map. The
    scale of either side does not matter.

    Args:
        student: ``[B,C,H,W]`` or tokens ``[B,T,D]``.
        teacher: the same with any number of channels, any size.
        power: p.

    Raises:
        MethodError: as :func:`attention_map`.
    """
    student, teacher = same_size(as_map(student), as_map(teacher))
    return (attention_map(student, power) - attention_map(teacher, power)).square().mean()


def relative_attention(feature: Tensor) -> Tensor:
    """``[B,H,W]``: the mean over channels of ``|F|`` at each pixel, over its mean over the image, which becomes 1.

    Args:
        feature: ``[B,C,H,W]``; an image that is 0 everywhere has an attention of 0.
    """
    energy = as_map(feature).abs().mean(dim=1)
    return energy / energy.mean(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)


def region_weights(importance: Tensor, temperature: float) -> Tensor:
    """``[B,H,W]`` weights with a mean of 1 per image: ``H W softmax(importance / T)`` over the pixels.

    The mask of Zhang, Ma 2021 (attention-guided distillation). The smaller T, the fewer pixels count.

    Args:
        importance: ``[B,H,W]``.
        temperature: T.
    """
    flat = importance.flatten(1)
    return (flat.shape[1] * torch.softmax(flat / temperature, dim=1)).reshape(importance.shape)


def regional_error(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Squared difference of two maps, mean over channels, weighted by pixel, mean over pixels and images.

    Args:
        student: ``[B,C,H,W]``.
        teacher: the same shape.
        weights: ``[B,H,W]``.

    Raises:
        MethodError: the shapes do not fit.
    """
    if student.shape != teacher.shape or weights.shape != (len(student), *student.shape[2:]):
        raise MethodError(
            f"student map {list(student.shape)}, teacher map {list(teacher.shape)}, weights {list(weights.shape)}",
            allowed="one shape [B,C,H,W] for both maps, and weights [B,H,W]",
        )
    return ((full_precision(student) - full_precision(teacher)).square().mean(dim=1) * weights).mean()
