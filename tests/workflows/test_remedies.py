"""What is proposed next can be run, and differs from what was done."""

from dataclasses import replace

import pytest

from sapling import methods
from sapling.config import build
from sapling.evaluation.diagnosis import diagnose
from sapling.workflows.remedies import remedy_for
from tests.evaluation.test_diagnosis import GOOD, HEALTHY


def test_a_remedy_for_a_weak_teacher_is_not_the_teacher_that_it_had():
    measured = replace(HEALTHY, img_size=64, gap=-0.05, epochs=60, teacher_train=replace(GOOD, right=0.9))
    teacher = {"model": "wrn_16_2_s2", "recipe": "mixed"}
    config = build({"data": "x", "teacher": teacher})
    finding = next(f for f in diagnose(measured) if f.name == "weak_teacher")
    assert remedy_for(finding, measured, config).changes == {"teacher.epochs": 240}


@pytest.mark.parametrize(
    ("method", "model", "size", "larger"),
    [("dist", "wrn_16_2_s2", 64, "wrn_40_2_s2"), ("ofd", "resnet56_s2", 64, None), ("at", "cnn4", 32, "wrn_16_2")],
)
def test_a_larger_teacher_has_what_the_method_taps(method, model, size, larger):
    measured = replace(HEALTHY, img_size=size, gap=-0.05, teacher_train=replace(GOOD, right=0.99))
    config = build({"data": "x", "method": method, "teacher": model})
    found = remedy_for(diagnose(measured)[0], measured, config).changes
    assert found.get("teacher.model") == larger
    assert larger or "teacher.epochs" in found


def test_a_short_training_with_a_given_teacher_that_is_worse_gets_another_teacher_too(finished_run):
    short = replace(HEALTHY, img_size=16, gap=-0.2, gap_error=0.02, rising=0.03)
    finding = next(f for f in diagnose(short) if f.name == "steps")
    config = build({"data": "x", "teacher": str(finished_run.folder / "teacher")})
    found = remedy_for(finding, short, config)
    assert {"teacher.model", "train.epochs"} <= found.changes.keys()
    assert not found.keeps_teacher
    better = replace(short, gap=-0.03)
    assert "teacher.model" not in remedy_for(finding, better, config).changes


def test_nuclear_without_kd_hears_no_teacher():
    assert not methods.requires("nuclear", base="none").teacher
    assert methods.requires("nuclear").teacher
