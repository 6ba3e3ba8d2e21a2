"""Damaged PNG files, which Pillow decodes to other pixels without a word, are refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sapling.data.pngfile import check_png
from sapling.data.sources import decode_image
from sapling.errors import DataError
from tests.data.pictures import encoded, picture
from tests.data.scenes import scene

PNG = encoded(scene(1, 96))
FIRST = PNG.index(b"IDAT")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_whole_files_pass(mode):
    check_png(encoded(picture(2, 40, 30, mode)))
    assert decode_image(encoded(picture(2, 40, 30, mode))).size == (40, 30)


@settings(max_examples=60)
@given(place=st.integers(FIRST + 4, len(PNG) - 20), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_pixels_is_met(place, bit):
    damaged = bytearray(PNG)
    damaged[place] ^= 1 << bit
    with pytest.raises(DataError, match="its checksum is wrong: the file is damaged"):
        decode_image(bytes(damaged))


def test_without_the_check_pillow_gives_other_pixels(monkeypatch):
    monkeypatch.setattr("sapling.data.base.check_png", lambda _: None)
    wrong = 0
    for place in range(FIRST + 40, len(PNG) - 40, 13):
        damaged = bytearray(PNG)
        damaged[place] ^= 0xFF
        with suppress(OSError):
            wrong += decode_image(bytes(damaged)).convert("RGB").tobytes() != scene(1, 96).tobytes()
    assert wrong > 0


@settings(max_examples=60)
@given(st.binary(max_size=200), st.integers(0, len(PNG)))
def test_other_files_and_cut_ones_are_left_to_the_decoder(data, end):
    check_png(data)
    check_png(PNG[:end])
    check_png(b"\x89PNG\r\n\x1a\n" + data.replace(b"IDAT", b""))
    check_png(encoded(picture(3), "JPEG"))


def test_a_damaged_chunk_length_ends_the_walk():
    assert isinstance(decode_image(PNG), Image.Image)
    check_png(PNG[: FIRST - 4] + b"\xff\xff\xff\xff" + PNG[FIRST:])
