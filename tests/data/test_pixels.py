from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sapling.data.pixels import prepare_image
from sapling.data.sources import decode_image, open_source
from sapling.errors import DataError
from tests.data.pictures import encoded, picture, real


def test_a_picture_of_the_right_size_keeps_its_pixels():
    image = picture(1, 32, 32)
    np.testing.assert_array_equal(prepare_image(image, 32), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(40, 32), (32, 41)])
def test_the_centre_is_cut(width, height):
    image = picture(2, width, height)
    left, top = (width - 32) // 2, (height - 32) // 2
    np.testing.assert_array_equal(prepare_image(image, 32), np.asarray(image)[top : top + 32, left : left + 32])


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = prepare_image(Image.fromarray(stripes), 16)
    inner = small[2:-2, 2:-2].astype(int)
    assert np.abs(inner - 127).max() <= 2  # without antialiasing it would be black or white


def test_size_and_kind_of_the_result():
    for size, side in (((300, 7), 16), ((5, 5), 32), ((1, 900), 8)):
        found = prepare_image(picture(0, *size), side)
        assert (found.shape, found.dtype, found.flags.writeable) == ((side, side, 3), np.uint8, True)


def gradient(mode: str) -> Image.Image:
    """The same dark-to-bright ramp in many modes."""
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    grey = Image.fromarray(ramp)
    if mode.startswith("I;16"):
        values = (ramp.astype(np.uint16) * 256).astype(">u2" if mode == "I;16B" else "<u2")
        return Image.frombytes(mode, grey.size, values.tobytes())
    if mode == "P":
        return grey.convert("RGB").quantize(32, dither=Image.Dither.NONE)
    if mode == "I":
        return Image.fromarray(ramp.astype(np.int32) * 256)
    if mode == "RGBA":
        return Image.merge("RGBA", [grey, grey, grey, Image.new("L", grey.size, 255)])
    if mode == "LA":
        return Image.merge("LA", [grey, Image.new("L", grey.size, 255)])
    return grey.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "RGBX", "P", "CMYK", "YCbCr", "I", "I;16", "I;16B", "HSV"])
def test_every_mode_becomes_the_same_rgb(mode):
    found = prepare_image(gradient(mode), 32).astype(int)
    expected = np.asarray(gradient("RGB")).astype(int)
    assert np.abs(found - expected).max() <= 2


def test_black_and_white():
    assert set(np.unique(prepare_image(gradient("1"), 32))) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white_whatever_colour_hides_there(mode):
    image = Image.new("LA" if mode == "LA" else "RGBA", (8, 8), (0, 0) if mode == "LA" else (255, 0, 0, 0))
    if mode == "P":
        image = Image.new("P", (8, 8), 3)
        image.putpalette([255, 0, 0] * 256)
        image.info["transparency"] = 3
    elif mode == "PA":
        image = Image.new("PA", (8, 8), (3, 0))
        image.putpalette([255, 0, 0] * 256)
    assert (prepare_image(image, 8) == 255).all()


def test_a_transparent_colour_of_an_rgb_picture_is_white_too():
    image = decode_image(encoded(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3)))
    assert image.mode == "RGB"
    assert (prepare_image(image, 8) == 255).all()


def test_float_pixels_are_refused_with_a_reason():
    with pytest.raises(DataError, match="32-bit float"):
        prepare_image(Image.fromarray(np.zeros((8, 8), np.float32)), 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_on_its_side_is_put_upright(orientation):
    upright = picture(5, 20, 15)
    # How the camera held the picture, so that the tag turns it back.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = prepare_image(decode_image(encoded(stored, "PNG", exif=exif)), 12)
    np.testing.assert_array_equal(found, prepare_image(upright, 12))


def test_a_damaged_tag_does_not_cost_the_picture():
    image = decode_image(encoded(picture(4), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage"))
    np.testing.assert_array_equal(prepare_image(image, 12), np.asarray(picture(4)))


def test_real_trees_in_all_their_modes():
    source = open_source(real("street_trees_lidar.zip"))
    by_mode = {}
    for item in source.items:
        image = source.open(item)
        by_mode.setdefault(image.mode, image)
    assert set(by_mode) == {"L", "P", "1"}
    spread = {mode: prepare_image(image, 64).std() for mode, image in by_mode.items()}
    assert spread["L"] > 5
    assert spread["P"] > 5
    assert spread["1"] == 0  # the only one, 海棠_40_view000, is a blank page in the data set itself
