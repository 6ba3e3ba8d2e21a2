"""Public data sets by name: offline, by hand, and the table of facts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from sapling.data import named
from sapling.data.named import TABLE, file_names, open_named
from sapling.data.packed import cache_folder
from sapling.data.sources import VIEW_PRESETS, open_source
from sapling.data.splits import make_split
from sapling.errors import DataError
from tests.data import published
from tests.data.pictures import class_pictures, encoded, picture, run_python, write_folder, write_zip
from tests.data.test_supervisely import project
from tests.data.web import CASES, SETS, contents_of, modules_of, use

# Offline, and by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eurosat", "uc-merced", "pathmnist"])
def test_offline_says_what_to_download_and_where_to_put_it(web, name):
    with pytest.raises(DataError) as caught:
        open_named(name)
    said = str(caught.value)
    assert f"{name} cannot be downloaded: <urlopen error [Errno -3] Temporary failure in name resolution>" in said
    assert SETS[name].files[0] in said
    assert file_names(SETS[name])[0] in said
    assert f"put it into {cache_folder() / 'datasets' / name}" in said
    assert "a folder per class" in said


def test_an_unreachable_hub_is_said(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def offline(*_, **__):
        raise ConnectionError("Couldn't reach 'uoft-cs/cifar10' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError, match=r"(?s)cifar10 cannot be downloaded: Couldn't reach.*huggingface\.co/datasets/uoft-cs"
    ):
        open_named("cifar10")


@pytest.mark.parametrize("name", ["aid", "street-trees", "breakhis"])
def test_what_only_a_person_can_download(name):
    with pytest.raises(DataError, match=f"{name} must be downloaded by hand") as caught:
        open_named(name)
    assert SETS[name].page in str(caught.value)


def test_the_published_archive_put_there_by_hand(web, monkeypatch):
    for name in ("uc-merced", "dtd"):
        contents = contents_of(name)
        images, classes, *_ = CASES[name]
        use(monkeypatch, web(name, contents), images=images, classes=classes)
        home = write_folder(cache_folder() / "datasets" / name, contents)
        web.files.clear()
        source = open_named(name)
        assert len(source.items) == images
        assert (home / f"{name}.zip").is_file()
    assert not web.asked


def test_a_wrong_archive_put_there_by_hand_is_refused_and_kept(web, monkeypatch):
    contents = published.uc_merced()
    use(monkeypatch, web("uc-merced", contents), images=4, classes=2)
    (file,) = contents
    home = write_folder(cache_folder() / "datasets" / "uc-merced", {file: contents[file] + b"!"})
    web.files.clear()
    with pytest.raises(DataError, match=r"cannot be downloaded|not the file"):
        open_named("uc-merced")
    assert (home / file).read_bytes() == contents[file] + b"!"


@pytest.mark.parametrize("as_zip", [False, True])
def test_class_folders_put_there_by_hand(monkeypatch, as_zip):
    use(monkeypatch, SETS["aid"], images=12, classes=2)
    home = cache_folder() / "datasets" / "aid"
    home.mkdir(parents=True)
    files = class_pictures()
    (write_zip(home / "AID.zip", files) if as_zip else write_folder(home, files))
    source = open_named("aid")
    assert (source.name, source.classes, len(source.items), source.default_views) == (
        "aid",
        ("cat", "dog"),
        12,
        "aerial",
    )
    assert not any("by hand" in note for note in source.notes)


def test_other_images_put_there_by_hand_are_taken_with_a_note():
    write_folder(cache_folder() / "datasets" / "aid", class_pictures())
    assert any("12 images of 2 classes, and not the 10,000 of 30" in note for note in open_named("aid").notes)


def test_files_that_cannot_be_used_are_said_with_their_place():
    write_folder(cache_folder() / "datasets" / "aid", {"AID.rar": b"Rar!"})
    with pytest.raises(DataError, match=r"(?s)the files of aid cannot be used: no image was found.*1 \.rar.*unpack"):
        open_named("aid")


def test_street_trees_in_the_layout_of_supervisely(monkeypatch):
    files = {}
    for home in ("train", "val", "test"):
        files |= project({f"{name}_{k}.png": name for name in ("银杏", "elm") for k in range(2)}, home=home)
    use(monkeypatch, SETS["street-trees"], images=12, classes=2)
    write_folder(cache_folder() / "datasets" / "street-trees", files | {"meta.json": b"{}"})
    source = open_named("street-trees")
    assert source.classes == ("elm", "银杏")
    assert [len(make_split(source).part(part)) for part in ("train", "val", "test")] == [4, 4, 4]


def test_slides_of_breakhis_stay_together(monkeypatch):
    names = [
        f"SOB_{'B_A' if kind == 'benign' else 'M_DC'}-14-22549{slide}-{zoom}-00{k}.png"
        for kind in ("benign", "malignant")
        for slide in "AB"
        for zoom in (40, 100)
        for k in (1, 2)
    ]
    files = {
        f"histology_slides/breast/{'benign' if '_B_' in n else 'malignant'}/SOB/x/y/{n}": encoded(picture())
        for n in names
    }
    use(monkeypatch, SETS["breakhis"], images=16, classes=2)
    write_folder(cache_folder() / "datasets" / "breakhis", files)
    source = open_named("breakhis")
    assert source.classes == ("benign", "malignant")
    assert Counter(item.group for item in source.items) == {"14-22549A": 8, "14-22549B": 8}


def test_a_local_folder_of_that_name_needs_its_path(tmp_path, monkeypatch):
    write_folder(tmp_path / "aid", class_pictures())
    monkeypatch.chdir(tmp_path)
    assert open_source("./aid").kind == "folder"
    with pytest.raises(DataError, match="by hand"):
        open_source("aid")


# The table ----------------------------------------------------------------------------------------------


def test_the_table_is_whole():
    raw = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    known = set(named.NamedSet.__dataclass_fields__) | {
        "class",
        "splits",
        "place",
        "hub",
        "columns",
        "md5",
        "sha256",
        "save_as",
    }
    for name, entry in SETS.items():
        assert set(raw[name]) <= known, name
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert entry.loader in ("torchvision", "zip", "npz", "hub", "hand")
        assert entry.views in VIEW_PRESETS
        assert entry.licence
        assert entry.citation
        assert entry.address.startswith("http")
        assert not entry.names or len(set(entry.names)) == entry.classes, name
        assert all(";" not in label for label in entry.names)
        if entry.loader in ("zip", "npz"):
            digest = entry.options.get("md5") or entry.options.get("sha256")
            assert re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", digest), name
        if entry.groups:
            assert re.compile(entry.groups).groups == 1


def test_torchvision_downloads_the_files_of_the_table():
    for name, entry in SETS.items():
        if entry.loader == "torchvision":
            source = "".join(Path(module.__file__).read_text() for module in modules_of(entry))
            for address in entry.files:
                assert address.rpartition("/")[2] in source, name


def test_names_need_no_torch():
    code = "import sys; from sapling.data.sources import open_source; from sapling.data.named import named_sets;"
    code += "named_sets()['aid'].is_here; print([m for m in ('torch', 'torchvision', 'datasets') if m in sys.modules])"
    assert run_python("-c", code).stdout.strip() == "[]"
