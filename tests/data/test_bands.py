"""From values to bytes: bands in their order, ranges, what is missing, and data sets as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sapling.bands import Bands
from sapling.data import raster as raster_module
from sapling.data import survey
from sapling.data.broken import bad_image
from sapling.data.loader import load_data
from sapling.data.packed import open_store
from sapling.data.pixels import prepare_image, thumbnail
from sapling.data.raster import MissingPackageError
from sapling.data.sources import decode_image, open_source
from sapling.data.survey import settle_bands
from sapling.data.thumbnails import thumbnails
from sapling.data.values import kind_of, read_values
from sapling.errors import ConfigError, DataError
from tests.data.pictures import class_pictures, encoded, picture, write_folder, write_zip
from tests.data.rasters import multispectral, tiff, values

ARRAY = values(13, 16)


def plain(bands: int, chosen: tuple[int, ...] | None = None, low: float = 0, high: float = 4000) -> Bands:
    chosen = chosen or tuple(range(1, bands + 1))
    return Bands(bands, chosen, (low,) * len(chosen), (high,) * len(chosen))


def settled(folder, **given):
    source = open_source(folder)
    return settle_bands(source, sample=np.arange(len(source.items)), **given)


# From values to bytes -----------------------------------------------------------------------------------------------


def test_the_range_becomes_all_bytes_and_no_more():
    array = np.array([[[500], [1000], [1500]], [[2000], [3000], [9000]], [[0], [65535], [1004]]], np.uint16)
    found = prepare_image(decode_image(tiff(np.repeat(array, 5, 2))), 3, plain(5, (2,), 1000, 3000))
    assert found[:, :, 0].tolist() == [[0, 0, 64], [128, 255, 255], [0, 255, 1]]


def test_bands_keep_the_order_in_which_they_were_chosen():
    picked = (4, 3, 2, 13, 4)
    found = prepare_image(decode_image(tiff(ARRAY)), 16, plain(13, picked))
    expected = np.rint(np.clip(ARRAY / 4000 * 255, 0, 255))
    for channel, band in enumerate(picked):
        np.testing.assert_allclose(found[:, :, channel], expected[:, :, band - 1], atol=1)


def test_what_was_not_measured_is_low():
    array = values(5, 8, "float32")
    array[0, 0], array[0, 1], array[0, 2], array[0, 3] = np.nan, -9999, np.inf, -np.inf
    data = tiff(array, extratags=[(42113, 2, 6, "-9999", True)])
    picture_, nodata = decode_image(data), read_values(decode_image(data))[1]
    assert nodata == -9999
    found = prepare_image(picture_, 8, plain(5, low=-10000, high=4000))
    assert found[0, :4, 0].tolist() == [0, 0, 255, 0], "-9999 lies inside of the range and is missing all the same"
    assert found[1:].min() > 100
    largest = float(np.finfo(np.float32).max)
    array[0, 1] = largest
    data = tiff(array, extratags=[(42113, 2, 17, f"{largest:.9g}", True)])
    assert prepare_image(decode_image(data), 8, plain(5))[0, 1].tolist() == [0] * 5


@pytest.mark.parametrize("lies", range(1, 9))
def test_turned_pictures_are_put_upright_as_photographs_are(lies):
    array = values(3, 16, "uint8", top=255)[:, :11]
    as_photograph = Image.fromarray(array)
    exif = Image.Exif()
    exif[274] = lies
    expected = prepare_image(decode_image(encoded(as_photograph, "PNG", exif=exif)), 11)
    turned = tiff(array, photometric="minisblack", extratags=[(274, 3, 1, lies, True)])
    for data in (turned, encoded(as_photograph, "PNG", exif=exif)):
        np.testing.assert_array_equal(prepare_image(decode_image(data), 11, plain(3, high=255)), expected)


@pytest.mark.parametrize("lies", range(1, 9))
def test_grey_of_16_bits_is_turned_once(lies):
    """Pillow turns TIFFs itself, and other formats not."""
    array = values(1, 16)[:, :11, 0]
    exif = Image.Exif()
    exif[274] = lies
    by_png = decode_image(encoded(Image.fromarray(array), "PNG", exif=exif))
    by_tiff = decode_image(tiff(array, planarconfig=None, extratags=[(274, 3, 1, lies, True)]))
    found = [prepare_image(picture, 11, plain(1)) for picture in (by_png, by_tiff)]
    np.testing.assert_array_equal(*found)
    assert (lies == 1) == np.array_equal(found[0], prepare_image(Image.fromarray(array), 11, plain(1)))


def test_bytes_of_many_bands_are_those_of_a_photograph():
    """The same picture by both ways: the same centre, the same antialiasing, up to rounding."""
    array = 64 + np.asarray(picture(3, 50, 37)) // 2  # bytes are clipped between the two passes of a resize
    for side in (37, 20, 60):
        found = prepare_image(decode_image(tiff(array)), side, plain(3, high=255)).astype(int)
        expected = prepare_image(Image.fromarray(array), side)
        assert np.abs(found - expected).max() <= (0 if side == 37 else 1)


@settings(max_examples=25)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64]),
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(5)),
    ),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.integers(1, 7),
)
def test_any_values_become_bytes_in_their_order(array, low, width, side):
    found = prepare_image(decode_image(tiff(array)), side, plain(5, (5, 1), low, low + width))
    assert (found.shape, found.dtype) == ((side, side, 2), np.uint8)
    if side == min(array.shape[:2]) == max(array.shape[:2]):
        order = np.argsort(array[:, :, 4].ravel())
        real = order[~np.isnan(array[:, :, 4].ravel()[order].astype(float))]
        assert (np.diff(found[:, :, 0].ravel()[real].astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", (1, "uint8")), ("1", (1, "uint8")), ("P", (3, "uint8")), ("RGB", (3, "uint8")), ("RGBA", (4, "uint8")),
     ("LA", (2, "uint8")), ("CMYK", (4, "uint8")), ("I;16", (1, "uint16")), ("I", (1, "int32")), ("F", (1, "float32"))],
)  # fmt: skip
def test_pillows_pictures_are_pictures_of_bands_too(mode, kind):
    image = picture().convert("L").convert(mode) if mode.startswith(("I", "F")) else picture().convert(mode)
    assert kind_of(image) == kind
    found, _ = read_values(image)
    assert found.shape == (12, 12, kind[0])
    assert found.dtype == np.dtype(kind[1])


def test_the_number_of_bands_must_be_the_expected_one():
    with pytest.raises(DataError, match="it has 5 bands, and 13 bands are expected"):
        prepare_image(decode_image(tiff(values(5))), 16, plain(13))
    with pytest.raises(DataError, match="13 bands of uint16, and an ordinary picture is expected"):
        prepare_image(decode_image(tiff(ARRAY)), 16)


def test_people_see_red_green_and_blue_stretched():
    shown = thumbnail(decode_image(tiff(ARRAY)), 8)
    assert (shown.shape, shown.dtype) == ((8, 8, 3), np.uint8)
    assert shown.min() < 20
    assert shown.max() > 235
    red = prepare_image(decode_image(tiff(ARRAY)), 8, plain(13, (4,)))[:, :, 0].astype(float)
    assert np.corrcoef(shown[:, :, 0].ravel(), red.ravel())[0, 1] > 0.99
    dark = Image.fromarray(values(1)[:, :, 0])
    assert thumbnail(dark, 8).std() > 3 * prepare_image(dark, 8).std()
    np.testing.assert_array_equal(thumbnail(picture(), 8), prepare_image(picture(), 8))
    assert thumbnail(decode_image(tiff(np.full((4, 4, 5), np.nan, np.float32))), 4).max() == 0


def test_thumbnails_for_the_search_of_duplicates_take_any_number_of_channels():
    stored = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 13), np.uint8)
    for channels, shown in ((13, [3, 2, 1]), (5, [0, 1, 2]), (1, [0, 0, 0])):
        for found, expected in zip(thumbnails(stored[..., :channels]), thumbnails(stored[..., shown]), strict=True):
            np.testing.assert_array_equal(found, expected)


# Data sets ----------------------------------------------------------------------------------------------------------


def test_ordinary_pictures_take_the_old_way(tmp_path):
    files = class_pictures() | {
        "cat/grey.png": encoded(picture(5, mode="L")),
        "dog/clear.png": encoded(picture(6, mode="RGBA")),
    }
    source = open_source(write_folder(tmp_path / "plain", files))
    assert settle_bands(source, sample=np.arange(4)) == (None, ())
    data = load_data(source, img_size=8)
    assert data.store.bands is None
    assert "bands" not in data.card()
    for k, item in enumerate(data.source.items):
        np.testing.assert_array_equal(data.store.images[k], prepare_image(source.open(item), data.store.size))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_set_of_many_bands(tmp_path, kind):
    folder = multispectral(tmp_path / "ms")
    if kind == "zip":
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.tif")}
        folder = write_zip(tmp_path / "ms.zip", files)
    data = load_data(folder, img_size=16)
    assert data.store.images.shape == (36, 16, 16, 13)
    assert data.num_channels == 13
    card = data.card()["bands"]
    assert card["num_bands"] == 13
    assert card["mean"] == list(data.channel_statistics[0])
    pixels = data.store.images[data.split.train].astype(float) / 255
    np.testing.assert_allclose(card["mean"], pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(card["std"], pixels.std((0, 1, 2)))
    batch = next(data.train_batches(0, batch_size=4, seed=0))
    assert batch.images.shape == (4, 13, 16, 16)
    assert any("13 bands of uint16" in note for note in data.source.notes)


def test_the_range_comes_from_the_training_images_alone(tmp_path):
    folder = multispectral(tmp_path / "ms")
    data = load_data(folder, img_size=16)
    again = load_data(folder, img_size=16)
    assert again.store.folder == data.store.folder
    for index in (*data.split.val, *data.split.test):
        path = folder / data.source.items[index].key
        path.write_bytes(tiff(values(13, 16, top=60000)))
    changed = load_data(folder, img_size=16)
    assert changed.store.bands == data.store.bands
    train = np.stack([read_values(data.source.open(data.source.items[i]))[0] for i in data.split.train])
    low, high = np.percentile(train.reshape(-1, 13), (0.5, 99.5), axis=0)
    np.testing.assert_allclose(data.store.bands.low, low)
    np.testing.assert_allclose(data.store.bands.high, high)


def test_settings_choose_bands_and_range_and_make_another_store(tmp_path):
    folder = multispectral(tmp_path / "ms")
    stores = {}
    for bands, value_range in ((None, None), ("rgb", None), ((4, 3, 2), (0, 4000)), ((2, 3, 4), (0, 4000))):
        data = load_data(folder, img_size=16, bands=bands, value_range=value_range)
        stores[data.store.folder] = data
    assert len(stores) == 4
    *_, rgb, bgr = (data.store.images for data in stores.values())
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])
    with pytest.raises(ConfigError, match="no band 14"):
        load_data(folder, img_size=16, bands=(14,))
    with pytest.raises(ConfigError, match="range of values"):
        load_data(folder, img_size=16, value_range=(3, 3))


def test_a_store_of_other_bands_is_not_used(tmp_path):
    source = open_source(multispectral(tmp_path / "ms", each=2))
    first = open_store(source, 16, bands=plain(13, (1, 2, 3)))
    second = open_store(source, 16, bands=plain(13, (1, 2, 3), high=2000))
    assert first.folder != second.folder
    assert first.fingerprint != second.fingerprint
    assert open_store(source, 16, bands=plain(13, (1, 2, 3))).fingerprint == first.fingerprint


def test_pictures_of_different_kinds_are_named(tmp_path):
    folder = multispectral(tmp_path / "ms", each=3)
    (folder / "water" / "other.tif").write_bytes(tiff(values(12)))
    with pytest.raises(
        DataError, match=r"13 bands of more than 8 bits: field/field00.tif.*\n.*12 bands.*water/other.tif"
    ):
        load_data(folder, img_size=16)
    (folder / "water" / "other.tif").unlink()
    (folder / "water" / "other.jpg").write_bytes(encoded(picture(), "JPEG"))
    with pytest.raises(DataError, match=r"3 bands of 8 bits: water/other.jpg"):
        load_data(folder, img_size=16)
    (folder / "water" / "other.jpg").write_bytes(tiff(values(13, 16, "uint8", top=255)))
    with pytest.raises(DataError, match=r"13 bands of 8 bits: water/other.jpg"):
        load_data(folder, img_size=16)
    assert load_data(folder, img_size=16, value_range=(0, 255)).num_channels == 13


def test_a_picture_of_other_bands_that_no_sample_shows_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "NUM_SAMPLED", 2)
    files = {f"{'ab'[k % 2]}/{k:03}.tif": tiff(values(6 if k == 8 else 5, 8, seed=k)) for k in range(16)}
    with pytest.raises(DataError, match=r"008.tif: it has 6 bands, and 5 bands are expected"):
        load_data(write_folder(tmp_path / "many", files), img_size=8, on_bad_image="fail")


def test_without_the_extra_one_clear_error(tmp_path, monkeypatch):
    folder = multispectral(tmp_path / "ms", each=3)
    monkeypatch.setattr(raster_module, "_has", lambda name: False)
    with pytest.raises(DataError, match=r"sapling-kd\[geo\]") as caught:
        load_data(folder, img_size=16)
    assert "cannot be used" not in str(caught.value)
    monkeypatch.setattr(raster_module, "_has", lambda name: name == "tifffile")
    for path in folder.rglob("*.tif"):
        data = path.read_bytes()
        path.write_bytes(
            data.replace(b"\x03\x01\x03\x00\x01\x00\x00\x00\x01\x00", b"\x03\x01\x03\x00\x01\x00\x00\x00\x05\x00")
        )
    with pytest.raises(DataError, match="imagecodecs"):
        load_data(folder, img_size=16, on_bad_image="skip")


def test_a_missing_package_is_no_fault_of_a_picture():
    assert not bad_image("a.tif", MissingPackageError("it needs imagecodecs")).is_lasting
    assert bad_image("a.tif", DataError("the file is cut off")).is_lasting


@pytest.mark.parametrize("value_range", [None, (0, 4000)])
def test_one_band_of_floats_is_shown_as_grey(tmp_path, value_range):
    files = {
        f"{'ab'[k % 2]}/{k}.tif": tiff(values(1, 12, "float32", seed=k)[:, :, 0], planarconfig=None) for k in range(12)
    }
    data = load_data(write_folder(tmp_path / "grey", files), img_size=8, value_range=value_range)
    assert data.num_channels == 3
    assert (data.store.images == data.store.images[..., :1]).all()
    assert data.store.images.std() > 40


def test_dark_grey_of_16_bits_is_stretched_where_that_is_asked_for(tmp_path):
    files = {f"{'ab'[k % 2]}/{k}.png": encoded(Image.fromarray(values(1, 12, seed=k)[:, :, 0])) for k in range(12)}
    folder = write_folder(tmp_path / "dark", files)
    as_ever = load_data(folder, img_size=8)
    assert as_ever.store.bands is None
    assert as_ever.store.images.max() < 16
    assert any("--value-range 0," in note for note in as_ever.source.notes)
    stretched = load_data(folder, img_size=8, value_range=(0, 4000))
    assert stretched.num_channels == 3
    assert stretched.store.images.max() > 200
    bright = {key: encoded(Image.fromarray(values(1, 12, top=60000)[:, :, 0])) for key in files}
    assert not load_data(write_folder(tmp_path / "bright", bright), img_size=8).source.notes


def test_bands_of_ordinary_pictures_can_be_chosen_too(tmp_path):
    data = load_data(write_folder(tmp_path / "plain", class_pictures()), img_size=12, bands=(3,))
    assert data.store.images.shape[3] == 1
    first = data.source.open(data.source.items[0])
    np.testing.assert_array_equal(data.store.images[0][:, :, 0], np.asarray(first)[:, :, 2])
