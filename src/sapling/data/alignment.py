"""Compare pairs of thumbnails closely: bring the second onto the first, then correlate local contrast. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from sapling.data.thumbnails import SIDE, Floats

_STEPS = 6
_MAX_SCALE = 0.12
_MAX_SHIFT = 0.12  # of the side
_WINDOW = 2.0  # pixels of a thumbnail: standard deviation of the window in which contrast is local
_FLOOR = 1.5  # grey levels: contrast below this is what JPEG does to flat areas, and counts for little

_U = (np.arange(SIDE, dtype=np.float32) + 0.5) * (2 / SIDE) - 1  # centres of the pixels, from -1 to 1


def local_contrast(pictures: Floats) -> Floats:
    """``[P,32,32]``: every pixel minus the mean around it, over the spread around it.

    One bright edge then weighs no more than faint texture (mean-subtracted contrast normalisation, Mittal et al.
    2012).
    """
    centred = pictures - _blur(pictures, _WINDOW)
    return np.asarray(centred / (np.sqrt(_blur(centred * centred, _WINDOW)) + _FLOOR), dtype=np.float32)


def _blur(pictures: Floats, sigma: float) -> Floats:
    return np.asarray(gaussian_filter(pictures, (0, sigma, sigma), mode="reflect"), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Second pictures brought onto the first.

    Attributes:
        moved: ``[P,32,32]`` the second pictures as they lie against the first, borders repeated.
        inside: ``[P,32,32]`` where ``moved`` shows pixels that the second picture has.
    """

    moved: Floats
    inside: npt.NDArray[np.bool_]


def align(first: Floats, second: Floats) -> Alignment:
    """Find scale and shift along both axes (Lucas and Kanade 1981), for crops of up to about a tenth.

    Args:
        first: ``[P,32,32]``.
        second: ``[P,32,32]``, in the same orientation.
    """
    target, start = (_standard(_blur(each, 1.0)) for each in (first, second))
    # Scale minus one and shift, along rows and along columns.
    found = np.zeros((len(first), 4), np.float32)
    for _ in range(_STEPS):
        moved = _standard(_warp(start, found))
        by_row, by_column = np.gradient(moved, axis=(1, 2))
        slopes = np.stack([by_row * _U[:, None], by_row, by_column * _U, by_column], axis=1).reshape(-1, 4, SIDE**2)
        slopes *= SIDE / 2
        error = (target - moved).reshape(-1, SIDE**2, 1)
        square = slopes @ slopes.transpose(0, 2, 1)
        # A little damping: a picture with stripes in one direction only says nothing about the other.
        damping = 0.01 * np.trace(square, axis1=1, axis2=2)[:, None] + 1e-3
        square += damping[..., None] * np.eye(4, dtype=np.float32)
        found += np.linalg.solve(square, slopes @ error)[..., 0]
        found[:, ::2] = found[:, ::2].clip(-_MAX_SCALE, _MAX_SCALE)
        found[:, 1::2] = found[:, 1::2].clip(-2 * _MAX_SHIFT, 2 * _MAX_SHIFT)
    inside_rows, inside_columns = (np.abs(_places(found[:, k : k + 2])) <= 1 for k in (0, 2))
    return Alignment(_warp(second, found), inside_rows[:, :, None] & inside_columns[:, None, :])


def _places(scale_and_shift: Floats) -> Floats:
    return np.asarray((1 + scale_and_shift[:, :1]) * _U + scale_and_shift[:, 1:], dtype=np.float32)


def _warp(pictures: Floats, found: Floats) -> Floats:
    rows, columns = (_interpolating(_places(found[:, k : k + 2])) for k in (0, 2))
    return np.asarray(rows @ pictures @ columns.transpose(0, 2, 1), dtype=np.float32)


def _interpolating(places: Floats) -> Floats:
    """``[P,32,32]``: linear interpolation at the places, the border repeated outside."""
    pixels = ((places + 1) * (SIDE / 2) - 0.5).clip(0, SIDE - 1)
    away = np.abs(pixels[:, :, None] - np.arange(SIDE, dtype=np.float32))
    return np.asarray(np.maximum(0, 1 - away), dtype=np.float32)


def _standard(pictures: Floats) -> Floats:
    centred = pictures - pictures.mean((1, 2), keepdims=True)
    spread = np.sqrt((centred * centred).mean((1, 2), keepdims=True))
    return np.asarray(centred / np.maximum(spread, 1e-3), dtype=np.float32)


def correlation(first: Floats, second: Floats, inside: npt.NDArray[np.bool_] | None = None) -> Floats:
    """``[P]``: correlation of the pixels inside; 0 where there is nothing to correlate."""
    weight = np.ones(first.shape, np.float32) if inside is None else inside.astype(np.float32)
    count = weight.sum((1, 2), keepdims=True)
    one, two = (w - (w * weight).sum((1, 2), keepdims=True) / np.maximum(count, 1) for w in (first, second))
    product, square, other = ((weight * a * b).sum((1, 2)) for a, b in ((one, two), (one, one), (two, two)))
    norm = np.sqrt(square * other)
    return np.asarray(np.where(norm > 1e-6, product / np.maximum(norm, 1e-6), 0), dtype=np.float32)
