"""Files as users have them: formats, modes, rotations and wrong endings, by every way in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from sapling.data.formats import HEAD_BYTES, image_format, misnamed, named_format
from sapling.data.layout import IMAGE_SUFFIXES
from sapling.data.packed import prepare_image
from sapling.data.sources import open_source
from tests.data.pictures import class_pictures, encoded, picture, write_folder, write_zip
from tests.data.test_pixels import gradient

# format, ending, modes that it can hold, largest difference of a grey value
FORMATS = [
    ("PNG", "png", ("1", "L", "LA", "P", "P transparent", "RGB", "RGBA", "I;16"), 2),
    ("TIFF", "tif", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"), 2),
    ("JPEG", "jpg", ("L", "RGB", "CMYK"), 6),
    ("WEBP", "webp", ("RGB", "RGBA"), 6),
    ("BMP", "bmp", ("1", "L", "P", "RGB"), 2),
    ("GIF", "gif", ("L", "P", "P transparent", "frames"), 2),
    ("PPM", "ppm", ("1", "L", "RGB"), 2),
]


def of_mode(mode):
    """A ramp from dark to bright in one mode, and how to save it."""
    if mode == "P transparent":
        # The brightest colour is the transparent one: it is shown on white.
        image = gradient("P")
        return image, {"transparency": int(np.asarray(image)[0, -1])}
    if mode == "frames":
        return gradient("P"), {"save_all": True, "append_images": [gradient("P").transpose(Image.Transpose.ROTATE_180)]}
    return gradient(mode), {}


def ways_in(tmp_path, files):
    """The same files as folder, zip, listed by a CSV, and listed inside a zip."""
    folder = write_folder(tmp_path / "files", files)
    rows = "image,label\n" + "".join(f"{name},{name.partition('/')[0]}\n" for name in files)
    yield open_source(folder)
    yield open_source(write_zip(tmp_path / "files.zip", files))
    yield open_source(write_zip(tmp_path / "listed.zip", files | {"list.csv": rows.encode()}))
    (folder / "list.csv").write_text(rows)
    yield open_source(folder / "list.csv")


@pytest.mark.parametrize(
    ("kind", "ending", "mode", "limit"), [(k, e, mode, limit) for k, e, modes, limit in FORMATS for mode in modes]
)
def test_every_format_and_mode_by_every_way(tmp_path, kind, ending, mode, limit):
    image, options = of_mode(mode)
    if kind == "WEBP":
        options["lossless"] = True
    data = encoded(image, kind, **options)
    files = class_pictures(each=1) | {f"cat/odd.{ending}": data}
    expected = np.asarray(gradient("1" if mode == "1" else "RGB").convert("RGB")).astype(int)
    if mode == "P transparent":
        expected = np.where(expected == expected.max(), 255, expected)
    for source in ways_in(tmp_path, files):
        item = next(item for item in source.items if "odd" in item.key)
        found = prepare_image(source.open(item), 32).astype(int)
        assert np.abs(found - expected).max() <= limit
        assert image_format(source.head(item, HEAD_BYTES)) == named_format(item.key)
        assert not list(misnamed(source))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "ending"), [("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")])
def test_rotations_by_every_way(tmp_path, orientation, kind, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = picture(5, 12, 12)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(upright.transpose(turn) if turn is not None else upright, kind, exif=exif, **options)
    for source in ways_in(tmp_path, class_pictures(each=1) | {f"cat/odd.{ending}": data}):
        item = next(item for item in source.items if "odd" in item.key)
        np.testing.assert_array_equal(prepare_image(source.open(item), 12), np.asarray(upright))


def test_wrong_endings_are_named_and_read(tmp_path):
    files = class_pictures(each=2) | {
        "cat/a.jpg": encoded(picture(1), "PNG"),
        "cat/b.PNG": encoded(picture(2), "JPEG"),
        "dog/c.tif": encoded(picture(3), "WEBP", lossless=True),
        "dog/d.jpeg": encoded(picture(4), "GIF"),
        "dog/e.bmp": encoded(picture(5), "TIFF"),
        "dog/f.png": b"no image at all",
        "dog/g.png": b"",
    }
    for source in ways_in(tmp_path, files):
        found = {item.key: kind for item, kind in misnamed(source)}
        assert found == {
            "cat/a.jpg": "PNG",
            "cat/b.PNG": "JPEG",
            "dog/c.tif": "WebP",
            "dog/d.jpeg": "GIF",
            "dog/e.bmp": "TIFF",
        }
        item = next(item for item in source.items if item.key == "cat/a.jpg")
        np.testing.assert_array_equal(prepare_image(source.open(item), 12), np.asarray(picture(1)))


def test_only_the_start_of_a_file_is_read(tmp_path):
    data = encoded(picture(1), "BMP")
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures() | {"cat/big.png": data + bytes(50_000_000)}))
    item = next(item for item in source.items if item.key == "cat/big.png")
    assert source.head(item, HEAD_BYTES) == data[:HEAD_BYTES]
    assert [(item.key, kind) for item, kind in misnamed(source)] == [("cat/big.png", "BMP")]


def test_images_without_an_ending_are_named(tmp_path):
    files = class_pictures() | {
        "cat/IMG_1": encoded(picture(1), "JPEG"),
        "dog/IMG_2.dat": encoded(picture(2)),
        "dog/notes.txt": b"words",
        "IMG_3": encoded(picture(3)),
    }
    for source in (open_source(write_folder(tmp_path / "f", files)), open_source(write_zip(tmp_path / "z.zip", files))):
        assert len(source.items) == 12
        assert (
            "Among the ignored files 2 images without an ending that says so: cat/IMG_1, dog/IMG_2.dat." in source.notes
        )
        assert any("for example IMG_3, cat/IMG_1, dog/IMG_2.dat" in note for note in source.notes)


def test_every_ending_promises_a_format():
    assert {ending for ending in IMAGE_SUFFIXES if named_format(f"x{ending}") is None} == set()


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_jpeg_2000():
    assert image_format(encoded(picture(1), "JPEG2000")) == "JPEG 2000"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    assert image_format(encoded(picture(1), "AVIF")) == "AVIF"


@given(st.binary(max_size=40))
def test_any_start_is_a_format_or_none(head):
    assert image_format(head) is None or image_format(head + b"more") == image_format(head)
