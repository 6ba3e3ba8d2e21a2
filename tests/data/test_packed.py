from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sapling.data import packed, packing
from sapling.data.packed import cache_folder, default_store_size, native_size, open_store
from sapling.data.pixels import prepare_image
from sapling.data.recipe import Recipe
from sapling.data.sources import open_source
from sapling.errors import DataError
from tests.data.pictures import class_pictures, encoded, picture, process_environment, write_folder, write_zip

# The store ----------------------------------------------------------------------------------------------


def test_the_store_holds_what_prepare_image_says(tmp_path):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures(each=70, width=20, height=17)))
    seen = []
    store = open_store(source, 8, progress=lambda done, total: seen.append((done, total)))
    assert store.images.shape == (140, 8, 8, 3)
    assert isinstance(store.images, np.memmap)
    assert not store.images.flags.writeable
    for k in (0, 63, 64, 139):
        np.testing.assert_array_equal(store.images[k], prepare_image(source.open(source.items[k]), 8))
    assert store.labels.tolist() == [0] * 70 + [1] * 70
    assert store.keys == tuple(item.key for item in source.items)
    assert seen == [(64, 140), (128, 140), (140, 140)]


def test_the_second_start_reads_no_picture(tmp_path, monkeypatch):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures()))
    first = open_store(source, 8)
    monkeypatch.setattr(packed, "build_store", None)
    again = open_store(source, 8)
    assert (again.folder, again.fingerprint) == (first.folder, first.fingerprint)
    np.testing.assert_array_equal(again.images, first.images)


def test_threads_change_nothing(tmp_path, monkeypatch):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures(each=150)))
    alone = open_store(source, 8, folder=tmp_path / "1")
    monkeypatch.setattr(packing, "_num_workers", lambda source: 4)
    together = open_store(source, 8, folder=tmp_path / "4")
    assert together.fingerprint == alone.fingerprint
    np.testing.assert_array_equal(together.images, alone.images)


def test_the_fingerprint_follows_pixels_labels_and_size(tmp_path):
    files = class_pictures()
    prints = set()
    swapped = files | {"cat/cat_0.png": files["dog/dog_0.png"], "dog/dog_0.png": files["cat/cat_0.png"]}
    for number, content in enumerate([files, swapped, files | {"dog/new.png": encoded(picture(50))}]):
        source = open_source(write_zip(tmp_path / f"{number}.zip", content))
        prints |= {open_store(source, size).fingerprint for size in (8, 12)}
    assert len(prints) == 6
    # The same pictures in the same order, only that the last cat is called a dog.
    moved = {("dog/!.png" if name == "cat/cat_5.png" else name): data for name, data in files.items()}
    prints.add(open_store(open_source(write_zip(tmp_path / "m.zip", moved)), 8).fingerprint)
    assert len(prints) == 7


def test_all_broken_images_are_listed_with_their_reasons(tmp_path):
    whole = encoded(picture(1, 64, 64), "JPEG")
    files = class_pictures() | {
        "cat/cut.jpg": whole[: len(whole) // 2],
        "cat/empty.png": b"",
        "dog/text.png": b"this is not an image",
        "dog/树.png": encoded(picture(1, 64, 64))[:200],
        "dog/float.tif": encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"),
    }
    root = write_folder(tmp_path / "data", files)
    with pytest.raises(DataError) as caught:
        open_store(open_source(root), 8)
    text = str(caught.value)
    assert "5 of 17 images cannot be used" in text
    for expected in (
        "cat/cut.jpg: image file is truncated",
        "cat/empty.png: it is not an image",
        "dog/text.png: it is not an image",
        "dog/树.png: ",
        "dog/float.tif: the picture has 32-bit float",
    ):
        assert expected in text
    assert [path.suffix for path in (cache_folder() / "stores").iterdir()] == [".lock"]


def test_names_of_broken_files_cannot_command_the_terminal(tmp_path):
    files = class_pictures() | {"cat/\x1b[2J.png": b"broken", "dog/a\nb.png": b"broken"}
    with pytest.raises(DataError) as caught:
        open_store(open_source(write_zip(tmp_path / "a.zip", files)), 8)
    assert "\x1b" not in str(caught.value)
    assert "'dog/a\\nb.png': it is not an image" in str(caught.value)


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "meta.json").write_text("{"),
        lambda place: (place / "meta.json").unlink(),
        lambda place: (place / "images.npy").write_bytes(b""),
        lambda place: os.truncate(place / "images.npy", 300),
        lambda place: (place / "images.npy").unlink(),
    ],
)
def test_a_store_that_is_not_whole_is_built_anew(tmp_path, harm):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures()))
    first = open_store(source, 8)
    expected = np.array(first.images)
    harm(first.folder)
    again = open_store(source, 8)
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.images, expected)


def test_a_store_of_other_images_is_not_used(tmp_path):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures()))
    store = open_store(source, 8)
    np.save(store.folder / "images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    assert len(open_store(source, 8).images) == 12


BUILD = """
import sys, time
from pathlib import Path
from sapling.data import packed
from sapling.data.sources import open_source
slow = float(sys.argv[3])
def progress(done, total):
    print(done, flush=True)
    time.sleep(slow)
store = packed.open_store(open_source(sys.argv[1]), 8, folder=Path(sys.argv[2]), progress=progress)
print("store", store.fingerprint, flush=True)
assert "torch" not in sys.modules
"""


def start_build(source: Path, stores: Path, slow: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(source), str(stores), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=process_environment())


def test_a_killed_build_leaves_nothing_half(tmp_path):
    data, stores = write_zip(tmp_path / "a.zip", class_pictures(each=200)), tmp_path / "stores"
    with start_build(data, stores, slow=30) as process:
        assert process.stdout.readline() == "64\n"
        process.send_signal(signal.SIGKILL)
    left = [entry.name for entry in stores.iterdir() if not entry.name.endswith(".lock")]
    assert len(left) == 1  # what it had begun ..
    assert left[0].startswith(".building-")
    store = open_store(open_source(data), 8, folder=stores)
    assert len(store.images) == 400
    names = sorted(entry.name for entry in stores.iterdir())
    assert [name for name in names if not name.endswith(".lock")] == [store.folder.name]  # .. is swept away


def test_of_builders_at_once_one_builds(tmp_path):
    data, stores = write_zip(tmp_path / "a.zip", class_pictures(each=100)), tmp_path / "stores"
    processes = [start_build(data, stores, slow=0.2) for _ in range(3)]
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({answer[-1] for answer in answers}) == 1
    assert sorted(len(answer) for answer in answers) == [2, 2, 6]  # four chunks were packed by one of them
    assert [entry.name for entry in stores.iterdir() if entry.name.startswith(".building")] == []


def test_builders_without_locks_do_no_harm(tmp_path, monkeypatch):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures()))
    inner = packing._write_images
    calls = []

    def meanwhile(path, *rest):
        fingerprint = inner(path, *rest)
        if not calls:  # another builder that holds no lock is done just before this one
            calls.append(1)
            packing.build_store(place, "other", source, Recipe(8), "fail", None)
        return fingerprint

    place = tmp_path / "stores" / "a-8-mark"
    place.parent.mkdir()
    monkeypatch.setattr(packing, "_write_images", meanwhile)
    packing.build_store(place, "mark", source, Recipe(8), "fail", None)
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]
    assert json.loads((place / "meta.json").read_text())["images"] == 12


def test_an_interrupted_build_cleans_up(tmp_path):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures()))

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(source, 8, folder=tmp_path / "stores", progress=interrupt)
    assert [entry.name for entry in (tmp_path / "stores").iterdir() if not entry.name.endswith(".lock")] == []


def test_a_full_disk_is_said_before_the_work(tmp_path, monkeypatch):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures()))
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: packing.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DataError, match="are free"):
        open_store(source, 8)


@pytest.mark.parametrize("where", ["_append", "_write_rest"])
def test_a_disk_that_fills_up_while_building_leaves_nothing_and_names_the_remedy(tmp_path, monkeypatch, where):
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures(each=100)))
    inner, calls = getattr(packing, where), []

    def full(*arguments):
        calls.append(1)
        if len(calls) == 2 or where == "_write_rest":
            raise OSError(errno.ENOSPC, "No space left on device")
        inner(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(packing, where, full)
        with pytest.raises(DataError, match=r"(?s)needs 0\.0 MB and .* are free.*sapling cache clear.*SAPLING_CACHE"):
            open_store(source, 8)
    assert [path.suffix for path in (cache_folder() / "stores").iterdir()] == [".lock"]
    assert len(open_store(source, 8).images) == 200


def test_a_cache_that_cannot_be_written_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "file"))
    source = open_source(write_zip(tmp_path / "a.zip", class_pictures()))
    with pytest.raises(DataError, match="set SAPLING_CACHE"):
        open_store(source, 8)


def test_the_cache_folder(monkeypatch):
    monkeypatch.setenv("SAPLING_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("SAPLING_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "sapling"


# Sizes --------------------------------------------------------------------------------------------------


def test_native_size_is_the_median_of_short_sides_and_skips_broken_files(tmp_path):
    files = {f"a/{k}.png": encoded(picture(k, 10 + k, 30)) for k in range(5)}
    source = open_source(write_zip(tmp_path / "a.zip", files | {"b/0.png": b"broken"}))
    assert native_size(source) == 12
    broken = open_source(write_zip(tmp_path / "b.zip", {"a/1.png": b"", "b/1.png": b""}))
    with pytest.raises(DataError, match="2 of 2 images"):
        native_size(broken)


@pytest.mark.parametrize(
    ("img_size", "native", "expected"),
    [(64, 64, 64), (64, 70, 70), (64, 512, 74), (224, 256, 256), (224, 1000, 258), (32, 8, 32), (224, 64, 224)],
)
def test_pictures_are_never_enlarged_only_to_be_cropped(img_size, native, expected):
    assert default_store_size(img_size, native) == expected


def test_stores_are_found_under_another_name(tmp_path):
    files = class_pictures()
    first = open_store(open_source(write_zip(tmp_path / "a.zip", files)), 8)
    started = time.time()
    again = open_store(open_source(write_zip(tmp_path / "copy of a.zip", files)), 8)
    assert again.folder == first.folder
    assert (again.folder / "images.npy").stat().st_mtime <= started
