from __future__ import annotations

import os

import pytest

from sapling.data.marks import file_marks
from sapling.data.packed import open_store
from sapling.data.sources import open_source
from tests.data.pictures import class_pictures, encoded, picture, write_folder


@pytest.fixture
def root(tmp_path):
    files = {name.replace(".png", ".bmp"): None for name in class_pictures()}
    return write_folder(tmp_path / "data", {name: encoded(picture(k), "BMP") for k, name in enumerate(files)})


def test_an_image_that_was_replaced_is_noticed_although_size_and_time_are_set_back(root):
    first = open_store(open_source(root), 8)
    path = root / "cat" / "cat_0.bmp"
    before = path.stat()
    path.write_bytes(encoded(picture(99), "BMP"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = open_store(open_source(root), 8)
    assert again.folder != first.folder
    assert again.fingerprint != first.fingerprint


def test_a_folder_that_was_renamed_or_moved_keeps_its_store(root, tmp_path):
    first = open_store(open_source(root), 8)
    root.rename(tmp_path / "elsewhere")
    assert open_store(open_source(tmp_path / "elsewhere"), 8).folder == first.folder


def test_inodes_tell_files_of_one_size_and_time_apart():
    def status(inode, size, when):
        return os.stat_result((0, inode, 0, 1, 0, 0, size, 0, when, when))

    marks = file_marks({"a": status(1, 10, 5), "b": status(2, 10, 5), "c": status(3, 11, 5)})
    assert len(set(marks.values())) == 3
    # Elsewhere the inode is left out: network file systems give new ones with every mount.
    again = file_marks({"a": status(1, 10, 5), "b": status(2, 10, 5), "c": status(7, 11, 5)})
    assert again == marks
    swapped = file_marks({"a": status(2, 10, 5), "b": status(1, 10, 5), "c": status(3, 11, 5)})
    assert swapped["a"] == marks["b"]
