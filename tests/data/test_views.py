from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.data import colour, erasing, geometry
from sapling.data import views as views_module
from sapling.data.parameters import Draws, operation_amounts, view_parameters
from sapling.data.views import PRESETS, ViewSpec, centre_view, make_views
from sapling.data.workspace import Workspace
from sapling.errors import ConfigError
from tests.data.pictures import run_python
from tests.data.view_digest import digest_of_views


def stored(count: int, side: int, channels: int = 3) -> torch.Tensor:
    values = np.random.default_rng(count).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return torch.from_numpy(values)


def views_of(images, indices, views, spec, seed, img_size):
    index, view = torch.tensor(indices), torch.tensor(views)
    return make_views(images[index % len(images)], index, view, spec=spec, view_seed=seed, img_size=img_size)


NEW = ("photo", "strong", "aerial_strong")
EVERYTHING = ViewSpec(
    shift=0.2, dihedral=True, scale=(0.2, 1.0), rotate=30.0, shear=0.2, brightness=0.5, contrast=0.5, saturation=0.5,
    hue=0.2, grayscale=0.2, blur=0.5, blur_sigma=(0.2, 2.0), operations=5, strength=0.7, erase=0.5,
)  # fmt: skip
specs = st.builds(ViewSpec, st.sampled_from([0.0, 0.1, 0.125, 0.3, 0.5]), st.booleans(), st.booleans())
numbers = st.integers(-(2**63), 2**63 - 1)


def one_view(image: np.ndarray, down: int, right: int, orientation: int, img_size: int) -> np.ndarray:
    """One view in plain numpy, as one would write it for a single picture: [S,S,C] to [C,H,W]."""
    start, pad = (image.shape[0] - img_size) // 2, img_size
    while pad > image.shape[0] - 1:
        pad -= 1
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    top, left = pad + start + down, pad + start + right
    crop = padded[top : top + img_size, left : left + img_size]
    if orientation & 4:
        crop = crop.transpose(1, 0, 2)
    if orientation & 1:
        crop = crop[:, ::-1]
    if orientation & 2:
        crop = crop[::-1]
    return crop.transpose(2, 0, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 24), st.integers(0, 12), st.sampled_from([1, 3, 13]), specs, numbers, st.data())
def test_views_are_what_a_plain_loop_makes(img_size, margin, channels, spec, seed, data):
    images = stored(5, img_size + margin, channels)
    indices = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
    views = data.draw(st.lists(st.integers(-1, 10**6), min_size=len(indices), max_size=len(indices)))
    found = views_of(images, indices, views, spec, seed, img_size)
    assert found.dtype == torch.uint8
    assert found.shape == (len(indices), channels, img_size, img_size)
    drawn = view_parameters(indices, views, seed, spec, img_size)
    for k, index in enumerate(indices):
        expected = one_view(images[index % 5].numpy(), drawn.down[k], drawn.right[k], drawn.orientation[k], img_size)
        np.testing.assert_array_equal(found[k].numpy(), expected)


@settings(max_examples=40, deadline=None)
@given(specs, numbers, st.data())
def test_the_same_view_in_any_batch(spec, seed, data):
    """Order, size and company of a batch change nothing."""
    images = stored(7, 20)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
    indices, views = [list(column) for column in zip(*pairs, strict=True)]
    together = views_of(images, indices, views, spec, seed, 16)
    order = data.draw(st.permutations(range(len(pairs))))
    shuffled = views_of(images, [indices[k] for k in order], [views[k] for k in order], spec, seed, 16)
    torch.testing.assert_close(shuffled, together[torch.tensor(order)], rtol=0, atol=0)
    for k in range(len(pairs)):
        alone = views_of(images, indices[k : k + 1], views[k : k + 1], spec, seed, 16)
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=0)


new_specs = st.sampled_from([*(PRESETS[name] for name in NEW), EVERYTHING])


@settings(max_examples=25)
@given(new_specs, numbers, st.sampled_from([1 << 18, 300, 1]), st.data())
def test_the_same_changed_view_in_any_batch(spec, seed, chunk, data):
    """Order, size, company and the division of a batch change nothing, bit by bit."""
    images = stored(7, 20)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 50), st.integers(-1, 50)), min_size=1, max_size=12))
    indices, views = [list(column) for column in zip(*pairs, strict=True)]
    together = views_of(images, indices, views, spec, seed, 16)
    assert together.dtype == torch.uint8
    assert together.is_contiguous(memory_format=torch.channels_last)
    order = data.draw(st.permutations(range(len(pairs))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views_module, "_CHUNK_PIXELS", chunk)
        shuffled = views_of(images, [indices[k] for k in order], [views[k] for k in order], spec, seed, 16)
    torch.testing.assert_close(shuffled, together[torch.tensor(order)], rtol=0, atol=0)
    for k, view in enumerate(views):
        alone = views_of(images, indices[k : k + 1], views[k : k + 1], spec, seed, 16)
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=0)
        if view < 0:
            torch.testing.assert_close(together[k], centre_view(images, 16)[indices[k] % 7], rtol=0, atol=0)


def test_two_threads_make_the_same_views():
    images, index = stored(40, 74), list(range(40))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(views_of(images, index, index, EVERYTHING, 0, 64))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_threads_that_make_views_at_once_do_not_disturb_each_other():
    images, index = stored(40, 40), list(range(40))
    expected = views_of(images, index, index, EVERYTHING, 0, 32)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: views_of(images, index, index, EVERYTHING, 0, 32), range(12)))
    for each in found:
        torch.testing.assert_close(each, expected, rtol=0, atol=0)


def test_a_batch_is_not_overwritten_by_the_next():
    images = stored(8, 20)
    first = views_of(images, list(range(8)), [0] * 8, EVERYTHING, 0, 16)
    kept = first.clone()
    views_of(images, list(range(8)), [1] * 8, EVERYTHING, 0, 16)
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_moves_of_whole_pixels_are_the_same_by_interpolation():
    """With nothing to resize, the sampling of the new presets gives what the gather of the old ones does."""
    images, index = stored(60, 20), list(range(60))
    for name in ("shift", "light", "aerial"):
        spec = PRESETS[name]
        expected = views_of(images, index, index, spec, 3, 16)
        found = views_of(images, index, index, replace(spec, erase=1e-12), 3, 16)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # a map that may turn but does not, and one that may not
    turned = views_of(images, index, index, replace(PRESETS["light"], rotate=1e-9), 3, 16)
    torch.testing.assert_close(turned, views_of(images, index, index, PRESETS["light"], 3, 16), rtol=0, atol=0)


def test_stages_are_applied_in_their_order():
    """The whole is what its parts make of one picture at a time."""
    images, size = stored(12, 20), 16
    index = np.arange(12)
    found = views_of(images, index.tolist(), (index * 5).tolist(), EVERYTHING, 9, size)
    draws, work = Draws(index, index * 5, 9), Workspace()
    amounts = operation_amounts(draws, EVERYTHING)
    maps = torch.from_numpy(geometry.affine_maps(draws, EVERYTHING, amounts, 20, size))
    matrix, offset = (torch.from_numpy(v) for v in colour.colour_matrices(draws, EVERYTHING, amounts))
    blurred, kernels = colour.draw_blur(draws, EVERYTHING)
    erased = erasing.draw_erasing(draws, EVERYTHING, size)
    for k in range(12):
        one = slice(k, k + 1)
        amount = {name: values[one] for name, values in amounts.items()}
        pixels = geometry.sample(images[one], maps[:, one], size, turned=True, work=work).clone()
        colour.change_tones(pixels, amount, work)
        pixels = colour.change_colours(pixels, matrix[..., one], offset[one], work).clone()
        colour.sharpen(pixels, amount["sharpness"], work)
        colour.blur(pixels, blurred[one], kernels[one], work)
        erasing.erase(pixels, erased[:, one], EVERYTHING.erase_fill, work)
        torch.testing.assert_close(found[k].to(torch.int32), pixels[:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13])
def test_any_number_of_channels_is_moved_blurred_and_erased_alike(channels):
    spec = ViewSpec(scale=(0.3, 1.0), dihedral=True, rotate=20.0, blur=0.5, erase=0.5, erase_fill="grey")
    images, index = stored(6, 20, channels), list(range(6))
    found = views_of(images, index, index, spec, 1, 16)
    assert found.shape == (6, channels, 16, 16)
    for channel in range(channels):
        alone = views_of(images[..., channel : channel + 1], index, index, spec, 1, 16)
        torch.testing.assert_close(found[:, channel : channel + 1], alone, rtol=0, atol=0)


def test_views_need_no_gradient_and_leave_the_store_alone():
    images = stored(6, 20)
    before = images.clone()
    found = views_of(images, list(range(6)), [0] * 6, EVERYTHING, 1, 16)
    assert not found.requires_grad
    torch.testing.assert_close(images, before, rtol=0, atol=0)


def test_an_even_picture_stays_even_wherever_it_is_moved():
    """No black corners, no dark borders."""
    images = torch.full((64, 20, 20, 3), 137, dtype=torch.uint8)
    spec = ViewSpec(scale=(0.1, 1.0), rotate=180.0, shear=1.0, shift=0.5, operations=5, blur=1.0,
                    omit=("posterize", "solarize", "brightness", "contrast"))  # fmt: skip
    found = views_of(images, list(range(64)), list(range(64)), spec, 0, 16)
    assert found.unique().tolist() == [137]


def test_views_of_one_image_differ():
    images = stored(1, 16)
    for name, least in (("shift", 15), ("light", 20), ("aerial", 30)):
        found = views_of(images, [0] * 40, list(range(40)), PRESETS[name], 0, 16)
        assert len({view.numpy().tobytes() for view in found}) >= least


def test_the_dihedral_ways_are_eight_and_flips_are_two():
    images = stored(1, 8)
    for spec, ways in ((ViewSpec(dihedral=True), 8), (ViewSpec(flip=True), 2), (ViewSpec(), 1)):
        found = views_of(images, [0] * 200, list(range(200)), spec, 0, 8)
        assert len({view.numpy().tobytes() for view in found}) == ways
    turned = {np.ascontiguousarray(np.rot90(images[0].numpy(), k)).tobytes() for k in range(4)}
    found = views_of(images, [0] * 200, list(range(200)), ViewSpec(dihedral=True), 0, 8)
    assert turned < {view.permute(1, 2, 0).contiguous().numpy().tobytes() for view in found}


def test_a_negative_view_is_the_centre():
    images = stored(4, 21)
    for spec in PRESETS.values():
        found = views_of(images, [0, 1, 2, 3], [-1, -1, -1, -1], spec, 5, 16)
        torch.testing.assert_close(found, centre_view(images, 16), rtol=0, atol=0)
    np.testing.assert_array_equal(centre_view(images, 16).numpy(), images[:, 2:18, 2:18].numpy().transpose(0, 3, 1, 2))


def test_shifts_use_the_margin_of_the_store_before_they_mirror():
    images = stored(1, 20)
    inside = np.lib.stride_tricks.sliding_window_view(images[0].numpy(), (16, 16), axis=(0, 1)).reshape(25, -1)
    known = {window.tobytes() for window in inside}
    found = views_of(images, [0] * 60, list(range(60)), ViewSpec(shift=0.125), 0, 16)  # 2 pixels: the margin
    assert {view.contiguous().numpy().reshape(-1).tobytes() for view in found} <= known


# Kept teacher answers rely on these: one may change only together with the version of views in a cache.
GOLDEN = {
    "none": "d4930ebe0809fcff3b5b7c138b107f7823ae5418f74273d17c60ba7872f842ad",
    "shift": "2755284e17e6ace1ee10f778ab01472b4125796f86415fb5fa4dde86e6b84087",
    "light": "e9e7d8e6dc55419746bc89462f79b0cac88805d1d178c348d50afdd1afc53e6d",
    "aerial": "0c13bc13ddc58edb3efadc5dbef3d0b7d1067437a2ef8f492cafaf47bf9479c7",
}
GOLDEN_OF_STEP_2 = {
    "photo": "616904dad53ff4cd7b560e9fe77a61ef7fb5f1b59ef6f84078dba65c78dbd9c0",
    "strong": "2388991383512d8f618acf4b49ebfb7964ad5e354b5996e3162490a1a6a7d652",
    "aerial_strong": "ce99aa4f054f95ad8b19a391dfcfd6c2018741fe7ba9e93bd9f67529f6685c6f",
}
GOLDEN_13_BANDS = {
    "none": "8abc67ddadf2fd11203725ecb01d7797b3ead2765817dd48a6e89f6d60701063",
    "shift": "a82616ede7e86cd0d04245222cc324e7c37ffd089fdd2ec2fa278d634f893ff5",
    "light": "4a575de8a1918d792083156812c05d69a3f9575806e26544cc8434515be25ccb",
    "aerial": "22f34b6c9ec5c4a1ff09e21a009a6ad79d2e77d6079534b034b52551f6d8b0e4",
}


def test_presets_draw_what_they_always_drew():
    found = {name: digest_of_views(name) for name in PRESETS}
    assert found == {**GOLDEN, **GOLDEN_OF_STEP_2}
    assert {name: digest_of_views(name, channels=13) for name in GOLDEN_13_BANDS} == GOLDEN_13_BANDS


def test_another_process_draws_the_same_views():
    there = run_python("-m", "tests.data.view_digest", *PRESETS).stdout.split()
    assert there == [*GOLDEN.values(), *GOLDEN_OF_STEP_2.values()]


def test_views_are_channels_last_in_memory():
    found = views_of(stored(3, 20), [0, 1], [0, 1], PRESETS["light"], 0, 16)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_views():
    images, index = stored(9, 20), torch.arange(9)
    for spec in (*PRESETS.values(), EVERYTHING):
        arguments = {"spec": spec, "view_seed": 3, "img_size": 16}
        here = make_views(images, index, index, **arguments)
        there = make_views(images.cuda(), index.cuda(), index.cuda(), **arguments)
        torch.testing.assert_close(there.cpu(), here, rtol=0, atol=0)


# Wrong calls --------------------------------------------------------------------------------------------


def test_views_larger_than_the_store():
    with pytest.raises(ConfigError, match="views of 32 pixels"):
        views_of(stored(2, 20), [0], [0], PRESETS["light"], 0, 32)


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_colours_of_other_than_three_channels_are_refused(channels):
    with pytest.raises(ConfigError, match=f"the pictures have {channels} channels"):
        views_of(stored(2, 20, channels), [0], [0], PRESETS["photo"], 0, 16)


def test_pictures_of_one_pixel_cannot_be_resized():
    with pytest.raises(ConfigError, match="one pixel"):
        views_of(stored(2, 1), [0], [0], ViewSpec(scale=(0.5, 1.0)), 0, 1)
