"""The teacher that a run trains where none is named: what is chosen, said, recorded and found again."""

import json

import pytest

from sapling import distill, methods
from sapling.config import build
from sapling.data.loader import load_data
from sapling.errors import UsageError
from sapling.models.build import resolve_name
from sapling.run_folders import stamp_of
from sapling.workflows import choose
from sapling.workflows.choose import LARGER, chosen_teacher, note_of_choice, teacher_for
from sapling.workflows.networks import is_given
from sapling.workflows.pair import check_pair
from sapling.workflows.plan import plan

pytestmark = pytest.mark.usefixtures("no_page")


def settings(student, method="dist", **teacher):
    return build({"data": "x", "student": student, "teacher": teacher, "method": method})


@pytest.mark.parametrize(
    ("student", "side", "pretrained", "name"),
    [
        ("cnn3", 64, False, "wrn_16_2_s2"),
        ("sapling_cnn3", 128, False, "wrn_16_2_s2"),
        ("cnn4", 48, False, "wrn_16_2_s2"),
        ("cnn3", 47, False, "wrn_16_2"),
        # these shrink small images at once
        ("resnet18", 64, False, "wrn_16_2_s2"),
        ("resnet18.a1_in1k", 64, False, "wrn_16_2_s2"),
        ("torchvision:alexnet", 64, False, "wrn_16_2_s2"),
        # these do not: only a larger one is better
        ("resnet8x4", 32, False, "resnet32x4"),
        ("resnet20", 32, False, "resnet56"),
        ("wrn_16_2_s2", 64, False, "wrn_40_2_s2"),
        ("wrn_40_2_s2", 64, False, "resnet18_cifar"),
        ("resnet50_cifar", 32, False, None),
        ("cnn3", 129, False, "resnet18"),
        ("resnet20", 224, False, "resnet18"),
        ("resnet18", 224, False, "resnet34"),
        ("resnet34.a1_in1k", 224, False, "resnet50"),
        ("efficientnet_b0", 224, False, "efficientnet_b2"),
        ("densenet121", 224, False, None),
        ("torchvision:alexnet", 224, False, None),
        # published weights: the small ones have none
        ("cnn3", 64, True, "resnet18"),
        ("wrn_16_2_s2", 64, True, "resnet18"),
        ("mobilenetv3_small_100", 64, True, "mobilenetv3_large_100"),
        ("vit_tiny_patch16_224", 224, True, None),
    ],
)
def test_a_teacher_is_chosen_for_the_student_and_the_size(student, side, pretrained, name):
    assert teacher_for(settings(student), side, pretrained=pretrained) == name
    config = settings(student, pretrained=pretrained)
    if name is None:
        with pytest.raises(UsageError, match=f"no larger relative of the student '{student}' is known"):
            chosen_teacher(config, side)
    else:
        assert chosen_teacher(config, side).teacher.model == name


@pytest.mark.parametrize(
    ("student", "name"),
    [("cnn3", "resnet56"), ("wrn_16_2", "resnet56"), ("resnet56", "resnet110"), ("resnet8x4", "resnet32x4")],
)
def test_a_method_that_needs_an_activation_gets_a_teacher_with_one(student, name):
    assert teacher_for(settings(student, "ofd"), 32) == name
    assert teacher_for(settings(student, "kd+ofd"), 32) == name
    assert teacher_for(settings("resnet56_s2", "ofd"), 64) is None


def test_a_teacher_that_may_be_the_smaller_one_is_said_to_be():
    for student, side, doubt in (("cnn3", 64, False), ("resnet18", 64, True), ("resnet20", 64, False)):
        assert ("may be the smaller" in note_of_choice(chosen_teacher(settings(student), side), side)) == doubt


@pytest.mark.parametrize("side", [32, 64, 224])
@pytest.mark.parametrize("pretrained", [False, True])
def test_no_student_is_its_own_teacher_and_every_name_is_known(side, pretrained):
    for student in (*LARGER, *LARGER.values(), "resnet34.a1_in1k", "resnet152"):
        name = teacher_for(settings(student), side, pretrained=pretrained)
        assert name is None or resolve_name(name) != resolve_name(student.partition(".")[0])
        assert name is None or not pretrained or not resolve_name(name).startswith("sapling_")


def test_a_student_of_published_weights_is_taught_by_such_a_teacher():
    chosen = chosen_teacher(build({"data": "x", "student": {"model": "resnet18", "pretrained": True}}), 64).teacher
    assert (chosen.model, chosen.pretrained) == ("resnet34", True)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_every_method_can_hear_the_teacher_that_is_chosen_for_it(side):
    data = load_data("digits", img_size=side)
    for name in methods.names():
        config = chosen_teacher(build({"data": {"source": "digits", "img_size": side}, "method": name}), side)
        check_pair(config, data)


def test_a_teacher_that_is_named_is_no_choice():
    config = build({"data": "x", "teacher": "resnet18"})
    assert chosen_teacher(config, 64) is config


def test_a_folder_called_auto_is_no_teacher(tmp_path, monkeypatch):
    (tmp_path / "auto").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_given("auto")
    assert is_given("./auto")


def test_settings_of_weights_alone_are_refused_where_it_is_trained():
    with pytest.raises(UsageError, match=r"^the teacher is trained here, so teacher\.img_size would not be used"):
        distill(data="digits", teacher={"img_size": 32})


def test_the_choice_is_said_recorded_and_found_again(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = {
        "data": {"source": str(photos), "img_size": 16},
        "teacher": {"accept_weak": True},
        "train": {"epochs": 1, "batch_size": 16, "num_seeds": 1, "precision": "fp32"},
        "deploy": {"onnx": False, "latency_seconds": 0},
    }
    planned = plan(build(blocks))
    assert planned["teacher"]["model"] == "wrn_16_2"
    run = distill(**blocks)
    assert run.folder.name == planned["folder"].rpartition("/")[2]
    assert run.results["teacher"]["model"] == run.results["manifest"]["teacher"] == "wrn_16_2"
    assert json.loads((run.folder / "teacher" / "config.json").read_text())["architecture"] == "sapling_wrn_16_2"
    assert "teacher: wrn_16_2, chosen for cnn3 at 16 px" in (run.folder / "log.txt").read_text()
    # the next run names it, whatever is chosen then
    found = run.results["diagnosis"]
    texts = [f["command"] for f in [*found["findings"], *filter(None, [found.get("next")])] if f["command"]]
    assert texts
    assert all("--teacher auto" not in text for text in texts)
    # the same command finds the run that is there, finished or not
    assert distill(**blocks).folder == run.folder
    assert plan(build(blocks))["folder"] == planned["folder"]
    (run.folder / "results.json").unlink()
    lines = (run.folder / "metrics.jsonl").read_text()
    # and it keeps its teacher, whatever would be chosen now
    monkeypatch.setattr(choose, "small_teacher", lambda config, img_size: "resnet20")
    again = distill(**blocks)
    assert again.folder == run.folder
    assert (run.folder / "metrics.jsonl").read_text() == lines
    assert again.results["teacher"]["model"] == again.results["manifest"]["teacher"] == "wrn_16_2"


def test_where_no_teacher_is_known_the_command_ends_before_an_image_is_decoded(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="no teacher is named"):
        distill(data={"source": str(photos), "img_size": 224}, student="densenet121")
    assert not list((tmp_path / "cache").rglob("images.npy"))


def test_training_alone_has_no_teacher():
    """Runs of ``sapling train`` from before a teacher could be left open are found."""
    config = build({"data": "x", "student": "cnn3"})
    old = build({"data": "x", "student": "cnn3", "teacher": "resnet18"})
    assert stamp_of(config, "train") == stamp_of(old, "train")
    assert stamp_of(config, "distill") != stamp_of(old, "distill")
