from __future__ import annotations

import os
import stat
import struct
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sapling.data import archives, folders
from sapling.data.packed import open_store
from sapling.data.pixels import prepare_image
from sapling.data.sources import VIEW_PRESETS, decode_image, open_source
from sapling.data.splits import make_split
from sapling.errors import DataError
from tests.data.pictures import class_pictures, encoded, picture, pictures, real, write_folder, write_zip


def pixels(source):
    return {item.key: np.asarray(source.open(item).convert("RGB")) for item in source.items}


def test_a_zip_and_its_unpacked_folder_are_the_same_data(tmp_path):
    files = class_pictures(["七叶树", "Ärger", "dog"], each=4)
    files = {f"top/{name}": data for name, data in files.items()}
    folder = open_source(write_folder(tmp_path / "data", files))
    zipped = open_source(write_zip(tmp_path / "data.zip", files))
    assert (folder.kind, zipped.kind) == ("folder", "zip")
    assert folder.classes == zipped.classes == ("dog", "Ärger", "七叶树")
    assert folder.items == zipped.items
    for key, image in pixels(folder).items():
        np.testing.assert_array_equal(image, pixels(zipped)[key])
    assert make_split(folder).fingerprint == make_split(zipped).fingerprint
    assert open_store(folder, 12).fingerprint == open_store(zipped, 12).fingerprint


# Names in zips ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../cat/9.png", "cat/../../9.png", "/etc/cat/9.png", "C:\\cat\\9.png", "..\\cat\\9.png"]
)
def test_a_path_that_leaves_the_zip_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "evil.zip", class_pictures() | {name: encoded(picture())})
    with pytest.raises(DataError, match="points outside"):
        open_source(path)


def test_reading_a_zip_writes_nothing(tmp_path):
    path = write_zip(tmp_path / "a.zip", class_pictures())
    source = open_source(path)
    pixels(source)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


def test_backslashes_dots_and_links_in_zips(tmp_path):
    files = {name.replace("/", "\\"): data for name, data in class_pictures(["cat"]).items()}
    files |= {f"./{name}": data for name, data in class_pictures(["dog"]).items()}
    path = write_zip(tmp_path / "a.zip", files)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("dog/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    source = open_source(path)
    assert source.classes == ("cat", "dog")
    assert len(source.items) == 12


def test_utf8_names_without_the_flag_and_cp437_names(tmp_path):
    path = write_zip(tmp_path / "a.zip", pictures(["xxxxxx/1.png", "yyyy/2.png"]))
    # The same length in bytes, so that no offset changes; no flag says what they are.
    utf8, cp437 = "树木".encode(), "café".encode("cp437")
    path.write_bytes(path.read_bytes().replace(b"xxxxxx", utf8).replace(b"yyyy", cp437))
    source = open_source(path)
    assert source.classes == ("café", "树木")
    assert len(pixels(source)) == 2


def test_a_name_that_is_there_twice_means_the_later_entry(tmp_path):
    path = write_zip(tmp_path / "a.zip", class_pictures())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("cat/cat_0.png", encoded(picture(99)))
    source = open_source(path)
    assert len(source.items) == 12
    np.testing.assert_array_equal(np.asarray(source.open(source.items[0])), np.asarray(picture(99)))


# Hostile contents ---------------------------------------------------------------------------------------


def test_an_entry_that_would_grow_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 100_000)
    path = write_zip(tmp_path / "bomb.zip", class_pictures() | {"cat/bomb.png": bytes(10_000_000)})
    assert path.stat().st_size < 50_000
    source = open_source(path)
    unpacked = []
    opened = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, entry: unpacked.append(entry) or opened(self, entry))
    with pytest.raises(DataError, match=r"(?s)1 of 13 images.*cat/bomb\.png: the file has 10,000,000 bytes"):
        open_store(source, 8)
    assert unpacked
    assert max(entry.file_size for entry in unpacked) < 1000


def test_a_large_file_in_a_folder_is_not_read(tmp_path, monkeypatch):
    source = open_source(write_folder(tmp_path / "a", class_pictures() | {"cat/z.png": bytes(200_000)}))
    monkeypatch.setattr(folders, "MAX_FILE_BYTES", 100_000)
    with pytest.raises(DataError, match="200,000 bytes"):
        source.open(source.items[6])


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a picture of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, side):
    with pytest.raises(DataError, match="more than the 89,478,485 that are decoded"):
        decode_image(bomb(side, side))
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures() | {"dog/z.png": bomb(side, side)}))
    with pytest.raises(DataError, match=r"(?s)1 of 13 .*dog/z\.png: the picture has .* pixels"):
        open_store(source, 8)


def test_formats_that_run_programs_are_not_opened():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(OSError, match="cannot identify"):
        decode_image(eps)


def test_the_content_counts_and_not_the_ending_of_the_name():
    assert decode_image(encoded(picture(), "JPEG")).format == "JPEG"
    image = picture(3)
    np.testing.assert_array_equal(np.asarray(decode_image(encoded(image, "PNG"))), np.asarray(image))


def test_an_encrypted_entry_is_named(tmp_path):
    path = write_zip(tmp_path / "a.zip", class_pictures())
    data = bytearray(path.read_bytes())
    position = data.index(b"PK\x01\x02")
    data[position + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cat/cat_0\.png: the entry is encrypted"):
        open_store(open_source(path), 8)


def test_a_damaged_entry_is_named(tmp_path):
    path = tmp_path / "a.zip"
    files = class_pictures()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    data = bytearray(path.read_bytes())
    position = data.index(files["dog/dog_3.png"]) + 60
    data[position] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"dog/dog_3\.png: Bad CRC-32"):
        open_store(open_source(path), 8)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and nothing more"])
def test_a_file_that_is_no_zip(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a zip"):
        open_source(path)


def test_an_empty_zip(tmp_path):
    with pytest.raises(DataError, match="no image was found"):
        open_source(write_zip(tmp_path / "a.zip", {}))


def test_an_entry_that_claims_ten_gigabytes_is_not_read(tmp_path):
    path = write_zip(tmp_path / "a.zip", class_pictures())
    data = bytearray(path.read_bytes())
    position = data.index(b"PK\x01\x02")
    data[position + 24 : position + 28] = struct.pack("<I", 0xF0000000)
    path.write_bytes(data)
    source = open_source(path)
    assert source.entries["cat/cat_0.png"].file_size > 4e9
    with pytest.raises(DataError, match="4,026,531,840 bytes, more than"):
        source.open(source.items[0])
    assert source.head(source.items[0], 8) == b"\x89PNG\r\n\x1a\n"


def test_links_in_a_zip_are_counted_and_heads_of_locked_entries_are_empty(tmp_path):
    path = write_zip(tmp_path / "a.zip", class_pictures())
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("dog/link.png", "owl"):
            link = zipfile.ZipInfo(name)
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    source = open_source(path)
    assert "Ignored: 2 links in the zip." in source.notes
    assert source.head(source.items[0], 8) == b""
    assert source.head(source.items[1], 4) == b"\x89PNG"


def test_a_hundred_thousand_entries_are_listed_fast(tmp_path):
    path = tmp_path / "many.zip"
    # Written by hand, because zipfile needs as long for it as all other tests here.
    names = [f"data/{k % 50:02d}/image {k}.png".encode() for k in range(100_000)]
    head = struct.pack("<4s6H3L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0)
    directory = b"".join(head + struct.pack("<5H2L", len(n), *[0] * 6) + n for n in names)
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(names), len(names), len(directory), 0)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, len(directory), 1)
    end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(directory + end)
    start = time.process_time()
    source = open_source(path)
    assert time.process_time() - start < 20  # about 2 s on an idle machine
    assert (len(source.items), len(source.classes)) == (100_000, 50)


SEPARATOR = st.sampled_from(["/", "\\", "//", "/./", "/../"])
PART = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=6) | st.sampled_from(
    ["..", ".", "C:", "~", "cat", ""]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(PART, SEPARATOR, PART), max_size=4))
def test_no_name_leaves_the_zip(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("any") / "any.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ["cat/1.png", "dog/2.png", *("".join(parts) + ".png" for parts in names)]:
            archive.writestr(zipfile.ZipInfo(name), b"")
    try:
        source = open_source(path)
    except DataError as error:
        str(error).encode()
        return
    for name in source.entries:
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert "\\" not in name
        assert not (name[1:2] == ":" and name[:1].isascii() and name[:1].isalpha())


# Folders ------------------------------------------------------------------------------------------------


def test_nothing_there_names_what_is(tmp_path):
    (tmp_path / "eurosat_rgb.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"did you mean 'eurosat_rgb\.zip'"):
        open_source(tmp_path / "eurosat_rgb.zipp")
    with pytest.raises(DataError, match="did you mean 'digits'"):
        open_source("digit")


def test_links_are_followed_and_loops_are_not(tmp_path):
    write_folder(tmp_path / "elsewhere", pictures(["1.png", "2.png"]))
    root = write_folder(tmp_path / "data", pictures(["dog/3.png", "cat/4.png"]))
    (root / "owl").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = open_source(root)
    assert source.classes == ("cat", "dog", "owl")
    assert len(source.items) == 4


def test_a_name_that_is_no_utf8_works(tmp_path):
    root = write_folder(tmp_path / "data", class_pictures())
    try:
        (root / os.fsdecode(b"cat/\xff.png")).write_bytes(encoded(picture(7)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = open_source(root)
    assert len(source.stamp()) == 64
    assert len(make_split(source).fingerprint) == 64
    assert len(open_store(source, 12).images) == 13


def test_the_stamp_follows_content_and_labels_but_not_the_place(tmp_path):
    files = class_pictures()
    first = open_source(write_zip(tmp_path / "a.zip", files)).stamp()
    assert open_source(write_zip(tmp_path / "b.zip", files)).stamp() == first
    changed = files | {"cat/cat_0.png": encoded(picture(77))}
    assert open_source(write_zip(tmp_path / "c.zip", changed)).stamp() != first
    source = open_source(tmp_path / "a.zip")
    relabelled = [replace(item, label=1 - item.label) for item in source.items]
    assert replace(source, items=tuple(relabelled)).stamp() != first

    folder = write_folder(tmp_path / "f", files)
    first = open_source(folder).stamp()
    assert open_source(folder).stamp() == first
    os.utime(folder / "cat/cat_0.png", (1, 1))
    assert open_source(folder).stamp() != first


def test_a_zip_can_be_read_by_threads_and_after_a_fork(tmp_path, monkeypatch):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures(each=30)))
    expected = [prepare_image(source.open(item), 12) for item in source.items]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: prepare_image(source.open(item), 12), source.items))
    np.testing.assert_array_equal(found, expected)
    handle = source._archive()
    assert source._archive() is handle
    monkeypatch.setattr(os, "getpid", lambda: -1)  # what a forked process sees: another id
    assert source._archive() is not handle


# Digits and presets -------------------------------------------------------------------------------------


def test_digits():
    source = open_source("digits")
    assert (source.kind, len(source.items), source.classes) == ("digits", 1797, tuple("0123456789"))
    image = source.open(source.items[0])
    assert (image.mode, image.size, np.asarray(image).max()) == ("L", (8, 8), 239)  # 15 of 16
    assert [item.label for item in source.items[:10]] == list(range(10))
    assert source.default_views == "shift"
    assert source.stamp() == open_source("digits").stamp()


def test_names_of_presets_need_no_torch():
    from sapling.data.views import PRESETS

    assert tuple(PRESETS) == VIEW_PRESETS


def test_real_zips():
    eurosat = open_source(real("eurosat_rgb.zip"))
    assert (len(eurosat.items), len(eurosat.classes), eurosat.classes[0]) == (27_000, 10, "AnnualCrop")
    trees = open_source(real("street_trees_lidar.zip"))
    assert "银杏" in trees.classes
    assert {item.split for item in trees.items} == {"train", "val"}
    assert isinstance(trees.open(trees.items[0]), Image.Image)
