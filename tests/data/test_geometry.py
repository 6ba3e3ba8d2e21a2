from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats
from torchvision.transforms import InterpolationMode

from sapling.data.geometry import MAX_ROTATE, MAX_TRANSLATE, affine_maps, pack_pixels, sample
from sapling.data.parameters import Draws, operation_amounts
from sapling.data.viewspec import OPERATIONS, PRESETS, ViewSpec
from sapling.data.workspace import Workspace


def smooth(count: int, side: int, channels: int = 3) -> torch.Tensor:
    """Pictures without single-pixel noise: a shift by 1/100 pixel changes them by less than one level."""
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (count, side, side, channels)).astype(np.float32)
    soft = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0), mode="mirror")
    spread = (soft - soft.min()) / (soft.max() - soft.min()) * 255
    return torch.from_numpy(spread.astype(np.uint8))


def maps_of(count, spec, side, img_size, seed=0):
    draws = Draws(np.arange(count), np.arange(count) * 3, seed)
    amounts = operation_amounts(draws, spec) if spec.operations else {}
    return affine_maps(draws, spec, amounts, side, img_size)


def looked_up(images, maps, img_size, *, turned=True):
    return sample(images, torch.from_numpy(maps), img_size, turned=turned, work=Workspace()).permute(1, 2, 3, 0)


def chosen(name, amount):
    """Amounts of RandAugment with one operation."""
    return {each: np.array([amount if each == name else 0.0]) for each in OPERATIONS}


def fixed(spec, side, img_size, amounts=None):
    """The map of one centre view, to which amounts can be added by hand."""
    return affine_maps(Draws([0], [-1], 0), spec, amounts or {}, side, img_size)


def naive(image: np.ndarray, one: np.ndarray, img_size: int) -> np.ndarray:
    """One affine map in floating point, with scipy's spline of order 1 on the mirrored picture."""
    y, x, yy, yx, xy, xx = one / 65536
    half = np.arange(img_size) * 2 - (img_size - 1)
    row = y + yy * half[:, None] + yx * half[None]
    column = x + xy * half[:, None] + xx * half[None]
    planes = [
        ndimage.map_coordinates(image[..., c].astype(float), [row, column], order=1, mode="mirror")
        for c in range(image.shape[2])
    ]
    return np.stack(planes, axis=-1)


# Sampling -----------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.integers(2, 30), st.sampled_from([1, 2, 3, 4, 7]), st.integers(0, 2**32),
    st.sampled_from([
        ViewSpec(scale=(0.2, 1.0)), ViewSpec(scale=(0.5, 0.9), dihedral=True, rotate=45.0, shear=0.3, shift=0.3),
        ViewSpec(operations=3, strength=1.0), ViewSpec(rotate=180.0, shift=0.5),
    ]),
)  # fmt: skip
def test_bilinear_sampling_is_that_of_scipy(side, channels, seed, spec):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (4, side, side, channels), dtype=np.uint8))
    img_size = max(2, side - 3)
    maps = maps_of(4, spec, side, img_size, seed)
    # one period of mirrors is all that a view can need; beyond, the border is repeated
    reach = np.abs(maps / 65536)[2:].sum(0).max() * img_size
    found = looked_up(images, maps, img_size).numpy()
    for k in range(4):
        expected = naive(images[k].numpy(), maps[:, k], img_size)
        if reach < side - 1:
            # weights are in 1/256: up to a level and a half on pure noise
            assert np.abs(found[k] - expected).max() <= 1.75


def test_views_without_turns_may_skip_work_and_are_the_same():
    images = smooth(8, 40)
    maps = maps_of(8, PRESETS["photo"], 40, 32)
    assert not PRESETS["photo"].is_turned
    assert not maps[3:5].any()
    whole, quick = (looked_up(images, maps, 32, turned=turned) for turned in (True, False))
    torch.testing.assert_close(whole, quick, rtol=0, atol=0)


@pytest.mark.parametrize("name", list(PRESETS))
def test_only_specs_that_say_so_turn_and_resize(name):
    spec = PRESETS[name]
    maps = maps_of(300, spec, 40, 32)
    mixes = maps[3:5].any()
    assert mixes == spec.is_turned
    scales = np.abs(maps[2] + maps[3] if not spec.operations else maps[2])
    assert (set(scales) == {32768}) == (not spec.is_resampled)


def test_four_channels_are_packed_into_one_number():
    images = torch.arange(2 * 2 * 2 * 5, dtype=torch.uint8).view(2, 2, 2, 5) + 200
    first, second = pack_pixels(images, Workspace())
    np.testing.assert_array_equal(first.numpy().view(np.uint8).reshape(2, 2, 2, 4), images[..., :4].numpy())
    np.testing.assert_array_equal(second.numpy(), images[..., 4].reshape(-1).numpy())


# What is drawn ------------------------------------------------------------------------------------------


def test_crops_have_the_area_and_shape_that_were_asked_for():
    spec, side, size, count = ViewSpec(scale=(0.2, 0.9), ratio=(0.5, 2.0)), 100, 64, 4000
    y, x, tall, _, _, wide = maps_of(count, spec, side, size) / 65536
    height, width = 2 * tall * size / side, 2 * wide * size / side
    area = height * width
    assert 0.2 - 1e-3 < area.min() < 0.203
    assert 0.897 < area.max() < 0.9 + 1e-3
    assert stats.kstest((area - 0.2) / 0.7, "uniform").pvalue > 1e-4
    assert ((width / height > 0.499) & (width / height < 2.001)).all()
    free = area < 0.5  # these fit in any shape
    assert stats.kstest((np.log2(width / height)[free] + 1) / 2, "uniform").pvalue > 1e-4
    # crops lie in the picture, evenly
    for centre, length in ((y, height), (x, width)):
        start, room = (centre + 0.5) / side - length / 2, 1 - length
        assert start.min() > -1e-4
        assert (start + length).max() < 1 + 1e-4
        roomy = room > 0.05
        assert stats.kstest(np.clip(start[roomy] / room[roomy], 0, 1), "uniform").pvalue > 1e-4


def test_a_crop_of_the_whole_picture_is_the_whole_picture():
    maps = maps_of(50, ViewSpec(scale=(1.0, 1.0)), 40, 40)
    images = smooth(50, 40)
    torch.testing.assert_close(looked_up(images, maps, 40), images.to(torch.int32), rtol=0, atol=0)


@pytest.mark.parametrize(("angle", "turns"), [(90.0, 1), (-90.0, -1), (180.0, 2)])
def test_quarter_turns_are_exact(angle, turns):
    images = smooth(1, 32)
    amounts = chosen("rotate", angle / 360 / MAX_ROTATE)
    found = looked_up(images, fixed(ViewSpec(operations=1), 32, 32, amounts), 32)[0]
    np.testing.assert_array_equal(found.numpy(), np.rot90(images[0].numpy(), -turns if turns else 0))


@pytest.mark.parametrize("amount", [-1.0, -0.4, 0.5, 1.0])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_affine_operations_are_those_of_torchvision(name, amount):
    images, size = smooth(1, 41), 41
    found = looked_up(images, fixed(ViewSpec(operations=1), size, size, chosen(name, amount)), size)[0].numpy()
    given = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    if name == "rotate":
        given["angle"] = 30 * amount
    elif name.startswith("shear"):
        shear = np.degrees(np.arctan(0.3 * amount))
        given["shear"] = [shear, 0.0] if name == "shear_x" else [0.0, shear]
    else:
        moved = -MAX_TRANSLATE * amount * size
        given["translate"] = [moved, 0.0] if name == "translate_x" else [0.0, moved]
    picture = images[0].permute(2, 0, 1).float()
    expected = TF.affine(picture, interpolation=InterpolationMode.BILINEAR, fill=[-1000.0], **given)
    inside = (expected > -0.5).all(0).numpy()
    inside = ndimage.binary_erosion(inside, iterations=2)
    assert inside.mean() > 0.2
    difference = np.abs(expected.permute(1, 2, 0).numpy() - found)[inside]
    assert difference.max() < 2.5
    assert difference.mean() < 0.5


def test_a_resized_crop_is_that_of_pillow():
    images, side, size, count = smooth(20, 60), 60, 64, 20
    maps = maps_of(count, ViewSpec(scale=(0.2, 0.8)), side, size)
    found = looked_up(images, maps, size, turned=False).numpy()
    for k in range(count):
        y, x, tall, _, _, wide = maps[:, k] / 32768
        box = (x / 2 + 0.5 - wide * size / 2, y / 2 + 0.5 - tall * size / 2)
        coefficients = (wide, 0, box[0], 0, tall, box[1])
        expected = Image.fromarray(images[k].numpy()).transform(
            (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        inner = (slice(3, -3), slice(3, -3))  # Pillow repeats borders
        assert np.abs(np.asarray(expected, dtype=int)[inner] - found[k][inner]).max() <= 2


def test_flips_and_turns_go_with_resized_crops():
    """An orientation is applied to the crop, not to where it lies."""
    images = smooth(200, 40)
    plain = maps_of(200, ViewSpec(scale=(0.3, 1.0), ratio=(1.0, 1.0)), 40, 32)
    turned = maps_of(200, ViewSpec(scale=(0.3, 1.0), ratio=(1.0, 1.0), dihedral=True), 40, 32)
    np.testing.assert_array_equal(plain[:2], turned[:2])
    one, other = looked_up(images, plain, 32), looked_up(images, turned, 32)
    kinds = set()
    for k in range(200):
        ways = [np.rot90(side, n) for side in (one[k].numpy(), one[k].numpy()[:, ::-1]) for n in range(4)]
        differences = [np.abs(way - other[k].numpy()).max() for way in ways]
        assert min(differences) <= 1  # a tie of rounding at most
        kinds.add(int(np.argmin(differences)))
    assert len(kinds) == 8
