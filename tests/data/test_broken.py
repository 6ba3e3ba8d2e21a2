"""Broken images: skipped where they are few, as if they had never been there; otherwise the run fails."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from sapling.data import broken, packed, packing
from sapling.data.broken import bad_image, may_skip, without
from sapling.data.loader import load_data
from sapling.data.packed import cache_folder, open_store
from sapling.data.pixels import prepare_image
from sapling.data.sources import FolderSource, open_source
from sapling.errors import ConfigError, DataError
from tests.data.pictures import class_pictures, encoded, picture, write_folder, write_zip

BAD = {"cat/cat_7.png": b"", "dog/dog_50.png": encoded(picture(1, 64, 64))[:300]}


@pytest.fixture
def folder(tmp_path):
    """200 pictures, of which two are broken: 1 %."""
    return write_folder(tmp_path / "data", class_pictures(each=100) | BAD)


def stores():
    return [path for path in (cache_folder() / "stores").iterdir() if path.is_dir()]


def test_skipping_is_as_if_the_files_were_not_there(folder, tmp_path):
    data = load_data(folder, img_size=12)
    assert [image.key for image in data.store.skipped] == sorted(BAD)
    clean = shutil.copytree(folder, tmp_path / "clean", copy_function=shutil.copy2)
    for key in BAD:
        (clean / key).unlink()
    expected = load_data(clean, img_size=12)
    assert data.source.items == expected.source.items
    assert data.store.keys == expected.store.keys == tuple(item.key for item in data.source.items)
    assert data.store.fingerprint == expected.store.fingerprint
    assert data.split.fingerprint == expected.split.fingerprint
    np.testing.assert_array_equal(data.store.images, expected.store.images)
    np.testing.assert_array_equal(data.store.labels, expected.store.labels)
    assert sum(len(data.split.part(part)) for part in ("train", "val", "test")) == 198


def test_the_skipped_are_named_with_their_reasons(folder):
    card = json.loads(json.dumps(load_data(folder, img_size=12).card()))
    assert [entry["image"] for entry in card["skipped"]] == sorted(BAD)
    assert card["skipped"][0]["reason"] == "it is not an image"
    assert card["num_images"] == 198
    note = next(note for note in card["notes"] if note.startswith("Skipped"))
    assert "Skipped: 2 of 200 images, which cannot be used: cat/cat_7.png (it is not an image), dog/dog_50.png" in note


def test_pixels_stay_with_their_images(folder):
    data = load_data(folder, img_size=12)
    for position in (0, 7, 8, 99, 148, 197):
        item = data.source.items[position]
        expected = prepare_image(data.source.open(item), data.store.size)
        np.testing.assert_array_equal(data.store.images[position], expected)
        assert data.store.labels[position] == item.label


def test_the_second_start_reads_no_picture_and_says_the_same(folder, monkeypatch):
    first = load_data(folder, img_size=12, store_size=12)
    monkeypatch.setattr(packed, "build_store", None)
    again = load_data(folder, img_size=12, store_size=12)
    assert again.store.skipped == first.store.skipped
    assert again.card() == first.card()


@pytest.mark.parametrize("built_before", [False, True])
def test_fail_fails_whether_or_not_a_store_is_there(folder, built_before):
    if built_before:
        load_data(folder, img_size=12)
    with pytest.raises(DataError, match=r"(?s)2 of 200 images cannot be used:.*cat_7.*dog_50.*--on-bad-image skip"):
        load_data(folder, img_size=12, on_bad_image="fail")
    assert len(stores()) == built_before


def test_threads_skip_the_same(folder, monkeypatch):
    one = load_data(folder, img_size=12).store
    shutil.rmtree(cache_folder())
    monkeypatch.setattr(packing, "_num_workers", lambda source: 4)
    four = load_data(folder, img_size=12).store
    assert (one.skipped, one.fingerprint) == (four.skipped, four.fingerprint)


def test_more_than_one_percent_fails(folder):
    (folder / "dog" / "dog_3.png").write_bytes(b"third")
    with pytest.raises(DataError, match=r"(?s)3 of 200 images cannot .*up to 1 % of the images would be"):
        load_data(folder, img_size=12)
    assert stores() == []


def test_a_repaired_image_is_back(folder):
    assert len(load_data(folder, img_size=12).source.items) == 198
    (folder / "cat" / "cat_7.png").write_bytes(encoded(picture(7)))
    data = load_data(folder, img_size=12)
    assert len(data.source.items) == 199
    assert "cat/cat_7.png" in data.store.keys


def test_what_the_machine_could_not_do_is_never_skipped(folder, monkeypatch):
    read = FolderSource.open

    def fails(self, item):
        if item.key == "dog/dog_9.png":
            raise PermissionError(13, "Permission denied", item.key)
        return read(self, item)

    for key in BAD:
        (folder / key).unlink()
    monkeypatch.setattr(FolderSource, "open", fails)
    with pytest.raises(DataError, match=r"(?s)1 of 198 .*dog_9\.png: .*Permission denied") as caught:
        load_data(folder, img_size=12)
    assert "skip" not in str(caught.value)
    assert stores() == []


def test_which_faults_are_the_images_own():
    assert bad_image("a", OSError("image file is truncated")).is_lasting
    assert bad_image("a", ValueError("odd")).is_lasting
    assert bad_image("a", DataError("too large")).is_lasting
    assert not bad_image("a", OSError(5, "Input/output error")).is_lasting
    assert not bad_image("a", MemoryError()).is_lasting


@pytest.mark.parametrize(("num_bad", "total", "yes"), [(0, 5, True), (1, 99, False), (1, 100, True), (3, 299, False)])
def test_the_limit(num_bad, total, yes):
    bad = [broken.BadImage(str(k), "") for k in range(num_bad)]
    assert may_skip(bad, total, "skip") is yes
    assert may_skip(bad, total, "fail") is (num_bad == 0)


def test_a_class_that_is_all_broken_is_an_error(tmp_path):
    files = class_pictures(each=150) | {f"owl/{k}.png": b"" for k in range(3)}
    with pytest.raises(DataError, match=r"too few images to be split: owl \(0\)"):
        load_data(write_zip(tmp_path / "a.zip", files), img_size=12)


def test_groups_and_given_splits_survive(tmp_path):
    files = class_pictures(each=60) | class_pictures(each=60)
    files = {f"{part}/{name}": data for part in ("train", "val", "test") for name, data in files.items()}
    files["test/dog/dog_9.png"] = b""
    data = load_data(write_zip(tmp_path / "a.zip", files), img_size=12, group_pattern=r"_(\d+)")
    assert [len(data.split.part(part)) for part in ("train", "val", "test")] == [120, 120, 119]
    for position in data.split.test:
        assert data.source.items[position].key.startswith("test/")
        assert data.source.items[position].group is not None


def test_names_cannot_command_the_terminal(tmp_path):
    files = class_pictures(each=60) | {"cat/\x1b[2J.png": b""}
    source = open_source(write_zip(tmp_path / "a.zip", files))
    store = open_store(source, 12, on_bad_image="skip")
    assert "\x1b" not in without(source, store.skipped).notes[-1]


def test_a_wrong_mode_is_refused(monkeypatch):
    monkeypatch.setattr("sapling.data.loader.open_source", None)
    with pytest.raises(ConfigError, match="on_bad_image is 'ignore'"):
        load_data("digits", on_bad_image="ignore")


def test_a_store_that_forgot_what_it_skipped_is_built_anew(folder):
    store = load_data(folder, img_size=12).store
    meta = store.folder / "meta.json"
    meta.write_text(json.dumps({k: v for k, v in json.loads(meta.read_text()).items() if k != "skipped"}))
    again = load_data(folder, img_size=12).store
    assert (again.skipped, again.fingerprint) == (store.skipped, store.fingerprint)
    assert stores() == [store.folder]
