"""What may be compared: every setting that is looked at, one by one, and images that are others."""

from __future__ import annotations

import json

import pytest

import sapling
from sapling.config import StudentConfig, TrainConfig
from sapling.errors import UsageError
from sapling.workflows.comparable import _MANIFEST, _SETTINGS, ALLOWABLE, differences
from sapling.workflows.stored import read_stored
from tests.workflows.stored_runs import IMAGES, change, store_run


@pytest.fixture
def two(tmp_path):
    return [store_run(tmp_path / "kd", gain=0.1), store_run(tmp_path / "dkd", method="dkd")]


IN_MANIFEST = [(kind, key) for kind, keys in _MANIFEST.items() for key in keys]
IN_SETTINGS = [(kind, part, key) for kind, (part, _, keys) in _SETTINGS.items() for key in keys]


def refused_for(runs, kind, name):
    """These runs differ in this alone, are refused for it, and compared where it is allowed, and only then."""
    (found,) = differences([read_stored(run) for run in runs])
    assert (found.kind, found.name) == (kind, name)
    with pytest.raises(UsageError, match=f"- {kind}: {name}: "):
        sapling.compare(runs, allow=set(ALLOWABLE) - {kind})
    assert [d.name for d in sapling.compare(runs, allow=[kind]).allowed] == [name]


@pytest.mark.parametrize(("kind", "key"), IN_MANIFEST, ids=[key for _, key in IN_MANIFEST])
def test_every_setting_of_the_manifest_is_looked_at(two, kind, key):
    change(two[1], **{f"manifest__{key}": "another"})
    refused_for(two, kind, key)


@pytest.mark.parametrize(("kind", "part", "key"), IN_SETTINGS, ids=[key for _, _, key in IN_SETTINGS])
def test_every_setting_of_the_file_is_looked_at(two, kind, part, key):
    (two[1] / "config.yaml").write_text(json.dumps({part: {key: "another"}}))
    refused_for(two, kind, f"{part}.{key}")


def test_the_lists_hold_what_they_should():
    """By hand, once more: a key that is taken out of a list would take its test along."""
    assert {key for _, key in IN_MANIFEST} == {
        "student", "img_size", "epochs", "steps_per_epoch", "batch_size", "optimizer", "lr", "weight_decay", "schedule",
        "warmup_epochs", "ema_decay", "precision", "selection", "tuning_trials", "views", "view_options", "mix",
        "view_seed", "num_views", "answers", "bands", "imbalance", "imbalance_power",
    }  # fmt: skip
    assert {key for _, _, key in IN_SETTINGS} == {
        "pretrained", "freeze_backbone", "momentum", "step_epochs", "step_factor", "clip_norm", "layer_decay",
        "half_size_share",
    }  # fmt: skip


def test_nothing_of_a_run_is_left_out(finished_run):
    """What a manifest holds is looked at here, or by hashes and seeds, or does not change what is compared."""
    seen = {key for _, key in IN_MANIFEST}
    elsewhere = {"teacher", "method", "method_config", "taught", "weights", "seeds", "split", "data"}
    noted = {"device", "threads"}
    assert set(finished_run.results["manifest"]) <= seen | elsewhere | noted
    of_file = {key for _, _, key in IN_SETTINGS}
    named_otherwise = {"model", "seed", "num_seeds", "device", "threads", "members_per_pass"}
    fields = {*TrainConfig.model_fields, *StudentConfig.model_fields}
    assert fields <= seen | of_file | named_otherwise


DIFFERENCES = [
    ("budget", {"epochs": 6}, "epochs: 5 in kd; 6 in dkd"),
    ("budget", {"batch_size": 32}, "batch_size: 64 in kd; 32 in dkd"),
    ("budget", {"optimizer": "adamw"}, "optimizer"),
    ("budget", {"tuning_trials": {"control": 0, "method": 5}}, "tuning_trials"),
    ("recipe", {"views": "strong"}, "views: shift in kd; strong in dkd"),
    ("student", {"student": "sapling_cnn4"}, "student: sapling_cnn3 in kd; sapling_cnn4 in dkd"),
    ("student", {"img_size": 32, "data": {"fingerprint": "other"}}, "img_size: 16 in kd; 32 in dkd"),
    ("teacher", {"teacher": "cd" * 32}, "resnet18 abababababab in kd; resnet18 cdcdcdcdcdcd in dkd"),
    ("teacher", {"answers": "12" * 32}, "how it answers: plainly efefefefefef in kd; plainly 121212121212 in dkd"),
]


@pytest.mark.parametrize(("kind", "changed", "said"), DIFFERENCES)
def test_a_difference_is_refused_by_name_and_can_be_allowed(two, tmp_path, kind, changed, said):
    other = store_run(tmp_path / "x" / "dkd", method="dkd", **changed)
    with pytest.raises(UsageError) as caught:
        sapling.compare([two[0], other])
    assert f"- {kind}: " in str(caught.value)
    assert said in str(caught.value)
    assert f"--allow {kind}" in str(caught.value)
    found = sapling.compare([two[0], other], allow=[kind])
    assert {d.kind for d in found.allowed} == {kind}
    others = {"student", "teacher", "budget", "recipe", "seeds"} - {kind}
    with pytest.raises(UsageError, match=kind):
        sapling.compare([two[0], other], allow=others)


def test_settings_that_only_the_file_knows_count(two):
    (two[1] / "config.yaml").write_text("student: {model: cnn3, pretrained: true}\ntrain: {}\n")
    with pytest.raises(UsageError, match=r"student\.pretrained: False in kd; True in dkd"):
        sapling.compare(two)
    (two[1] / "config.yaml").write_text("train: {momentum: 0.8}\n")
    with pytest.raises(UsageError, match=r"budget: train\.momentum"):
        sapling.compare(two)
    (two[1] / "config.yaml").write_text("data: {source: x}\n")  # older: all else as it is by default
    sapling.compare(two)


FIXED = [
    ("data", {"data": {"fingerprint": "other"}}, "data: fingerprint"),
    ("split", {"split": {"train": 1, "test": IMAGES, "fingerprint": "other"}}, "split: fingerprint"),
]


@pytest.mark.parametrize(("kind", "changed", "said"), FIXED)
def test_other_images_are_never_compared(two, tmp_path, kind, changed, said):
    other = store_run(tmp_path / "x" / "dkd", method="dkd", **changed)
    with pytest.raises(UsageError, match=said):
        sapling.compare([two[0], other], allow=["student", "teacher", "budget", "recipe", "seeds"])
    with pytest.raises(UsageError, match=f"'{kind}' cannot be allowed"):
        sapling.compare([two[0], other], allow=[kind])


def test_images_in_another_order_are_other_images(two, tmp_path):
    other = store_run(tmp_path / "x" / "dkd", method="dkd", img_size=32, data={"fingerprint": "other"})
    text = (other / "split.csv").read_text().replace("0.png,test\n1.png,test\n", "1.png,test\n0.png,test\n")
    (other / "split.csv").write_text(text)
    with pytest.raises(UsageError, match="data: fingerprint"):
        sapling.compare([two[0], other], allow=["student"])


def test_other_tasks_and_measures_are_refused(two, tmp_path):
    several = store_run(tmp_path / "labels", method="dist", several=True, measure="map")
    with pytest.raises(UsageError, match=r"labels per image: one in kd; several in dist"):
        sapling.compare([two[0], several])
    recall = store_run(tmp_path / "recall", method="dist", measure="macro_recall")
    with pytest.raises(UsageError, match=r"measure: top1 in kd; macro_recall in dist"):
        sapling.compare([two[0], recall])
    change(two[1], classes=["a", "b", "c", "d"])
    with pytest.raises(UsageError, match="task: classes"):
        sapling.compare(two)
