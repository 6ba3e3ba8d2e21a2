from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from sapling.data import packed, storefile
from sapling.data.packed import cache_folder, open_store
from sapling.data.sources import open_source
from tests.data.pictures import class_pictures, write_zip
from tests.digests import digest


@pytest.fixture
def source(tmp_path):
    return open_source(write_zip(tmp_path / "a.zip", class_pictures(each=20)))


@pytest.fixture
def store(source):
    return open_store(source, 8)


def flip(path, position, *, keep_times=False):
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 4]))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("position", [200, 128 + 21 * 192, -1])
def test_a_flipped_bit_is_found_wherever_it_is(source, store, position, keep_times):
    path = store.folder / "images.npy"
    whole = digest(path)
    flip(path, position % path.stat().st_size, keep_times=keep_times)
    again = open_store(source, 8)
    assert digest(path) == whole
    assert again.fingerprint == store.fingerprint
    assert "was damaged and has been built anew" in again.notes[0]
    assert open_store(source, 8).notes == ()


@pytest.mark.parametrize("name", ["meta.json", "rows.npy"])
def test_a_damaged_record_is_not_believed(source, store, name):
    data = bytearray((store.folder / name).read_bytes())
    data[-40] ^= 1
    (store.folder / name).write_bytes(bytes(data))
    again = open_store(source, 8)
    assert again.fingerprint == store.fingerprint
    assert again.notes != ()


def test_a_fingerprint_that_was_changed_by_hand_is_not_believed(source, store):
    path = store.folder / "meta.json"
    path.write_text(path.read_text().replace(store.fingerprint, "0" * 64))
    assert open_store(source, 8).fingerprint == store.fingerprint


def test_pixels_that_changed_below_the_file_are_found_in_the_sample(source, store, monkeypatch):
    # A bad disk leaves size and times as they were.
    flip(store.folder / "images.npy", 130)
    monkeypatch.setattr(storefile, "_checked", lambda place: storefile._times(place / "images.npy"))
    assert open_store(source, 8).notes != ()


def test_a_second_start_hashes_nothing(source, store, monkeypatch):
    monkeypatch.setattr(packed, "build_store", None)
    monkeypatch.setattr(storefile, "fingerprint_of", None)
    assert open_store(source, 8).fingerprint == store.fingerprint


def test_a_cache_that_was_copied_is_hashed_once_and_used(source, store, tmp_path, monkeypatch):
    shutil.copytree(cache_folder(), tmp_path / "elsewhere")
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(packed, "build_store", None)
    hashed = []
    inner = storefile.fingerprint_of
    monkeypatch.setattr(storefile, "fingerprint_of", lambda *rest: hashed.append(1) or inner(*rest))
    for _ in range(2):
        again = open_store(source, 8)
        assert (again.fingerprint, again.notes) == (store.fingerprint, ())
        np.testing.assert_array_equal(again.images, store.images)
    assert hashed == [1]


def test_a_cache_that_may_only_be_read_is_used(source, store, monkeypatch):
    monkeypatch.setattr(packed, "build_store", None)
    monkeypatch.setattr(storefile, "_write_checked", lambda place: os.open("/nowhere/at/all", os.O_RDONLY))
    (store.folder / "checked.json").unlink()
    assert open_store(source, 8).fingerprint == store.fingerprint


def test_a_store_of_the_first_format_is_not_read(source, store):
    # As version 0.1.0 wrote it, but with pixels that no build of today gives.
    mark = hashlib.sha256(f"1 8 {source.stamp()}".encode()).hexdigest()[:16]
    old = store.folder.parent / f"a-8-{mark}"
    old.mkdir()
    np.save(old / "images.npy", np.zeros((40, 8, 8, 3), np.uint8))
    (old / "meta.json").write_text(json.dumps({"format": 1, "fingerprint": "0" * 64, "images": 40, "size": 8}))
    shutil.rmtree(store.folder)
    again = open_store(source, 8)
    assert again.fingerprint == store.fingerprint
    assert old.is_dir()  # another version may use it


def test_the_fingerprint_is_that_of_the_first_format():
    # Finished runs hold it: if it changed, none of them would go on.
    digits = open_store(open_source("digits"), 8)
    assert digits.fingerprint == "632504afe64b7d9885e4c5a6f84f93d626fc81fe81301d653b0f01693bde3e6f"


def test_the_time_of_the_last_use_moves(source, store):
    os.utime(store.folder / "checked.json", (1, 1))
    open_store(source, 8)
    assert (store.folder / "checked.json").stat().st_mtime > 1000
