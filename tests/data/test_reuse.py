from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.data import reuse
from sapling.data.packed import open_store
from sapling.data.recipe import Recipe
from sapling.data.sources import FolderSource, open_source
from tests.data.pictures import class_pictures, encoded, picture, write_folder, write_zip


def copied(store) -> int:
    """How many rows came from an older store."""
    return json.loads((store.folder / "meta.json").read_text())["copied"]


def built_from_nothing(source, size=8):
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(source, size, folder=Path(folder))
        return store.fingerprint, (store.folder / "images.npy").read_bytes()


def assert_as_from_nothing(store, source):
    assert (store.fingerprint, (store.folder / "images.npy").read_bytes()) == built_from_nothing(source, store.size)
    assert store.keys == tuple(item.key for item in source.items)
    assert store.labels.tolist() == source.labels.tolist()


@pytest.fixture(params=["zip", "folder"])
def opened(request, tmp_path):
    """Opens files as a zip, or as a folder that is changed in place."""

    def open_files(files):
        if request.param == "zip":
            return open_source(write_zip(tmp_path / "data.zip", files))
        root = tmp_path / "data"
        for path in [p for p in root.rglob("*") if p.is_file()]:
            if path.relative_to(root).as_posix() not in files:
                path.unlink()
        for name, data in files.items():
            if not (root / name).exists() or (root / name).read_bytes() != data:
                write_folder(root, {name: data})
        return open_source(root)

    return open_files


def test_only_what_is_new_or_changed_is_decoded(opened):
    files = class_pictures(each=20)
    open_store(opened(files), 8)
    files |= {"cat/cat_3.png": encoded(picture(100)), "dog/new.png": encoded(picture(101))}
    del files["dog/dog_0.png"]
    source = opened(files)
    store = open_store(source, 8)
    assert copied(store) == 38
    assert_as_from_nothing(store, source)


def test_a_folder_of_another_name_needs_no_decoding(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "data", class_pictures(("cat", "dog", "emu")))
    open_store(open_source(root), 8)
    (root / "emu").rename(root / "ant")
    source = open_source(root)
    expected = built_from_nothing(source)
    monkeypatch.setattr(Recipe, "prepare", None)
    store = open_store(source, 8)
    assert (store.fingerprint, (store.folder / "images.npy").read_bytes()) == expected
    assert store.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_an_image_of_another_class_of_a_zip_needs_no_decoding(tmp_path, monkeypatch):
    files = class_pictures()
    open_store(open_source(write_zip(tmp_path / "a.zip", files)), 8)
    files["dog/cat_0.png"] = files.pop("cat/cat_0.png")
    source = open_source(write_zip(tmp_path / "b.zip", files))
    expected = built_from_nothing(source)
    monkeypatch.setattr(Recipe, "prepare", None)
    store = open_store(source, 8)
    assert (store.fingerprint, (store.folder / "images.npy").read_bytes()) == expected


def test_folders_that_change_places_are_noticed_although_size_and_times_agree(tmp_path):
    # Uncompressed pictures of one size, written in one tick of the clock: only the inode tells them apart.
    files = {f"{name}/{k}.bmp": encoded(picture(k + 10 * (name == "b")), "BMP") for name in "ab" for k in range(8)}
    root = write_folder(tmp_path / "data", files)
    first = open_store(open_source(root), 8)
    (root / "a").rename(root / "c")
    (root / "b").rename(root / "a")
    (root / "c").rename(root / "b")
    source = open_source(root)
    store = open_store(source, 8)
    assert store.fingerprint != first.fingerprint
    assert_as_from_nothing(store, source)


def test_the_most_similar_store_gives_the_rows(tmp_path):
    files = class_pictures(each=10)
    few = {name: data for name, data in files.items() if not name.endswith(("5.png", "6.png", "7.png"))}
    open_store(open_source(write_zip(tmp_path / "most.zip", files | {"dog/x.png": encoded(picture(60))})), 8)
    open_store(open_source(write_zip(tmp_path / "few.zip", few)), 8)
    assert copied(open_store(open_source(write_zip(tmp_path / "all.zip", files)), 8)) == 20


def test_rows_of_other_rules_sizes_or_decoders_are_not_copied(tmp_path, monkeypatch):
    files = class_pictures()
    open_store(open_source(write_zip(tmp_path / "a.zip", files)), 8)
    more = open_source(write_zip(tmp_path / "b.zip", files | {"dog/x.png": encoded(picture(60))}))
    assert copied(open_store(more, 9)) == 0
    monkeypatch.setattr("sapling.data.reuse.decoder", lambda: "another Pillow")
    assert copied(open_store(more, 8)) == 0


def test_marks_of_other_kinds_of_sources_mean_nothing_elsewhere(tmp_path):
    source = open_source("digits")
    first = open_store(source, 8)
    assert not reuse.is_content(source)
    elsewhere = FolderSource("x", "elsewhere", "digits", source.classes, source.items[:100])
    meta = json.loads((first.folder / "meta.json").read_text())
    assert not reuse._fits(meta, elsewhere, Recipe(8))
    assert reuse._fits(meta, source, Recipe(8))


def test_a_damaged_row_is_decoded_anew(tmp_path):
    files = class_pictures(each=10)
    first = open_store(open_source(write_zip(tmp_path / "a.zip", files)), 8)
    with (first.folder / "images.npy").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    source = open_source(write_zip(tmp_path / "b.zip", files | {"dog/x.png": encoded(picture(60))}))
    store = open_store(source, 8)
    assert copied(store) == 19
    assert_as_from_nothing(store, source)


@pytest.mark.parametrize("name", ["index.json", "rows.npy", "meta.json"])
def test_a_damaged_index_is_not_believed(tmp_path, name):
    files = class_pictures(each=10)
    first = open_store(open_source(write_zip(tmp_path / "a.zip", files)), 8)
    data = bytearray((first.folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (first.folder / name).write_bytes(bytes(data))
    source = open_source(write_zip(tmp_path / "b.zip", files | {"dog/x.png": encoded(picture(60))}))
    store = open_store(source, 8)
    assert copied(store) == 0
    assert_as_from_nothing(store, source)


def test_broken_images_beside_copied_ones(tmp_path):
    files = class_pictures(each=100) | {"cat/cat_7.png": b"broken"}
    open_store(open_source(write_zip(tmp_path / "a.zip", files)), 8, on_bad_image="skip")
    source = open_source(write_zip(tmp_path / "b.zip", files | {"ant/x.png": encoded(picture(300))}))
    store = open_store(source, 8, on_bad_image="skip")
    assert copied(store) == 199
    assert [image.key for image in store.skipped] == ["cat/cat_7.png"]
    shutil.rmtree(store.folder.parent)
    again = open_store(source, 8, on_bad_image="skip")
    assert (again.fingerprint, copied(again)) == (store.fingerprint, 0)
    np.testing.assert_array_equal(again.images, store.images)


# Properties ---------------------------------------------------------------------------------------------

names = st.sampled_from([f"{folder}/{k}.bmp" for folder in "abc" for k in range(4)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), names, st.integers(0, 5)),
        st.tuples(st.just("remove"), names, st.none()),
        st.tuples(st.just("move"), names, names),
        st.tuples(st.just("swap"), st.sampled_from("abc"), st.sampled_from("abc")),
    ),
    min_size=1,
    max_size=6,
)


def change(root: Path, step) -> None:
    """Apply a step to a folder; one that cannot be applied does nothing."""
    kind, first, second = step
    if kind == "write":
        write_folder(root, {first: encoded(picture(second), "BMP")})
    elif kind == "remove":
        (root / first).unlink(missing_ok=True)
    elif kind == "move" and (root / first).exists():
        (root / second).parent.mkdir(exist_ok=True)
        (root / first).replace(root / second)
    elif kind == "swap" and first != second and (root / first).exists() and (root / second).exists():
        (root / first).rename(root / "z")
        (root / second).rename(root / first)
        (root / "z").rename(root / second)


@settings(max_examples=12)
@given(changes=st.lists(steps, min_size=1, max_size=3), as_zip=st.booleans())
def test_whatever_changes_the_store_is_as_from_nothing(changes, as_zip):
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name), Path(name) / "data"
        write_folder(root, {f"{c}/{k}.bmp": encoded(picture(k), "BMP") for c in "ab" for k in range(3)})
        write_folder(root, {"keep/1.bmp": encoded(picture(7), "BMP"), "stay/1.bmp": encoded(picture(8), "BMP")})
        for each in [[], *changes]:
            time.sleep(0.011)  # a file that is written twice in one tick of the clock cannot be told apart
            for step in each:
                change(root, step)
            source = open_source(root)
            if as_zip:
                files = {item.key: (root / item.key).read_bytes() for item in source.items}
                source = open_source(write_zip(folder / "data.zip", files))
            assert_as_from_nothing(open_store(source, 6, folder=folder / "stores"), source)
