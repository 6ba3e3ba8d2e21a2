"""TIFF files of many bands: every layout gives the same values, and no damaged or hostile file gets far."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sapling.data import raster as raster_module
from sapling.data.raster import MissingPackageError, Raster, open_raster
from sapling.data.sources import decode_image
from sapling.data.tiff import PictureInfo, picture_info, read_header
from sapling.errors import DataError
from tests.data.pictures import encoded, picture
from tests.data.rasters import set_tag, tag_place, tiff, values

ARRAY = values(13, 20)[:, :18]  # neither side is the other


def saved(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


LAYOUTS = {
    "contiguous": lambda a: tiff(a),
    "planar": lambda a: tiff(a.transpose(2, 0, 1), planarconfig="separate"),
    "deflate": lambda a: tiff(a, compression="zlib", predictor=a.dtype.kind != "f"),
    "planar deflate": lambda a: tiff(a.transpose(2, 0, 1), planarconfig="separate", compression="zlib"),
    "strips": lambda a: tiff(a, rowsperstrip=3, compression="zlib"),
    "strips as they are": lambda a: tiff(a, rowsperstrip=3),
    "tiles": lambda a: tiff(a, tile=(16, 16)),
    "planar tiles": lambda a: tiff(a.transpose(2, 0, 1), planarconfig="separate", tile=(16, 16), compression="zlib"),
    "big-endian": lambda a: tiff(a, byteorder=">"),
    "BigTIFF": lambda a: tiff(a, bigtiff=True),
    "BigTIFF, big-endian": lambda a: tiff(a, bigtiff=True, byteorder=">"),
    "pages [C,H,W]": lambda a: saved(a.transpose(2, 0, 1), photometric="minisblack"),
    "pages [H,W,C]": lambda a: saved(a, photometric="minisblack"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint16", "uint8", "int16", "float32", "float64"])
def test_every_layout_gives_the_same_values(layout, dtype):
    array = ARRAY.astype(dtype)
    data = LAYOUTS[layout](array)
    assert picture_info(data) == PictureInfo("TIFF", dtype, 13, 18, 20)
    found = decode_image(data)
    assert isinstance(found, Raster)
    assert (found.size, found.num_bands, found.dtype) == ((18, 20), 13, np.dtype(dtype))
    np.testing.assert_array_equal(found.read(), array)


@pytest.mark.parametrize(
    ("array", "options", "is_raster"),
    [
        (values(3, dtype="uint8", top=255), {"photometric": "rgb"}, False),
        (values(3, dtype="uint8", top=255), {}, True),  # three bands that nobody calls colours
        (values(3), {"photometric": "rgb"}, True),
        (values(4, dtype="uint8", top=255), {"photometric": "rgb", "extrasamples": ["unspecified"]}, True),
        (values(4, dtype="uint8", top=255), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, False),
        (values(4, dtype="uint8", top=255), {}, True),
        (values(4, dtype="uint8", top=255), {"photometric": "separated"}, False),
        (values(2), {}, True),
        (values(1)[:, :, 0], {}, False),
        (values(1, dtype="float32")[:, :, 0], {}, False),
        (values(1, dtype="uint8", top=255)[:, :, 0], {}, False),
        (np.zeros((5, 20, 20), np.uint8), {"planarconfig": None}, False),  # pages of which nothing says what they are
    ],
)
def test_what_pillow_shows_as_a_photograph_stays_with_it(array, options, is_raster):
    data = tiff(array, **{"planarconfig": "contig" if array.ndim == 3 else None, **options})
    assert isinstance(decode_image(data), Raster) == is_raster


def test_other_formats_are_no_business_of_this_reader():
    for kind in ("PNG", "JPEG", "WEBP"):
        assert picture_info(encoded(picture(), kind)) is None
        assert open_raster(encoded(picture(), kind)) is None
    assert picture_info(b"") is None
    assert picture_info(encoded(picture(), "TIFF")) == ("TIFF", "uint8", 3, 12, 12)


# Hostile and damaged ------------------------------------------------------------------------------------------------


def refused(data, match=None):
    """Open and read; anything but the errors of a damaged picture fails, and so does a large allocation."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings(), pytest.raises((DataError, OSError), match=match):
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            found = decode_image(data)
            found.read() if isinstance(found, Raster) else found.load()
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_picture_that_claims_to_be_huge_is_refused_before_anything_is_allocated():
    data = tiff(ARRAY)
    refused(set_tag(set_tag(data, 256, 100_000), 257, 100_000), "pixels, more than the")
    refused(set_tag(set_tag(data, 256, 9_000), 257, 9_000), "pixels of 13 bands, more than")
    refused(set_tag(data, 257, 4_000), None)


def test_a_file_that_is_cut_off_is_refused_wherever_it_ends():
    for data in (tiff(ARRAY), tiff(ARRAY, compression="zlib"), LAYOUTS["pages [C,H,W]"](ARRAY)):
        for end in (len(data) - 100, len(data) // 2, 200, 40):
            refused(data[:end])


def test_a_part_that_inflates_beyond_the_picture_is_not_inflated():
    data = tiff(ARRAY, compression="zlib")
    bomb = zlib.compress(bytes(40 * 2**20), 1)
    place = len(data)
    data += bomb
    refused(set_tag(set_tag(data, 273, place), 279, len(bomb)), "holds more than the picture")


def test_a_file_that_contradicts_itself_is_refused():
    data = tiff(ARRAY, compression="zlib")
    at = tag_place(data, 256)
    other = tag_place(data, 305) if b"tifffile" in data else tag_place(data, 282)
    # The width a second time, in place of an unimportant tag: readers differ in which of them counts.
    twice = data[:other] + data[at : at + 8] + (17).to_bytes(4, "little") + data[other + 12 :]
    found = decode_image(twice)
    with contextlib.suppress(DataError):
        np.testing.assert_array_equal(found.read(), ARRAY)
    refused(set_tag(data, 277, 600), "600 bands, more than")
    refused(set_tag(data, 278, 1), "parts of 20")


def test_types_and_compressions_that_are_not_read():
    refused(tiff(ARRAY.astype(np.complex64)), "type that is not")
    refused(set_tag(tiff(ARRAY, compression="zlib"), 259, 34887), "compressed in a way that is not read")


def test_without_the_packages_the_error_names_them(monkeypatch):
    data = tiff(ARRAY)
    lzw = set_tag(data, 259, 5)
    monkeypatch.setattr(raster_module, "_has", lambda name: name != "imagecodecs")
    with pytest.raises(MissingPackageError, match=r"LZW.*imagecodecs") as caught:
        decode_image(lzw).read()
    assert "imagecodecs" in str(caught.value.remedy)
    monkeypatch.setattr(raster_module, "_has", lambda name: False)
    with pytest.raises(MissingPackageError, match=r"tifffile.*sapling-kd\[geo\]"):
        decode_image(data).read()


def test_the_names_of_the_packages_are_looked_up(monkeypatch):
    assert raster_module._has("tifffile")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert not raster_module._has("tifffile")


def test_what_tifffile_logs_stays_with_us(caplog):
    data = bytearray(tiff(ARRAY, compression="zlib", description="x" * 50))
    at = tag_place(bytes(data), 270)
    data[at + 8 : at + 12] = (2**31).to_bytes(4, "little")  # a text that lies beyond the end
    with caplog.at_level(logging.DEBUG, logger="tifffile"):
        np.testing.assert_array_equal(decode_image(bytes(data)).read(), ARRAY)
        assert not caplog.records
        logging.getLogger("tifffile").warning("of somebody else")
    assert [record.message for record in caplog.records] == ["of somebody else"]


SEEDS = [make(values(5, 8)) for make in LAYOUTS.values()]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_never_do_more_than_fail(data):
    blob = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = bytes(blob[: data.draw(st.integers(8, len(blob)))])
    read_header(blob)
    with contextlib.suppress(DataError):
        found = open_raster(blob)
        if found is not None and found.num_bands * found.size[0] * found.size[1] < 10**6:
            assert found.read().shape == (found.size[1], found.size[0], found.num_bands)


@given(st.binary(max_size=200), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]))
def test_any_bytes_behind_the_first_four(rest, magic):
    read_header(magic + rest)


def test_pages_that_go_round_in_circles_come_to_an_end():
    data = tiff(np.zeros((16, 16), np.uint16), planarconfig=None, description='{"shape": [300, 16, 16]}')
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    at = start + 2 + 12 * count
    looped = data[:at] + start.to_bytes(4, "little") + data[at + 4 :]
    with contextlib.suppress(DataError):  # a reader that notices is as good
        assert decode_image(looped).read().shape == (16, 16, 300)


def test_pillow_is_asked_for_what_is_left():
    with io.BytesIO() as file:
        Image.new("RGB", (5, 4), (1, 2, 3)).save(file, "TIFF", compression="tiff_lzw")
        image = decode_image(file.getvalue())
    assert not isinstance(image, Raster)
    assert image.size == (5, 4)


@pytest.mark.parametrize("shape", [(13, 8, 8), (200, 11, 11), (5, 32, 32), (13, 64, 64)])
def test_square_pages_are_bands_however_few_pixels_they_have(shape):
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    found = decode_image(saved(array, photometric="minisblack")).read()
    np.testing.assert_array_equal(found, array.transpose(1, 2, 0))
