from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from sapling.data.erasing import draw_erasing, erase
from sapling.data.parameters import Draws
from sapling.data.viewspec import ViewSpec
from sapling.data.workspace import Workspace

WORK = Workspace()


def drawn_for(count, spec, size, views=None):
    return draw_erasing(Draws(np.arange(count), np.zeros(count, int) if views is None else views, 0), spec, size)


def noise(channels: int, number: int, size: int) -> np.ndarray:
    """lowbias32 of every pixel, in Python's whole numbers."""
    found = np.empty((channels, size, size), dtype=int)
    for place in range(channels * size * size):
        x = (place * 0x9E3779B9 + number) & 0xFFFFFFFF
        x = ((x ^ x >> 16) * 0x7FEB352D) & 0xFFFFFFFF
        x = ((x ^ x >> 15) * 0x846CA68B) & 0xFFFFFFFF
        found.flat[place] = (x ^ x >> 16) & 255
    return found


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("fill", ["noise", "grey"])
def test_erasing_is_what_a_plain_loop_does(channels, fill):
    spec, size = ViewSpec(erase=0.6), 12
    drawn = drawn_for(10, spec, size)
    rng = np.random.default_rng(0)
    before = rng.integers(0, 256, (channels, 10, size, size)).astype(np.int32)
    pixels = torch.from_numpy(before.copy())
    erase(pixels, drawn, fill, WORK)
    for k in range(10):
        top, bottom, left, right, number = drawn[:, k]
        expected = before[:, k].copy()
        cover = noise(channels, int(number), size) if fill == "noise" else np.full(expected.shape, 128)
        expected[:, top:bottom, left:right] = cover[:, top:bottom, left:right]
        np.testing.assert_array_equal(pixels[:, k].numpy(), expected)


def test_rectangles_have_the_area_and_shape_that_were_asked_for():
    size = 200
    top, bottom, left, right, _ = drawn_for(4000, ViewSpec(erase=1.0, erase_area=(0.05, 0.3)), size)
    height, width = bottom - top, right - left
    area = height * width / size**2
    assert area.min() > 0.048
    assert area.max() < 0.305
    assert stats.kstest((area - 0.05) / 0.25, "uniform").statistic < 0.03  # sides are whole pixels
    assert ((width / height > 0.29) & (width / height < 3.4)).all()
    for start, end in ((top, bottom), (left, right)):
        assert start.min() == 0
        assert end.max() == size
        assert abs(((start + end) / 2).mean() - size / 2) < 2


def test_so_many_are_erased_and_never_the_centre_view():
    views = np.arange(10_000) % 2 - 1
    drawn = drawn_for(10_000, ViewSpec(erase=0.25), 32, views)
    erased = drawn[1] > 0
    assert not erased[views < 0].any()
    assert stats.binomtest(int(erased.sum()), 5000, 0.25).pvalue > 1e-4


def test_noise_is_even_and_not_the_same_in_two_views():
    pixels = torch.zeros((3, 40, 32, 32), dtype=torch.int32)
    drawn = drawn_for(40, ViewSpec(erase=1.0, erase_area=(1.0, 1.0)), 32)
    erase(pixels, drawn, "noise", WORK)
    counts = np.bincount(pixels.numpy().ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4
    flat = pixels.permute(1, 0, 2, 3).reshape(40, -1).numpy()
    assert np.abs(np.corrcoef(flat) - np.eye(40)).max() < 0.1
    assert abs(np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1]) < 0.02
    # channels of one pixel, too
    assert abs(np.corrcoef(pixels[0].numpy().ravel(), pixels[1].numpy().ravel())[0, 1]) < 0.02


def test_the_smallest_rectangle_is_one_pixel():
    top, bottom, left, right, _ = drawn_for(200, ViewSpec(erase=1.0, erase_area=(0.001, 0.001)), 8)
    assert set((bottom - top) * (right - left)) == {1}
