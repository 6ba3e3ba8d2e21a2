"""What a run does with broken images, and what it keeps of its data."""

import json

import pytest

import sapling
from sapling.errors import DataError, UsageError
from tests.conftest import write_images
from tests.digests import digest

SMALL = {
    "student": "cnn3",
    "train": {"epochs": 1, "batch_size": 16, "precision": "fp32"},
    "deploy": {"onnx": False, "latency_seconds": 0},
}
BROKEN = "枫树/7.png"


@pytest.fixture(scope="module")
def blemished(tmp_path_factory):
    """120 images, one of them broken: less than 1 %."""
    folder = write_images(tmp_path_factory.mktemp("blemished") / "photos", per_class=40)
    (folder / BROKEN).write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def run(blemished, tmp_path_factory):
    """A model trained on them."""
    folder = tmp_path_factory.mktemp("run") / "r"
    return sapling.train(data={"source": str(blemished), "img_size": 16}, output=folder, **SMALL)


def test_a_run_skips_a_broken_image_and_says_so_everywhere(run):
    note = f"Skipped: 1 of 120 images, which cannot be used: {BROKEN} (it is not an image)."
    assert note in run.results["warnings"]
    card = json.loads((run.folder / "data.json").read_text())
    assert card["skipped"] == [{"image": BROKEN, "reason": "it is not an image"}]
    assert sum(card["split"][part] for part in ("train", "val", "test")) == 119
    log = (run.folder / "log.txt").read_text()
    assert note in log
    assert f"skipped {BROKEN}: it is not an image" in log


def test_the_images_of_a_run_are_known_again_in_evaluation(run, blemished):
    measured = sapling.evaluate(run.folder, blemished, device="cpu")
    assert measured["num_images"] == sum(map(sum, run.results["members"][0]["test"]["confusion"]))
    assert measured["top1"] == run.results["members"][0]["test"]["top1"]
    assert [warning.partition(":")[0] for warning in measured["warnings"]] == ["Skipped"]


def test_all_images_but_the_broken_ones_are_measured(run, blemished):
    measured = sapling.evaluate(run.folder, blemished, split="all", device="cpu")
    assert measured["num_images"] == 119
    assert any(warning.startswith("Skipped: 1 of 120") for warning in measured["warnings"])


def test_fail_stops_before_anything_is_trained(blemished, tmp_path):
    data = {"source": str(blemished), "img_size": 16, "on_bad_image": "fail"}
    with pytest.raises(DataError, match=r"(?s)1 of 120 images cannot be used.*--on-bad-image skip"):
        sapling.train(data=data, output=tmp_path / "r", **SMALL)
    assert not (tmp_path / "r").exists()


def test_the_split_of_a_run_can_be_given_to_another(run, blemished, tmp_path):
    given = tmp_path / "given.csv"
    given.write_bytes((run.folder / "split.csv").read_bytes())
    assert len(given.read_text().splitlines()) == 120  # a header and 119 images
    data = {"source": str(blemished), "img_size": 16, "split_file": str(given)}
    other = sapling.train(data=data, output=tmp_path / "r", **SMALL)
    cards = [json.loads((folder / "data.json").read_text()) for folder in (run.folder, other.folder)]
    assert cards[0]["split_fingerprint"] == cards[1]["split_fingerprint"]
    assert digest(other.folder / "split.csv") == digest(given)
    assert f"The split is that of the file {given}." in cards[1]["notes"]
    given.unlink()  # the run has its own copy
    measured = sapling.evaluate(other.folder, blemished, device="cpu")
    assert measured["top1"] == other.results["members"][0]["test"]["top1"]


def test_a_split_without_a_run_is_not_overwritten(blemished, tmp_path):
    (tmp_path / "split.csv").write_text("mine")
    with pytest.raises(UsageError, match="holds other files and is no run"):
        sapling.train(data={"source": str(blemished), "img_size": 16}, output=tmp_path, **SMALL)
    assert (tmp_path / "split.csv").read_text() == "mine"
