"""Random erasing (Zhong et al. 2020): a rectangle of the view is covered with noise or grey."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sapling.data.parameters import Draws
from sapling.data.viewspec import ViewSpec
from sapling.data.workspace import Workspace, moved

GREY = 128


def draw_erasing(draws: Draws, spec: ViewSpec, img_size: int) -> npt.NDArray[np.int64]:
    """Draw a rectangle for each of B views.

    Returns:
        ``[5,B]`` int64: first row, row after the last, first column, column after the last (all 0 where nothing is
        erased), and a number for the noise.
    """
    area = draws.between("erase_area", *spec.erase_area)
    # a rectangle of this area fits if it is not longer than the view
    aspect = np.clip(draws.on_log("erase_aspect", *spec.erase_ratio), area, 1 / area)
    sides = (np.sqrt(area / aspect), np.sqrt(area * aspect))
    height, width = (np.clip(np.rint(side * img_size), 1, img_size).astype(np.int64) for side in sides)
    top, left = (
        (draws.uniform(name) * (img_size + 1 - length)).astype(np.int64)
        for name, length in (("erase_row", height), ("erase_column", width))
    )
    erased = draws.happens("erase", spec.erase)
    noise = (draws["erase_noise"] >> np.uint64(33)).astype(np.int64)
    return np.stack([*(np.where(erased, edge, 0) for edge in (top, top + height, left, left + width)), noise])


def erase(pixels: Tensor, drawn: npt.NDArray[np.int64], fill: str, work: Workspace) -> None:
    """Cover rectangles.

    Args:
        pixels: ``[C,B,s,s]`` int32, changed in place.
        drawn: ``[5,B]`` of :func:`draw_erasing`.
        fill: ``noise`` or ``grey``.
        work: memory that is used again.
    """
    touched = np.flatnonzero(drawn[1])
    if len(touched) == 0:
        return
    device, channels, size = pixels.device, pixels.shape[0], pixels.shape[2]
    place = moved(torch.from_numpy(touched), device)
    numbers = moved(torch.from_numpy(drawn[:, touched]).to(torch.int32), device)
    top, bottom, left, right, number = numbers[:, :, None, None]
    line = torch.arange(size, dtype=torch.int32, device=device)
    row, column = line[:, None], line[None]
    outside = ((row < top) | (row >= bottom)) | ((column < left) | (column >= right))
    shape = (channels, len(touched), size, size)
    old = torch.index_select(pixels, 1, place, out=work.get("old", shape))
    cover = work.get("new", shape)
    if fill == "noise":
        count = torch.arange(channels * size * size, dtype=torch.int32, device=device).mul_(_signed(0x9E3779B9))
        torch.add(count.view(channels, 1, size, size), number, out=cover)
        _hash32(cover, work.get("rows", shape)).bitwise_and_(255)
    else:
        cover.fill_(GREY)
    pixels.index_copy_(1, place, torch.where(outside, old, cover, out=work.get("rows", shape)))


def _hash32(values: Tensor, shifted: Tensor) -> Tensor:
    """Mix int32 numbers in place (lowbias32, Wellons 2018); products wrap around."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        torch.bitwise_right_shift(values, shift, out=shifted).bitwise_and_((1 << (32 - shift)) - 1)
        values.bitwise_xor_(shifted).mul_(_signed(factor))
    return values


def _signed(number: int) -> int:
    """The same 32 bits as a number with a sign."""
    return number - (1 << 32) if number >> 31 else number
