"""A given teacher that was trained on test images of this run stops it; where nothing is known nothing is said."""

from __future__ import annotations

import json
import shutil

import pytest

import sapling
from sapling.cli import main
from sapling.config import build
from sapling.data.loader import load_data
from sapling.errors import DataError
from sapling.workflows.teacher_split import check_teacher_splits, leak_notes, split_of
from tests.conftest import CLASSES, SMALL_RUN, write_images

QUICK = {**SMALL_RUN["train"], "epochs": 1, "num_seeds": 1}
CLEAN = "Measured on test images that nothing was trained or chosen on."


def blocks(photos, teacher, output, **data):
    return {
        "data": {"source": str(photos), "img_size": 16, **data},
        "student": "cnn3",
        "teacher": {"model": str(teacher), "accept_weak": True},
        "train": QUICK,
        "deploy": {"parity_images": 8, "latency_seconds": 0.01},
        "output": str(output),
    }


@pytest.fixture(scope="module")
def leaky(photos, finished_run, tmp_path_factory):
    """A run on another split than its teacher's that was told to go on."""
    output = tmp_path_factory.mktemp("leaky") / "r"
    return sapling.distill(**blocks(photos, finished_run.folder / "teacher", output, split_seed=1, allow_leaks=True))


@pytest.fixture
def copy(finished_run, tmp_path):
    """What of a run a teacher's split is read from."""
    home = tmp_path / "run"
    shutil.copytree(finished_run.folder / "teacher", home / "teacher")
    for name in ("split.csv", "data.json"):
        shutil.copy(finished_run.folder / name, home / name)
    return home


def trained_keys(folder):
    rows = (folder / "split.csv").read_text(encoding="utf-8").splitlines()
    return {row.rpartition(",")[0].strip('"') for row in rows if row.endswith(",train")}


def seen_in(photos, folder, seed, part):
    data = load_data(photos, img_size=16, split_seed=seed)
    keys = {data.source.items[i].key for i in data.split.part(part)}
    return len(keys & trained_keys(folder)), len(keys)


@pytest.mark.parametrize("model", ["teacher", "student", "", "student/model.safetensors", "members/control-s0"])
def test_a_teacher_that_was_trained_on_the_test_images_stops_the_run(photos, finished_run, tmp_path, model):
    call = blocks(photos, finished_run.folder / model, tmp_path / "r", split_seed=1)
    call["data"]["img_size"] = 12  # other pixels of the same images
    with pytest.raises(DataError) as caught:
        sapling.distill(**call)
    (test, of), (val, of_val) = (seen_in(photos, finished_run.folder, 1, part) for part in ("test", "val"))
    assert test > 0
    text = str(caught.value)
    assert f"was trained on {test} of the {of} test images and {val} of the {of_val} validation images" in text
    assert "--split " in text
    assert f"{finished_run.folder / 'split.csv'}" in text
    assert "in place of data.split_seed uses the split that the teacher was trained on" in text
    assert "give --teacher the name of a network" in text
    assert "--allow-leaks goes on" in text
    assert "sapling inspect" not in text, "the data itself has no leak"
    assert caught.value.exit_code == 2
    assert not (tmp_path / "r" / "teacher" / "card.json").exists()


def test_the_command_line_stops_with_2_and_no_traceback(photos, finished_run, tmp_path, capsys):
    args = ["distill", str(photos), "--teacher", str(finished_run.folder / "teacher"), "--student", "cnn3"]
    args += ["--img-size", "16", "--epochs", "1", "--seeds", "1", "--set", "data.split_seed=1"]
    assert main([*args, "--output", str(tmp_path / "r")]) == 2
    shown = capsys.readouterr().err
    assert "was trained on" in " ".join(shown.split())
    assert "Traceback" not in shown
    assert main([*args, "--output", str(tmp_path / "other"), "--dry-run"]) == 2
    assert "was trained on" in " ".join(capsys.readouterr().err.split())
    assert main([*args, "--output", str(tmp_path / "other"), "--dry-run", "--allow-leaks"]) == 0


def test_a_leak_that_is_allowed_stands_everywhere(photos, finished_run, leaky):
    (test, of), (val, of_val) = (seen_in(photos, finished_run.folder, 1, part) for part in ("test", "val"))
    said = f"was trained on {test} of the {of} test images and {val} of the {of_val} validation images of this run."
    assert any(w.startswith("Leak, and the run was told to go on") and said in w for w in leaky.results["warnings"])
    page = (leaky.folder / "report.html").read_text(encoding="utf-8")
    assert said in page
    assert said in (leaky.folder / "student" / "README.md").read_text(encoding="utf-8")
    assert said in (leaky.folder / "log.txt").read_text(encoding="utf-8")
    assert CLEAN not in page
    assert "told to go on with a leak" in page
    assert CLEAN in (finished_run.folder / "report.html").read_text(encoding="utf-8")


def test_a_run_hands_on_the_split_of_the_teacher_that_it_was_given(photos, finished_run, leaky, tmp_path):
    """With the split of the run in between nothing seems to leak, but that teacher was trained on another."""
    call = blocks(photos, leaky.folder / "teacher", tmp_path / "r", split_file=str(leaky.folder / "split.csv"))
    with pytest.raises(DataError, match="was trained on"):
        sapling.distill(**call)
    data = load_data(photos, img_size=16)
    found = split_of(str(leaky.folder / "teacher"), data)
    assert found.text == (finished_run.folder / "split.csv").read_bytes()
    (leaky.folder / "teacher" / "split.csv").rename(tmp_path / "kept.csv")
    try:  # of a teacher from elsewhere the split of the run says nothing
        assert split_of(str(leaky.folder / "teacher"), data) is None
    finally:
        (tmp_path / "kept.csv").rename(leaky.folder / "teacher" / "split.csv")


def test_the_same_split_passes_and_so_do_several_teachers_on_it(photos, finished_run):
    data, config = load_data(photos, img_size=16), build({"data": str(photos)})
    both = [split_of(str(finished_run.folder / name), data) for name in ("teacher", "student")]
    found = check_teacher_splits(both, data, config)
    assert [entry["seen"] for entry in found] == [{"val": 0, "test": 0}] * 2
    assert leak_notes({"trained_on": found}) == leak_notes({}) == []


def test_teachers_of_two_splits_have_no_split_in_common(photos, finished_run, leaky):
    data, config = load_data(photos, img_size=16, split_seed=2), build({"data": str(photos)})
    both = [split_of(str(r.folder / "student"), data) for r in (finished_run, leaky)]
    with pytest.raises(DataError) as caught:
        check_teacher_splits(both, data, config)
    assert str(caught.value).count("was trained on") == 2
    assert "--split" not in str(caught.value)


def test_other_images_are_other_images(photos, copy, tmp_path):
    def is_of(folder, **changes):
        card = json.loads((copy / "data.json").read_text())
        (copy / "data.json").write_text(json.dumps(card | changes))
        data = load_data(folder, img_size=16)
        return split_of(str(copy / "teacher"), data).is_of(data)

    more = write_images(tmp_path / "more", per_class=31)
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert is_of(moved), "the same names and classes in another place"
    assert not is_of(more), "numbered in the same way, but more of them"
    assert is_of(more, place=str(more)), "a few images came to the folder"
    (tmp_path / "link").symlink_to(more)
    assert is_of(tmp_path / "link"), "the same folder by another name"
    twice = write_images(tmp_path / "fewer", per_class=20)
    assert not is_of(twice, place=str(twice)), "most of its images are not here"
    assert not is_of(moved, classes=[*CLASSES[:2], "birch"])


def write_link(path, tmp_path):
    path.rename(tmp_path / "elsewhere.csv")
    path.symlink_to(tmp_path / "elsewhere.csv")


BROKEN = {
    "missing": lambda path, _: path.unlink(),
    "empty": lambda path, _: path.write_bytes(b""),
    "no table": lambda path, _: path.write_bytes(b"\x00\xff" * 99),
    "other columns": lambda path, _: path.write_text("a,b\n1,2\n"),
    "an image twice": lambda path, _: path.write_bytes(path.read_bytes() + path.read_bytes().splitlines()[1]),
    "unknown part": lambda path, _: path.write_bytes(path.read_bytes() + b"x.png,exam\r\n"),
    "cells too few": lambda path, _: path.write_bytes(path.read_bytes() + b"x.png\r\n"),
    "huge": lambda path, _: path.write_bytes(path.read_bytes() + b"\r\n" * 2**22),
    "link": write_link,
    "folder": lambda path, _: (path.unlink(), path.mkdir()),
    "no card": lambda path, _: (path.parent / "data.json").unlink(),
    "damaged card": lambda path, _: (path.parent / "data.json").write_text("{"),
    "deep card": lambda path, _: (path.parent / "data.json").write_text("[" * 9999),
    "card of another kind": lambda path, _: (path.parent / "data.json").write_text("[1]"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_of_a_split_that_cannot_be_read_nothing_is_known(photos, copy, tmp_path, how):
    data = load_data(photos, img_size=16)
    assert split_of(str(copy / "teacher"), data) is not None
    BROKEN[how](copy / "split.csv", tmp_path)
    assert split_of(str(copy / "teacher"), data) is None


def test_where_no_run_is_nothing_is_known(photos, copy, tmp_path):
    data = load_data(photos, img_size=16)
    assert split_of(f"local-dir:{copy / 'teacher'}", data).parts
    for model in ("hf-hub:timm/resnet18", str(tmp_path / "nothing"), "\0", str(photos), f"x={tmp_path / 'no.pth'}"):
        assert split_of(model, data) is None
