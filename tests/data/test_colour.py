from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage

from sapling.data.colour import (
    LUMA,
    MAX_FACTOR,
    RADIUS,
    blur,
    change_colours,
    change_tones,
    colour_matrices,
    draw_blur,
    sharpen,
)
from sapling.data.parameters import Draws, operation_amounts
from sapling.data.viewspec import OPERATIONS, PRESETS, ViewSpec
from sapling.data.workspace import Workspace

WORK = Workspace()


def pictures(count: int, size: int = 24, seed: int = 0) -> np.ndarray:
    """[n,s,s,3] uint8: noise of many ranges, with a picture of one colour among them."""
    rng = np.random.default_rng(seed)
    low, span = rng.integers(0, 120, (count, 1, 1, 3)), rng.integers(1, 136, (count, 1, 1, 3))
    images = low + rng.integers(0, 2**30, (count, size, size, 3)) % span
    images[0] = (10, 100, 200)
    return images.astype(np.uint8)


def planes(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(3, 0, 1, 2).to(torch.int32).contiguous()


def back(pixels: torch.Tensor) -> np.ndarray:
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    return pixels.permute(1, 2, 3, 0).numpy()


def only(name: str, amounts: list[float]) -> dict[str, np.ndarray]:
    return {each: np.array(amounts) if each == name else np.zeros(len(amounts)) for each in OPERATIONS}


# Tables -------------------------------------------------------------------------------------------------

PILLOW = {
    "autocontrast": lambda image, amount: ImageOps.autocontrast(image),
    "equalize": lambda image, amount: ImageOps.equalize(image),
    "posterize": lambda image, amount: ImageOps.posterize(image, 8 - round(4 * amount)),
    "solarize": lambda image, amount: ImageOps.solarize(image, round(255 * (1 - amount))),
}


@pytest.mark.parametrize("amount", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("name", list(PILLOW))
def test_tones_are_those_of_pillow(name, amount):
    images = pictures(8)
    pixels = planes(images)
    change_tones(pixels, only(name, [amount, -amount, 0.0] * 2 + [amount, amount]), WORK)
    found = back(pixels)
    for k in range(8):
        image = Image.fromarray(images[k])
        expected = image if k in (2, 5) else PILLOW[name](image, amount)
        # Pillow stretches in floating point
        difference = np.abs(found[k] - np.asarray(expected, dtype=int)).max()
        assert difference <= (1 if name == "autocontrast" else 0)


def test_tones_are_applied_one_after_the_other():
    images = pictures(16, seed=1)
    pixels, names = planes(images), list(PILLOW)
    amounts = {name: np.zeros(16) for name in OPERATIONS}
    for bit, name in enumerate(names):
        amounts[name] = np.where(np.arange(16) >> bit & 1, 0.6, 0.0)
    change_tones(pixels, amounts, WORK)
    for k, found in enumerate(back(pixels)):
        image = Image.fromarray(images[k])
        for name in names:
            if amounts[name][k]:
                image = PILLOW[name](image, 0.6)
        if not amounts["autocontrast"][k]:
            np.testing.assert_array_equal(found, np.asarray(image))
        else:  # a level more or less before a step of posterize or a threshold
            assert (np.abs(found - np.asarray(image, dtype=int)) > 1).mean() < 0.03


# The matrix ---------------------------------------------------------------------------------------------


def coloured(images, spec, amounts=None, seed=0):
    """Colours of views 0 .. n-1 and what was drawn for them."""
    draws = Draws(np.arange(len(images)), np.zeros(len(images), int), seed)
    matrix, offset = (torch.from_numpy(v) for v in colour_matrices(draws, spec, amounts or {}))
    return back(change_colours(planes(images), matrix, offset, WORK)), draws


@pytest.mark.parametrize("reach", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_one_change_of_colours_is_that_of_pillow(name, reach):
    images = pictures(12)
    found, draws = coloured(images, ViewSpec(**{name: reach}))
    enhance = {"saturation": ImageEnhance.Color}.get(name) or getattr(ImageEnhance, name.capitalize())
    for k, factor in enumerate(draws.between(name, 1 - reach, 1 + reach)):
        expected = np.asarray(enhance(Image.fromarray(images[k])).enhance(factor), dtype=int)
        # Pillow rounds the grey, and cuts instead of rounding at the end
        assert np.abs(found[k] - expected).max() <= 2


@settings(max_examples=20)
@given(st.integers(0, 1000), *[st.floats(0, 1)] * 3, st.floats(0, 0.5), st.floats(0, 1))
def test_all_changes_together_are_one_after_the_other(seed, brightness, contrast, saturation, hue, grayscale):
    spec = ViewSpec(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, grayscale=grayscale)
    images = pictures(6, 12, seed)
    draws = Draws(np.arange(6), np.zeros(6, int), seed)
    drawn = colour_matrices(draws, spec, {})
    if drawn is None:
        return
    found = back(change_colours(planes(images), *(torch.from_numpy(v) for v in drawn), WORK))
    for k in range(6):
        value = images[k].astype(float)

        def factor(name, k=k):
            reach = getattr(spec, name)
            return draws.between(name, 1 - reach, 1 + reach)[k]

        value = value * factor("brightness")
        value = (value - (value @ LUMA).mean()) * factor("contrast") + (value @ LUMA).mean()
        grey = (value @ LUMA)[..., None]
        value = grey + (value - grey) * (0 if draws.uniform("grayscale")[k] < grayscale else factor("saturation"))
        angle = 2 * np.pi * draws.between("hue", -hue, hue)[k]
        value = value @ hue_rotate(angle).T
        # the grey of the whole in 1/256, coefficients in 1/4096
        assert np.abs(found[k] - np.clip(value, 0, 255)).max() <= 1.3


def hue_rotate(angle: float) -> np.ndarray:
    """feColorMatrix type hueRotate, as the W3C's Filter Effects write it down."""
    light = np.array([[0.213, 0.715, 0.072]] * 3)
    with_cosine = np.array([[0.787, -0.715, -0.072], [-0.213, 0.285, -0.072], [-0.213, -0.715, 0.928]])
    with_sine = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    return light + np.cos(angle) * with_cosine + np.sin(angle) * with_sine


def test_a_view_without_colour_is_grey():
    found, _ = coloured(pictures(4), ViewSpec(grayscale=1.0))
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    np.testing.assert_array_equal(found[..., 1], found[..., 2])
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pictures(4)]).astype(int)
    assert np.abs(found[..., 0] - expected).max() <= 1


def test_greys_keep_their_grey_under_hue_and_saturation():
    images = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3).repeat(30, axis=0)
    found, _ = coloured(images, ViewSpec(hue=0.5, saturation=1.0))
    np.testing.assert_array_equal(found, images)


def test_factors_of_operations_and_of_the_jitter_are_multiplied():
    images = (np.arange(16 * 16 * 3).reshape(1, 16, 16, 3) % 90 + 60).astype(np.uint8)
    amounts = only("brightness", [0.5])
    found, _ = coloured(images, ViewSpec(operations=1), amounts)
    assert np.abs(found - np.clip(images * (1 + 0.5 * MAX_FACTOR), 0, 255)).max() <= 0.6
    centre = Draws([0], [-1], 0)
    assert colour_matrices(centre, PRESETS["strong"], operation_amounts(centre, PRESETS["strong"])) is None


def test_jitter_is_even_in_its_range():
    draws = Draws(np.arange(5000), np.zeros(5000, int), 0)
    matrix, offset = colour_matrices(draws, ViewSpec(brightness=0.4), {})
    gains = matrix[0, 0] / 4096
    assert 0.6 <= gains.min() < 0.601
    assert 1.399 < gains.max() <= 1.4
    assert not offset.any()
    assert abs(np.mean(gains) - 1) < 0.01


# Filters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [-1.0, -0.5, 0.3, 1.0])
def test_sharpness_is_that_of_pillow(amount):
    images = pictures(4)
    pixels = planes(images)
    sharpen(pixels, np.array([amount, 0.0, amount, amount]), WORK)
    found = back(pixels)
    np.testing.assert_array_equal(found[1], images[1])
    for k in (0, 2, 3):
        image = Image.fromarray(images[k])
        smooth = np.asarray(image.filter(ImageFilter.SMOOTH), dtype=float)
        expected = np.clip(smooth + (1 + MAX_FACTOR * amount) * (images[k] - smooth), 0, 255)
        inner = (slice(1, -1), slice(1, -1))  # Pillow leaves borders alone
        assert np.abs(found[k] - expected)[inner].max() <= 1.6


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_pictures_are_mirrored_under_filters(size):
    images = pictures(2, size, 3)
    pixels = planes(images)
    sharpen(pixels, np.array([-1.0, -1.0]), WORK)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    mean = ndimage.convolve(images[1].astype(float), kernel[..., None], mode="mirror")
    assert np.abs(back(pixels)[1] - (mean + 0.1 * (images[1] - mean))).max() <= 1.1


def test_every_mean_of_the_sharpness_is_rounded_right():
    totals = np.arange(13 * 255 + 1)
    np.testing.assert_array_equal((totals + 6) * 20165 >> 18, (totals + 6) // 13)
    assert (totals.max() + 6) * 20165 < 2**31


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_gaussian(sigma):
    images = pictures(5, 20)
    pixels = planes(images)
    blurred, kernels = draw_blur(Draws(np.arange(5), np.zeros(5, int), 0), ViewSpec(blur=1.0, blur_sigma=(sigma,) * 2))
    assert (kernels.sum(1) == 256).all()
    assert blurred.all()
    blurred[3] = False
    blur(pixels, blurred, kernels, WORK)
    for k in range(5):
        expected = images[k].astype(float)
        if blurred[k]:
            expected = ndimage.gaussian_filter(expected, (sigma, sigma, 0), mode="mirror", radius=RADIUS)
        assert np.abs(back(pixels)[k] - expected).max() <= (2.1 if blurred[k] else 0)


def test_blur_widths_are_spread_over_their_range():
    draws = Draws(np.arange(4000), np.zeros(4000, int), 0)
    blurred, kernels = draw_blur(draws, ViewSpec(blur=0.25, blur_sigma=(0.2, 2.0)))
    assert abs(blurred.mean() - 0.25) < 0.03
    assert len(np.unique(kernels[:, RADIUS])) > 40
