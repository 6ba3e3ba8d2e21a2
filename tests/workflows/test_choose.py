"""The teacher that a run trains where none is named: what is chosen, said, recorded and found again."""

import json

import pytest

from sapling import distill
from sapling.config import build
from sapling.errors import UsageError
from sapling.models.build import resolve_name
from sapling.workflows.choose import LARGER, chosen_teacher, teacher_for
from sapling.workflows.networks import is_given
from sapling.workflows.plan import plan


@pytest.mark.parametrize(
    ("student", "side", "pretrained", "name"),
    [
        ("cnn3", 64, False, "wrn_16_2_s2"),
        ("sapling_cnn3", 128, False, "wrn_16_2_s2"),
        ("cnn3", 63, False, "wrn_16_2"),
        ("resnet18", 64, False, "wrn_16_2_s2"),
        ("wrn_16_2_s2", 64, False, "wrn_40_2_s2"),
        ("wrn_40_2", 32, False, "resnet34"),
        ("cnn3", 129, False, "resnet18"),
        ("resnet20", 224, False, "resnet18"),
        ("resnet18", 224, False, "resnet34"),
        ("efficientnet_b0", 224, False, "efficientnet_b2"),
        ("densenet121", 224, False, "resnet34"),
        # published weights: the small ones have none
        ("cnn3", 64, True, "resnet18"),
        ("wrn_16_2_s2", 64, True, "resnet18"),
        ("mobilenetv3_small_100", 64, True, "mobilenetv3_large_100"),
    ],
)
def test_a_teacher_is_chosen_for_the_student_and_the_size(student, side, pretrained, name):
    assert teacher_for(student, side, pretrained=pretrained) == name
    config = build({"data": "x", "student": student, "teacher": {"pretrained": pretrained}})
    assert chosen_teacher(config, side).teacher.model == name


@pytest.mark.parametrize("side", [32, 64, 224])
def test_no_student_is_its_own_teacher_and_every_name_is_known(side):
    for student in LARGER:
        name = teacher_for(student, side)
        assert resolve_name(name) != resolve_name(student)
        assert resolve_name(LARGER[student]) != resolve_name(student)


def test_a_teacher_that_is_named_is_no_choice():
    config = build({"data": "x", "teacher": "resnet18"})
    assert chosen_teacher(config, 64) is config


def test_a_folder_called_auto_is_no_teacher(tmp_path, monkeypatch):
    (tmp_path / "auto").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_given("auto")
    assert is_given("./auto")


def test_settings_of_weights_alone_are_refused_where_it_is_trained():
    with pytest.raises(UsageError, match=r"teacher\.img_size would not be used"):
        distill(data="digits", teacher={"img_size": 32})


def test_the_choice_is_said_recorded_and_found_again(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = {
        "data": {"source": str(photos), "img_size": 16},
        "teacher": {"accept_weak": True},
        "train": {"epochs": 1, "batch_size": 16, "num_seeds": 1, "precision": "fp32"},
        "deploy": {"onnx": False},
    }
    planned = plan(build(blocks))
    assert planned["teacher"]["model"] == "wrn_16_2"
    run = distill(**blocks)
    assert run.folder.name == planned["folder"].rpartition("/")[2]
    assert run.results["teacher"]["model"] == run.results["manifest"]["teacher"] == "wrn_16_2"
    assert json.loads((run.folder / "teacher" / "config.json").read_text())["architecture"] == "sapling_wrn_16_2"
    assert "teacher: wrn_16_2, chosen for cnn3 at 16 px" in (run.folder / "log.txt").read_text()
    # the next run names it, whatever is chosen then
    texts = [f["command"] for f in run.results["diagnosis"].get("findings", []) if f["command"].startswith("sapling d")]
    assert all("--teacher auto" not in text for text in texts)
    # the same command finds the run that is there, finished or not
    assert distill(**blocks).folder == run.folder
    assert plan(build(blocks))["folder"] == planned["folder"]
    (run.folder / "results.json").unlink()
    lines = (run.folder / "metrics.jsonl").read_text()
    assert distill(**blocks).folder == run.folder
    assert (run.folder / "metrics.jsonl").read_text() == lines
