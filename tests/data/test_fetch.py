"""Loaders of public data sets, each on a local file of the published layout; nothing here uses the network."""

from __future__ import annotations

import importlib
import io
import shutil
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from sapling.data import fetch
from sapling.data.named import open_named
from sapling.data.packed import cache_folder, open_store
from sapling.data.sources import open_source
from sapling.errors import DataError
from tests.data import published
from tests.data.pictures import encoded, picture, write_folder
from tests.data.web import CASES, MEDICAL, SETS, contents_of, use
from tests.digests import digest


@pytest.mark.parametrize("name", CASES)
def test_each_loader_reads_the_published_layout(web, monkeypatch, name):
    images, classes, splits, (key, label) = CASES[name]
    use(monkeypatch, web(name, contents_of(name)), images=images, classes=classes)
    source = open_named(name)
    assert (source.name, len(source.items), len(source.classes)) == (name, images, classes)
    assert Counter(item.split for item in source.items) == splits
    assert {item.key: source.classes[item.label] for item in source.items}[key] == label
    assert source.default_views == SETS[name].views
    assert SETS[name].citation in source.notes[0]
    for item in source.items:
        assert np.asarray(source.open(item)).size
    assert [path.name for path in (cache_folder() / "datasets" / name).iterdir()] == [f"{name}.zip"]
    # The second time nothing is downloaded, and torchvision is not asked.
    web.asked.clear()
    monkeypatch.setattr(fetch, "fetch", None)
    again = open_source(name)
    assert (again.items, again.stamp()) == (source.items, source.stamp())
    assert not web.asked


@pytest.mark.parametrize("name", MEDICAL)
def test_arrays_of_medmnist(web, monkeypatch, name):
    count = SETS[name].classes
    use(monkeypatch, web(name, contents_of(name)), images=3 * count, classes=count)
    source = open_named(name)
    assert set(source.classes) == set(SETS[name].names)
    labels = {item.key: source.classes[item.label] for item in source.items}
    assert labels["val/000000.png"] == SETS[name].names[-1]
    with np.load(_file(contents_of(name))) as arrays:
        np.testing.assert_array_equal(source.open(_item(source, "test/000001.png")), arrays["test_images"][1])
    assert Counter(item.split for item in source.items) == {"train": count, "val": count, "test": count}


def _file(contents):
    return io.BytesIO(next(iter(contents.values())))


def _item(source, key):
    return next(item for item in source.items if item.key == key)


def test_no_set_is_left_untested():
    others = {name for name, entry in SETS.items() if entry.loader in ("hub", "hand")}
    assert set(CASES) | set(MEDICAL) | others == set(SETS)


def test_frames_of_one_sign_are_one_group(web, monkeypatch):
    use(monkeypatch, web("gtsrb", published.gtsrb()), images=14, classes=2)
    source = open_named("gtsrb")
    groups = Counter(item.group for item in source.items)
    # The same number of a film in two classes is two signs.
    assert groups == {f"Training/0000{label}/0000{track}": 3 for label in (0, 1) for track in (0, 1)} | {None: 2}


# The hub ------------------------------------------------------------------------------------------------


def hub_repository(root, rows_by_split, *, image="image", label="label", names=("cat", "dog; small")):
    """A folder as a repository on the hub: parquet files of encoded images and labels."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {image: datasets.Image(), label: datasets.ClassLabel(names=list(names)) if names else datasets.Value("string")}
    )
    for split, rows in rows_by_split.items():
        content = {image: [{"bytes": data, "path": None} for data, _ in rows], label: [value for _, value in rows]}
        (root / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(content, features=features).to_parquet(
            root / "data" / f"{split}-00000-of-00001.parquet"
        )
    return root


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist", "beans"])
def test_parquet_of_the_hub(tmp_path, monkeypatch, name):
    columns = SETS[name].options["columns"]
    rows = [(encoded(picture(k), "JPEG" if k else "PNG"), k % 2) for k in range(4)]
    root = hub_repository(tmp_path / "hub", {"train": rows, "validation": rows[:2], "test": rows[:2]}, **columns)
    entry = replace(SETS[name], options={**SETS[name].options, "hub": str(root)})
    use(monkeypatch, entry, images=8, classes=2)
    source = open_named(name)
    assert source.classes == ("cat", "dog, small")
    assert Counter(item.split for item in source.items) == {"train": 4, "val": 2, "test": 2}
    item = _item(source, "train/000001.jpg")
    assert source.classes[item.label] == "dog, small"
    # The bytes are those of the repository: nothing is encoded anew.
    with zipfile.ZipFile(cache_folder() / "datasets" / name / f"{name}.zip") as archive:
        assert archive.read(item.key) == rows[1][0]
    assert not list((cache_folder() / "datasets").glob(".fetching*/*"))


def test_one_split_of_the_hub_is_no_split_and_labels_may_be_text(tmp_path, monkeypatch):
    rows = [(encoded(picture(k)), "oak" if k % 2 else "樱花") for k in range(4)]
    root = hub_repository(tmp_path / "hub", {"train": rows}, names=None)
    entry = replace(SETS["mnist"], options={"hub": str(root), "columns": {"image": "image", "label": "label"}})
    use(monkeypatch, entry, images=4, classes=2)
    source = open_named("mnist")
    assert (source.classes, {item.split for item in source.items}) == (("oak", "樱花"), {None})


def test_without_the_extra(monkeypatch):
    real = importlib.import_module

    def refuse(name, *args):
        if name == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")
        return real(name, *args)

    monkeypatch.setattr(fetch.importlib, "import_module", refuse)
    with pytest.raises(DataError, match=r"(?s)needs a package.*datasets.*sapling-kd\[hub\]"):
        open_named("cifar10")


# What is not as published -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eurosat", "flowers102", "uc-merced", "plantvillage", "pathmnist"])
def test_a_wrong_checksum_is_refused_and_the_file_removed(web, monkeypatch, name):
    contents = contents_of(name)
    use(monkeypatch, web(name, contents), images=100, classes=2)
    last = list(contents)[-1]
    web.files[last] = contents[last] + b"!"
    with pytest.raises(DataError, match=r"not (the file that|what) was published") as caught:
        open_named(name)
    assert caught.value.where in ", ".join(SETS[name].files)
    assert not (cache_folder() / "datasets" / name).exists()
    assert not list((cache_folder() / "datasets").rglob(last))


@pytest.mark.parametrize(("images", "classes"), [(7, 2), (6, 3)])
def test_other_counts_than_published_are_refused(web, monkeypatch, images, classes):
    use(monkeypatch, web("eurosat", published.eurosat()), images=images, classes=classes)
    with pytest.raises(DataError, match=f"6 images of 2 classes, and not the {images} of {classes} that are published"):
        open_named("eurosat")
    assert not (cache_folder() / "datasets" / "eurosat").exists()
    assert not list((cache_folder() / "datasets").rglob("*.zip"))


def test_what_a_killed_run_unpacked_is_not_taken_for_the_whole(web, monkeypatch):
    use(monkeypatch, web("eurosat", published.eurosat()), images=6, classes=2)
    left = cache_folder() / "datasets" / ".fetching-eurosat" / "eurosat" / "2750"
    write_folder(left, {"Forest/Forest_1.jpg": b"half", "River/River_1.jpg": b"half"})
    assert len(open_named("eurosat").items) == 6


def test_archives_that_are_whole_are_not_downloaded_again(web, monkeypatch):
    contents = published.flowers102()
    use(monkeypatch, web("flowers102", contents), images=7, classes=3)
    del web.files["setid.mat"]
    with pytest.raises(DataError, match="cannot be downloaded"):
        open_named("flowers102")
    web.files.update(contents)
    web.asked.clear()
    assert len(open_named("flowers102").items) == 7
    assert web.asked == ["setid.mat"]


def test_a_named_set_goes_into_the_store(web, monkeypatch):
    use(monkeypatch, web("pets", published.pets()), images=4, classes=2)
    assert open_store(open_named("pets"), 12).images.shape == (4, 12, 12, 3)


def test_two_at_once_download_once(web, monkeypatch):
    use(monkeypatch, web("uc-merced", published.uc_merced()), images=4, classes=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: len(open_named("uc-merced").items), range(4)))
    assert (found, web.asked) == ([4] * 4, ["UCMerced_LandUse.zip"])


def test_who_waits_touches_nothing(web, monkeypatch):
    """The folder belongs to the one who has the lock and who removes it at the end: a race, so seen from inside."""
    use(monkeypatch, web("uc-merced", published.uc_merced()), images=4, classes=2)
    alone, before = fetch._alone, []

    def watched(staging):
        before.append(staging.exists())
        return alone(staging)

    monkeypatch.setattr(fetch, "_alone", watched)
    assert len(open_named("uc-merced").items) == 4
    assert before == [False]


def test_packing_gives_the_same_bytes_again(tmp_path):
    pictures = [fetch.Picture(f"{k}.png", "ab"[k % 2], "train", lambda k=k: encoded(picture(k))) for k in range(4)]
    for name in ("1.zip", "2.zip"):
        fetch.pack(pictures, tmp_path / name)
    assert digest(tmp_path / "1.zip") == digest(tmp_path / "2.zip")
    shutil.rmtree(tmp_path)
