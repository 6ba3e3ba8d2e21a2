"""Thumbnails of stored pictures, and the eight ways in which a square picture can lie. No torch.

All of it commutes with mirroring and turning: the thumbnail of a mirrored picture is the mirrored thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sapling.bands import rgb_bands

Floats = npt.NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)

SIDE = 32
"""Side of the grey thumbnails: EuroSAT's 64 pixels at half size keep what JPEG keeps too."""
COLOUR_SIDE = 8
"""Side of the colour thumbnails: JPEG stores colour at half the resolution."""

TRANSFORMS = (
    "none",
    "mirrored",
    "flipped",
    "rotated 180",
    "transposed",
    "rotated 270",
    "rotated 90",
    "transversed",
)
"""The symmetries of the square: mirrored left to right, flipped top to bottom, turned counter-clockwise,
transposed (rows become columns) and transversed (transposed along the other diagonal)."""
# Position in TRANSFORMS = 4 * transposed first + 2 * then flipped + then mirrored.
_INVERSE = {"rotated 90": "rotated 270", "rotated 270": "rotated 90"}

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, the grey of JPEG
_CHUNK_BYTES = 8 * 2**20


def lay(pictures: npt.NDArray[Scalar], transform: str) -> npt.NDArray[Scalar]:
    """Turn or mirror ``[..,S,S]`` pictures (their last two axes are rows and columns)."""
    code = TRANSFORMS.index(transform)
    turned = pictures.swapaxes(-1, -2) if code & 4 else pictures
    turned = turned[..., ::-1, :] if code & 2 else turned
    return turned[..., ::-1] if code & 1 else turned


def inverse(transform: str) -> str:
    """The transform that undoes this one."""
    return _INVERSE.get(transform, transform)


def shrinking(size: int, side: int) -> Floats:
    """``[side,size]``: each row averages the pixels that one pixel of the thumbnail covers (antialiased)."""
    edges = np.linspace(0, size, side + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(covered, 0)
    return np.asarray(weights / weights.sum(1, keepdims=True), dtype=np.float32)


def thumbnails(
    images: npt.NDArray[np.uint8], *, progress: Callable[[int, int], None] | None = None
) -> tuple[Floats, Floats]:
    """Shrink all pictures, some at a time.

    Args:
        images: ``[N,S,S,C]`` uint8, also a memory map; of other than three channels those that show the colours
            count (see :func:`sapling.bands.rgb_bands`).
        progress: is called with (images done, images in all).

    Returns:
        Grey ``[N,32,32]`` and colour ``[N,8,8,3]`` (red, green, blue minus the grey), float32, in grey levels.
    """
    total, size = images.shape[:2]
    num_channels = images.shape[3]
    shown = None if num_channels == 3 else [band - 1 for band in rgb_bands(num_channels)]
    grey = np.empty((total, SIDE, SIDE), np.float32)
    colour = np.empty((total, COLOUR_SIDE, COLOUR_SIDE, 3), np.float32)
    shrink, shrink_again = shrinking(size, SIDE), shrinking(SIDE, COLOUR_SIDE)
    step = max(1, _CHUNK_BYTES // max(1, 3 * size * size))
    for start in range(0, total, step):
        chunk = images[start : start + step]
        chunk = (chunk if shown is None else chunk[..., shown]).astype(np.float32)
        rows = (shrink @ chunk.reshape(len(chunk), size, size * 3)).reshape(-1, SIDE, size, 3)
        channels = rows.transpose(0, 3, 1, 2) @ shrink.T
        grey[start : start + step] = luma = np.tensordot(channels, _LUMA, axes=(1, 0))
        coarse = shrink_again @ (channels - luma[:, None]) @ shrink_again.T
        colour[start : start + step] = coarse.transpose(0, 2, 3, 1)
        if progress is not None:
            progress(min(start + step, total), total)
    return grey, colour
