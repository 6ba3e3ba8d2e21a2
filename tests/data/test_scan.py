"""Headers: what is read without decoding a pixel."""

from __future__ import annotations

import pytest
from PIL import Image

from sapling.data.scan import scan_headers
from sapling.data.sources import open_source
from tests.data.pictures import encoded, picture, write_folder, write_zip


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(1, 20, 10), "JPEG", exif=exif)


FILES = {
    "a/plain.png": encoded(picture(0, 20, 10)),
    "a/grey.png": encoded(picture(0, 20, 10, "L")),
    "a/palette.png": encoded(picture(0, 20, 10, "P")),
    "a/deep.png": encoded(Image.new("I;16", (20, 10), 40000)),
    "b/turned.jpg": rotated(),
    "b/print.jpg": encoded(picture(0, 20, 10, "CMYK"), "JPEG"),
    "b/really_a_jpeg.png": encoded(picture(0, 20, 10), "JPEG"),
    "b/really_a_png.JPG": encoded(picture(0, 20, 10)),
    "b/text.jpg": b"no image",
    "b/empty.jpg": b"",
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_headers_tell_size_format_mode_and_orientation(tmp_path, kind):
    path = write_folder(tmp_path / "d", FILES) if kind == "folder" else write_zip(tmp_path / "d.zip", FILES)
    seen: list[tuple[int, int]] = []
    headers, bad = scan_headers(open_source(path), progress=lambda done, total: seen.append((done, total)))
    by_key = {header.key: header for header in headers}
    assert seen[-1] == (len(FILES), len(FILES))
    assert {(image.key, image.reason) for image in bad} == {
        ("b/text.jpg", "it is not an image"),
        ("b/empty.jpg", "it is not an image"),
    }
    assert {key: h.mode for key, h in by_key.items()} == {
        "a/plain.png": "RGB",
        "a/grey.png": "L",
        "a/palette.png": "P",
        "a/deep.png": "I;16",
        "b/turned.jpg": "RGB",
        "b/print.jpg": "CMYK",
        "b/really_a_jpeg.png": "RGB",
        "b/really_a_png.JPG": "RGB",
    }
    assert [h.key for h in headers if h.has_wrong_suffix] == ["b/really_a_jpeg.png", "b/really_a_png.JPG"]
    assert [h.key for h in headers if h.is_rotated] == ["b/turned.jpg"]
    assert (by_key["b/turned.jpg"].width, by_key["b/turned.jpg"].height) == (10, 20)
    assert (by_key["a/plain.png"].width, by_key["a/plain.png"].height) == (20, 10)


def test_no_pixel_is_decoded(tmp_path, monkeypatch):
    path = write_folder(tmp_path / "d", {name: data for name, data in FILES.items() if data[:2] != b"no"})

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    source = open_source(path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    headers, bad = scan_headers(source)
    assert len(headers) == 8
    assert [image.key for image in bad] == ["b/empty.jpg"]


def test_endings_in_capitals_and_of_one_family_are_right(tmp_path):
    files = {
        f"{c}/x{suffix}": encoded(picture(), "JPEG") for c in "ab" for suffix in (".JPEG", ".jpe", ".jfif", ".Jpg")
    }
    headers, _ = scan_headers(open_source(write_folder(tmp_path / "d", files)))
    assert not any(header.has_wrong_suffix for header in headers)


def test_the_digits_have_no_format_and_no_ending():
    headers, bad = scan_headers(open_source("digits"))
    assert (len(headers), bad) == (1797, [])
    assert {(h.format, h.mode, h.has_wrong_suffix) for h in headers} == {("", "L", False)}
