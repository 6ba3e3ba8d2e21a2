from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from sapling.data.duplicates import Match, clusters, find_matches
from sapling.data.packed import prepare_image
from sapling.data.sources import open_source
from sapling.data.thumbnails import TRANSFORMS, inverse, lay, shrinking, thumbnails
from tests.data.pictures import encoded

SIZE = 48
PILLOW = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "flipped": Image.Transpose.FLIP_TOP_BOTTOM,
    "rotated 90": Image.Transpose.ROTATE_90,
    "rotated 180": Image.Transpose.ROTATE_180,
    "rotated 270": Image.Transpose.ROTATE_270,
    "transposed": Image.Transpose.TRANSPOSE,
    "transversed": Image.Transpose.TRANSVERSE,
}


def scenes(count=40, seed=0, contrast=40.0):
    """Pictures with structure at several scales, as photographs have."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, SIZE, SIZE, 3), np.float64)
    for sigma in (1, 3, 8):
        layer = gaussian_filter(rng.normal(size=(count, SIZE, SIZE, 3)), (0, sigma, sigma, 0), mode="reflect")
        grey = gaussian_filter(rng.normal(size=(count, SIZE, SIZE, 1)), (0, sigma, sigma, 0), mode="reflect")
        found += grey / grey.std() + 0.3 * layer / layer.std()
    return (110 + contrast / 2 * found).clip(0, 255).astype(np.uint8)


def with_copy(images, copy):
    return np.concatenate([images, np.asarray(copy, np.uint8)[None]])


def jpeg(picture, quality):
    return np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(picture), "JPEG", quality=quality))))


def resized(picture, side):
    return prepare_image(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), SIZE)


@pytest.mark.parametrize("transform", list(PILLOW))
def test_a_copy_in_any_orientation_is_found_and_named(transform):
    images = scenes()
    turned = np.asarray(Image.fromarray(images[7]).transpose(PILLOW[transform]))
    (match,) = find_matches(with_copy(images, turned))
    assert match == Match(7, 40, "near", transform, match.distance)
    assert match.distance < 1e-3
    (match,) = find_matches(with_copy(images, jpeg(turned, 60)))
    assert (match.first, match.second, match.transform) == (7, 40, transform)
    assert 1e-3 < match.distance < 0.25


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: jpeg(picture, 30),
        lambda picture: resized(picture, SIZE // 2),
        lambda picture: resized(picture, SIZE * 2),
        lambda picture: resized(picture[: SIZE - 2, 2:], 3 * SIZE),
        lambda picture: picture * 0.8 + 15,
    ],
    ids=["jpeg 30", "half size", "double size", "crop of 4 %", "brighter, less contrast"],
)
def test_a_changed_copy_is_found(change):
    images = scenes()
    (match,) = find_matches(with_copy(images, change(images[3])))
    assert (match.first, match.second, match.kind, match.transform) == (3, 40, "near", "none")


def test_exact_copies_are_linked_to_the_first():
    images = scenes()
    matches = find_matches(np.concatenate([images, images[[5, 5, 9]], jpeg(images[5], 80)[None]]))
    assert matches[:2] == [Match(5, 40, "exact", "none", 0.0), Match(5, 41, "exact", "none", 0.0)]
    assert [(m.first, m.second, m.kind) for m in matches[2:]] == [(5, 43, "near"), (9, 42, "exact")]
    assert clusters(44, matches) == [(5, 40, 41, 43), (9, 42)]


def test_different_pictures_are_no_duplicates():
    assert find_matches(scenes(300, seed=1)) == []


def test_other_colours_are_another_picture():
    images = scenes()
    other = images[4][..., [2, 0, 1]]
    grey = np.asarray(Image.fromarray(images[4]).convert("L"), np.float64)
    # The same grey picture, with colours of its own.
    other = other + (grey - np.asarray(Image.fromarray(other).convert("L"), np.float64))[..., None]
    tinted = (other + np.array([60, -30, 0])).clip(0, 255)
    assert find_matches(with_copy(images, tinted)) == []


def test_blank_and_flat_pictures_match_only_where_their_pixels_do():
    rng = np.random.default_rng(0)
    colours = np.arange(30, 60, dtype=np.uint8)[:, None, None, None]
    blank = np.broadcast_to(colours, (30, SIZE, SIZE, 3)).copy()
    assert find_matches(blank) == []
    (match,) = find_matches(with_copy(blank, blank[3]))
    assert match == Match(3, 30, "exact", "none", 0.0)
    # Dark water: a tint, and the noise of a camera; one has a bright corner in the same place as another.
    water = (blank + rng.normal(0, 1.2, blank.shape)).clip(0, 255).astype(np.uint8)
    water[[4, 5], :6, :6] = 200
    assert find_matches(water) == []
    # The same water, mirrored without loss, is known by its noise.
    assert [(m.second, m.transform) for m in find_matches(with_copy(water, water[8, :, ::-1]))] == [(30, "mirrored")]


def test_a_picture_that_is_its_own_mirror_image_lies_as_it_is():
    images = scenes()
    images[2] = np.concatenate([images[2, :, : SIZE // 2], images[2, :, SIZE // 2 - 1 :: -1]], axis=1)
    exact, near = find_matches(np.concatenate([images, images[2:3, :, ::-1], jpeg(images[2], 85)[None]]))
    assert (exact.kind, exact.transform) == ("exact", "none")
    assert (near.second, near.kind, near.transform) == (41, "near", "none")


def test_sets_in_which_all_look_alike_are_judged_more_strictly():
    digits = open_source("digits")
    images = np.stack([prepare_image(digits.open(item), 32) for item in digits.items[:600]])
    assert find_matches(images) == []
    copy = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(images[11]).rotate(90), "JPEG", quality=60))))
    (match,) = find_matches(with_copy(images, copy))
    assert (match.first, match.second, match.transform) == (11, 600, "rotated 90")


def test_many_copies_of_each_picture_do_not_hide_each_other():
    """A set that was enlarged by turning and recompressing: every picture has fifteen copies in it."""
    originals = scenes(12, seed=3)
    sets = [originals]
    for k in range(15):
        turned = lay(originals.transpose(0, 3, 1, 2), TRANSFORMS[k % 8]).transpose(0, 2, 3, 1)
        sets.append(np.stack([jpeg(np.ascontiguousarray(picture), 50 + 3 * k) for picture in turned]))
    images = np.concatenate(sets)
    found = clusters(len(images), find_matches(images))
    assert sorted(found) == [tuple(range(k, len(images), 12)) for k in range(12)]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_images(count):
    images = scenes(3)[:count]
    assert find_matches(images) == []
    if count:
        (match,) = find_matches(with_copy(images, images[0][::-1]))
        assert (match.first, match.second, match.transform) == (0, count, "flipped")


@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_any_size_of_picture(size):
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    matches = find_matches(with_copy(images, images[1]))
    assert Match(1, 5, "exact", "none", 0.0) in matches


def test_a_memory_map_is_read_in_chunks_and_progress_ends_at_all(tmp_path, monkeypatch):
    images = with_copy(scenes(), scenes()[6, ::-1])
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    plain = find_matches(images)
    monkeypatch.setattr("sapling.data.thumbnails._CHUNK_BYTES", 3 * SIZE * SIZE * 7)
    seen = []
    assert find_matches(mapped, progress=lambda done, total: seen.append((done, total))) == plain
    assert seen[-1] == (82, 82)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_every_pair_of_blocks_is_compared(monkeypatch):
    monkeypatch.setattr("sapling.data.duplicates._BLOCK", (8, 16))
    images = scenes(50)
    copies = np.concatenate([images, images[[0, 20, 49], :, ::-1], images[[7, 8]].transpose(0, 2, 1, 3)])
    found = find_matches(copies)
    assert [(m.first, m.second) for m in found] == [(0, 50), (7, 53), (8, 54), (20, 51), (49, 52)]


def test_thumbnails_commute_with_turning():
    images = scenes(3)
    grey, colour = thumbnails(images)
    for transform in TRANSFORMS:
        turned = lay(images.transpose(0, 3, 1, 2), transform).transpose(0, 2, 3, 1)
        grey_of_turned, colour_of_turned = thumbnails(turned)
        np.testing.assert_allclose(grey_of_turned, lay(grey, transform), atol=1e-3)
        expected = lay(colour.transpose(0, 3, 1, 2), transform).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(colour_of_turned, expected, atol=1e-3)
        np.testing.assert_array_equal(lay(lay(grey, transform), inverse(transform)), grey)
    # A thumbnail is the average of what it covers.
    np.testing.assert_allclose(shrinking(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(shrinking(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)).filter(lambda pair: pair[0] < pair[1]), max_size=15))
def test_clusters_are_what_a_plain_loop_gathers(pairs):
    found = clusters(20, [Match(i, j, "near", "none", 0.1) for i, j in pairs])
    of = {i: {i} for i in range(20)}
    for i, j in pairs:
        merged = of[i] | of[j]
        for k in merged:
            of[k] = merged
    expected = {tuple(sorted(each)) for each in of.values() if len(each) > 1}
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [len(each) for each in found] == sorted(map(len, found), reverse=True)
