"""What views do to colours: tables per channel, one 3x3 matrix per picture, and small filters.

The order is fixed: autocontrast, equalize, posterize, solarize (one table of 256 levels per picture and channel);
brightness, contrast, saturation, hue (one matrix and one offset, rounded and clipped once at the end); sharpness;
blur. All of it is integer arithmetic, which gives the same bits in any batch, on any device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sapling.data.parameters import Draws, Flags, Floats, sine_and_cosine
from sapling.data.viewspec import MAX_BLUR_SIGMA, ViewSpec
from sapling.data.workspace import Workspace, moved

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey, ITU-R BT.601, as Pillow has them."""

# RandAugment's largest change of a factor at strength 1, as torchvision has it
MAX_FACTOR = 0.9
_BITS = 12  # matrices are in 1/4096
_SIGMAS = 64
RADIUS = math.ceil(2.5 * MAX_BLUR_SIGMA)


def change_tones(pixels: Tensor, amounts: dict[str, Floats], work: Workspace) -> None:
    """Apply autocontrast, equalize, posterize and solarize to the pictures that they were drawn for.

    Args:
        pixels: ``[3,B,s,s]`` int32 in 0 .. 255, changed in place.
        amounts: of :func:`sapling.data.parameters.operation_amounts`.
        work: memory that is used again.
    """
    names = ("autocontrast", "equalize", "posterize", "solarize")
    touched = np.flatnonzero(np.any([amounts[name] != 0 for name in names], axis=0))
    if len(touched) == 0:
        return
    device = pixels.device

    def column(values: npt.NDArray[Any]) -> Tensor:
        return moved(torch.from_numpy(values).to(torch.int32), device).view(-1, 1, 1)

    strength = {name: np.abs(amounts[name][touched]) for name in names}
    place = moved(torch.from_numpy(touched), device)
    levels = torch.arange(256, dtype=torch.int32, device=device)
    table = levels.expand(len(touched), 3, 256).contiguous()
    counted = np.flatnonzero((strength["autocontrast"] > 0) | (strength["equalize"] > 0))
    if len(counted):
        subset = moved(torch.from_numpy(counted), device)
        counts = _histograms(pixels.index_select(1, place[subset]))
        stretch, flatten = (column(np.sign(strength[n][counted])) > 0 for n in ("autocontrast", "equalize"))
        first = torch.where(stretch, _stretched(counts), levels)
        counts = torch.zeros_like(counts).scatter_add_(2, first.long(), counts)
        second = torch.where(flatten, _flattened(counts), levels)
        table.index_copy_(0, subset, second.gather(2, first.long()))
    # torchvision: 8 bits down to 4, threshold from 256 down to 0
    bits = np.rint(4 * strength["posterize"]).astype(np.int64)
    table &= column(256 - (1 << bits))
    threshold = np.where(strength["solarize"] > 0, np.rint(255 * (1 - strength["solarize"])), 256).astype(np.int64)
    table = torch.where(table < column(threshold), table, 255 - table)
    # [3,n,1,1] offsets into the table of each picture and channel
    offsets = torch.arange(len(touched) * 3, dtype=torch.int32, device=device).view(-1, 3).t().mul(256)
    shape = (3, len(touched), *pixels.shape[2:])
    old = torch.index_select(pixels, 1, place, out=work.get("old", shape)).add_(offsets[:, :, None, None])
    new = torch.index_select(table.view(-1), 0, old.view(-1), out=work.get("new", (old.numel(),)))
    pixels.index_copy_(1, place, new.view(shape))


def _histograms(pixels: Tensor) -> Tensor:
    """``[n,3,256]`` int64 counts of the levels of ``[3,n,s,s]``."""
    num = pixels.shape[1]
    offsets = torch.arange(num * 3, dtype=torch.int32, device=pixels.device).view(num, 3).t() * 256
    numbers = (pixels + offsets[:, :, None, None]).view(-1)
    # bincount asks a GPU for the largest number, and waits for the answer
    count = torch.bincount if numbers.device.type == "cpu" else counted
    return count(numbers, minlength=num * 768).view(num, 3, 256)


def counted(numbers: Tensor, minlength: int) -> Tensor:
    """``torch.bincount`` of int32 numbers that are all below ``minlength``."""
    counts = numbers.new_zeros(minlength, dtype=torch.int64)
    return counts.scatter_add_(0, numbers.long(), torch.ones_like(numbers, dtype=torch.int64))


def _stretched(counts: Tensor) -> Tensor:
    """Tables that stretch each channel to 0 .. 255, int32; a channel of one level stays."""
    levels = torch.arange(256, device=counts.device)
    low = torch.where(counts > 0, levels, 255).amin(2, keepdim=True)
    high = torch.where(counts > 0, levels, 0).amax(2, keepdim=True)
    wide = (levels - low).clamp(min=0) * 255 // (high - low).clamp(min=1)
    return torch.where(high > low, wide.clamp(max=255), levels).to(torch.int32)


def _flattened(counts: Tensor) -> Tensor:
    """Tables that make the histogram of each channel even, as Pillow's ``equalize``, int32."""
    levels = torch.arange(256, device=counts.device)
    high = torch.where(counts > 0, levels, 0).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, high)) // 255
    before = counts.cumsum(2) - counts
    even = (before + step // 2) // step.clamp(min=1)
    return torch.where(step > 0, even.clamp(max=255), levels).to(torch.int32)


def colour_matrices(
    draws: Draws, spec: ViewSpec, amounts: dict[str, Floats]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]] | None:
    """Draw brightness, contrast, saturation and hue of B views.

    Returns:
        ``[3,3,B]`` int32 matrices in 1/4096, and ``[B]`` int64, in 1/65,536, the weight of the picture's mean grey;
        None if no setting asks for any.
    """
    factors = {name: draws.around(name, 1.0, getattr(spec, name)) for name in ("brightness", "contrast", "saturation")}
    for name in factors:
        if amounts:
            factors[name] = factors[name] * (1 + MAX_FACTOR * amounts[name])
    grey = draws.happens("grayscale", spec.grayscale)
    saturation = np.where(grey, 0.0, factors["saturation"])
    turn = draws.around("hue", 0.0, spec.hue)
    if all((value == 1).all() for value in (factors["brightness"], factors["contrast"], saturation)) and not turn.any():
        return None
    sine, cosine = sine_and_cosine(turn)
    gain = factors["brightness"] * factors["contrast"]
    # hueRotate of the W3C's filter effects: a turn around the axis of greys that keeps the luminance
    light = (0.213, 0.715, 0.072)
    across = ((-0.213, -0.715, 0.928), (0.143, 0.140, -0.283), (-0.787, 0.715, 0.072))
    matrix = np.empty((3, 3, len(grey)), dtype=np.int32)
    for i in range(3):
        hue = [light[j] + cosine * ((i == j) - light[j]) + sine * across[i][j] for j in range(3)]
        total = hue[0] + hue[1] + hue[2]
        for j in range(3):
            # saturation first: s * identity + (1 - s) * every row the grey
            exact = gain * (saturation * hue[j] + (1 - saturation) * LUMA[j] * total)
            matrix[i, j] = np.rint(exact * (1 << _BITS))
    offset = np.rint(factors["brightness"] * (1 - factors["contrast"]) * 65536).astype(np.int64)
    return matrix, offset


def change_colours(pixels: Tensor, matrix: Tensor, offset: Tensor, work: Workspace) -> Tensor:
    """Multiply each pixel by its picture's matrix and add a share of the picture's mean grey.

    Args:
        pixels: ``[3,B,s,s]`` int32 in 0 .. 255.
        matrix: ``[3,3,B]`` int32 of :func:`colour_matrices`.
        offset: ``[B]`` int64, likewise.
        work: memory that is used again.

    Returns:
        ``[3,B,s,s]`` int32 in 0 .. 255, in ``work``.
    """
    # 2,900 x 2,900 bytes can be added up in 32 bits
    sums = pixels.sum((2, 3), dtype=torch.int32).to(torch.int64)
    grey = sums[0] * 77 + sums[1] * 150 + sums[2] * 29
    scale = pixels.shape[2] * pixels.shape[3] * (1 << (16 + 8 - _BITS))
    constant = torch.div(offset * grey, scale, rounding_mode="floor").to(torch.int32) + (1 << (_BITS - 1))
    matrix, constant = matrix[..., None, None], constant[:, None, None]
    result = work.get("colours", pixels.shape)
    for row, target in zip(matrix, result, strict=True):
        torch.mul(pixels[0], row[0], out=target).add_(constant)
        target.addcmul_(pixels[1], row[1]).addcmul_(pixels[2], row[2])
        target.bitwise_right_shift_(_BITS).clamp_(0, 255)
    return result


def sharpen(pixels: Tensor, amounts: Floats, work: Workspace) -> None:
    """Move pixels away from, or to, the mean of their neighbours.

    Args:
        pixels: ``[C,B,s,s]`` int32, changed in place. The mean is Pillow's SMOOTH: 5 of 13 are the pixel itself.
        amounts: ``[B]``: 0 leaves a picture alone, 1 adds 90 % of the distance from the mean, -1 takes it away.
        work: memory that is used again.
    """
    touched = np.flatnonzero(amounts)
    if len(touched) == 0:
        return
    place = moved(torch.from_numpy(touched), pixels.device)
    factor = moved(torch.from_numpy(np.rint(MAX_FACTOR * amounts[touched] * 256).astype(np.int32)), pixels.device)
    shape = (pixels.shape[0], len(touched), *pixels.shape[2:])
    old = torch.index_select(pixels, 1, place, out=work.get("old", shape))
    total, rows = torch.mul(old, 4, out=work.get("new", shape)), work.get("rows", shape)
    _add_neighbours(rows.copy_(old), old, 2)
    _add_neighbours(total.add_(rows), rows, 3)
    # the mean is a 13th of the total; a division of integers is slow, and 20165 / 2^18 gives the same for all totals
    mean = total.add_(6).mul_(20165).bitwise_right_shift_(18)
    change = torch.sub(old, mean, out=rows).mul_(factor.view(-1, 1, 1)).add_(128).bitwise_right_shift_(8)
    pixels.index_copy_(1, place, old.add_(change).clamp_(0, 255))


def _add_neighbours(total: Tensor, values: Tensor, axis: int) -> None:
    """Add to each place of ``total`` what stands before and after it in ``values``, mirrored at the ends."""
    last = values.shape[axis] - 1
    total.narrow(axis, 1, last).add_(values.narrow(axis, 0, last))
    total.narrow(axis, 0, last).add_(values.narrow(axis, 1, last))
    total.narrow(axis, 0, 1).add_(values.narrow(axis, min(1, last), 1))
    total.narrow(axis, last, 1).add_(values.narrow(axis, max(last - 1, 0), 1))


def draw_blur(draws: Draws, spec: ViewSpec) -> tuple[Flags, npt.NDArray[np.int32]]:
    """Draw which of B views are blurred, and the kernels ``[B,2*RADIUS+1]`` int32, which sum to 256."""
    return draws.happens("blur", spec.blur), _kernels(*spec.blur_sigma)[
        (draws.uniform("sigma") * _SIGMAS).astype(np.int64)
    ]


@lru_cache(maxsize=8)
def _kernels(low: float, high: float) -> npt.NDArray[np.int32]:
    """Gaussian kernels of 64 widths, in 1/256."""
    found = np.zeros((_SIGMAS, 2 * RADIUS + 1), dtype=np.int32)
    for k in range(_SIGMAS):
        sigma = low + (high - low) * (k + 0.5) / _SIGMAS
        weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-RADIUS, RADIUS + 1)]
        found[k] = np.rint([256 * w / sum(weights) for w in weights])
        found[k, RADIUS] += 256 - found[k].sum()
    return found


def blur(pixels: Tensor, blurred: Flags, kernels: npt.NDArray[np.int32], work: Workspace) -> None:
    """Blur some of B pictures, which are mirrored at their borders.

    Args:
        pixels: ``[C,B,s,s]`` int32, changed in place.
        blurred: ``[B]``, which.
        kernels: ``[B,2*RADIUS+1]`` of :func:`draw_blur`.
        work: memory that is used again.
    """
    touched = np.flatnonzero(blurred)
    if len(touched) == 0:
        return
    place = moved(torch.from_numpy(touched), pixels.device)
    weights = moved(torch.from_numpy(kernels[touched]), pixels.device).t()[:, :, None, None]
    shape = (pixels.shape[0], len(touched), *pixels.shape[2:])
    values = torch.index_select(pixels, 1, place, out=work.get("old", shape))
    for axis in (2, 3):
        wide, size = _mirrored(values, RADIUS, axis, work), values.shape[axis]
        values.fill_(128)
        for k, weight in enumerate(weights):
            values.addcmul_(wide.narrow(axis, k, size), weight)
        values.bitwise_right_shift_(8)
    pixels.index_copy_(1, place, values)


def _mirrored(values: Tensor, margin: int, axis: int, work: Workspace) -> Tensor:
    """Add a mirrored margin to both ends of an axis."""
    last, shape = values.shape[axis] - 1, list(values.shape)
    shape[axis] += 2 * margin
    line = torch.arange(-margin, last + margin + 1, device=values.device).abs()
    line = (last - (last - line).abs()).clamp(0, last)
    return torch.index_select(values, axis, line, out=work.get("new", shape))
