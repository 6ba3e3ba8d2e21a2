"""Each cause on measurements made by hand; measurements of a healthy run speak for none."""

import json
from dataclasses import replace

import pytest

from sapling.evaluation.diagnosis import CAUSES, diagnose, not_looked_at
from sapling.evaluation.imitation import Answers
from sapling.evaluation.measured import Imitation, Measured

GOOD = Answers(1000, 0.97, 0.95, 0.16, 1.3, 0.97)
HEALTHY = Measured(
    outcome="no difference shown",
    measure="top1",
    detectable=0.02,
    num_seeds=5,
    epochs=30,
    steps=4500,
    num_classes=10,
    temperature=4.0,
    standardized=False,
    weights={"ce": 0.1, "kd": 0.9},
    alpha=0.1,
    teacher_train=GOOD,
    teacher_val=replace(GOOD, right=0.93),
    students={
        "control": {"train": Imitation(0.99, 0.96, 0.14), "val": Imitation(0.85, 0.86, 0.5)},
        "distilled": {"train": Imitation(0.97, 0.98, 0.01), "val": Imitation(0.87, 0.89, 0.3)},
    },
    gap=0.08,
    gap_error=0.01,
    rising=0.001,
    num_val=1000,
    gradients={"control": {"ce": 1.0, "total": 1.0}, "distilled": {"ce": 0.2, "kd": 4.0, "total": 4.1}},
)


def names(m):
    return [f.name for f in diagnose(m)]


def student(arm, part, **changes):
    students = {a: dict(parts) for a, parts in HEALTHY.students.items()}
    students[arm][part] = replace(students[arm][part], **changes)
    return students


def pull(**terms):
    return {**HEALTHY.gradients, "distilled": {"ce": 0.2, "total": 1.0, **terms}}


def test_a_healthy_run_alarms_nobody():
    assert names(HEALTHY) == []
    assert names(replace(HEALTHY, outcome="worse")) == []
    assert not_looked_at(HEALTHY) == []


FLAWS = {
    "renamed": ("labels", {"teacher_train": replace(GOOD, right=0.05, renamed=0.9)}),
    "sure and wrong": ("labels", {"teacher_train": replace(GOOD, right=0.3, renamed=0.4)}),
    "wrong on training images": ("labels", {"teacher_train": replace(GOOD, right=0.8, confidence=0.8, renamed=0.8)}),
    "one epoch": ("steps", {"epochs": 1, "steps": 150, "students": student("control", "train", score=0.4)}),
    "still rising": ("steps", {"rising": 0.03}),
    "worse teacher": ("weak_teacher", {"gap": -0.05}),
    "equal teacher": ("weak_teacher", {"gap": 0.0, "gap_error": 0.0}),
    "gap within its error": ("weak_teacher", {"outcome": "worse", "gap": 0.03, "gap_error": 0.02}),
    "denoiser": ("denoiser", {"acceptance": {"passed": False, "reconstruction_r2": 0.41}}),
    "strong term": ("scale", {"gradients": pull(kd=400.0)}),
    "weak term": ("scale", {"gradients": pull(kd=0.002)}),
    "hot": ("temperature", {"temperature": 100.0, "teacher_train": replace(GOOD, entropy_at_temperature=2.3025)}),
    "cold": (
        "temperature",
        {"temperature": 1.0, "teacher_train": replace(GOOD, entropy=0.001, entropy_at_temperature=0.001)},
    ),
    "alpha 1": ("alpha", {"alpha": 1.0, "weights": {"ce": 1.0, "kd": 0.0}, "gradients": {}}),
    "alpha 0.97": ("alpha", {"alpha": 0.97, "weights": {"ce": 0.97, "kd": 0.03}}),
    "no labels": (
        "alpha",
        {"alpha": 0.0, "weights": {"ce": 0.0, "kd": 1.0}, "teacher_train": replace(GOOD, right=0.9, confidence=0.9)},
    ),
    "memorised": ("memorised", {"memorised": True}),
    "overconfident": (
        "memorised",
        {"teacher_train": replace(GOOD, confidence=0.99), "teacher_val": replace(GOOD, right=0.8)},
    ),
    "mixup": ("hesitant", {"teacher_train": replace(GOOD, confidence=0.7, entropy=1.2)}),
    "small student": ("capacity", {"students": student("distilled", "train", agreement=0.6)}),
    "copies by heart": ("carry_over", {"students": student("distilled", "val", agreement=0.6)}),
    "few seeds": ("seeds", {"detectable": 0.2}),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_cause_is_named_first_and_alone(flaw):
    name, changes = FLAWS[flaw]
    assert names(replace(HEALTHY, **changes)) == [name]


def test_every_cause_was_tried_and_says_what_was_seen():
    assert {name for name, _ in FLAWS.values()} == set(CAUSES)
    for name, changes in FLAWS.values():
        (finding,) = diagnose(replace(HEALTHY, **changes))
        assert any(c.isdigit() for c in finding.measured), f"{name}: no figure"
        assert finding.why.endswith(".")


def test_up_the_stream_comes_first_among_equals_and_likely_before_possible():
    everything = replace(
        HEALTHY,
        gap=-0.1,
        epochs=1,
        steps=50,
        gradients=pull(kd=400.0),
        students=student("control", "train", score=0.3),
        acceptance={"passed": False},
    )
    assert names(everything) == ["steps", "weak_teacher", "denoiser", "scale"]
    found = diagnose(replace(HEALTHY, rising=0.05, memorised=True))
    assert [(f.name, f.level) for f in found] == [("memorised", "likely"), ("steps", "possible")]


def test_a_few_images_are_no_proof():
    few = replace(GOOD, num_images=20, right=0.7, renamed=0.85, confidence=0.97)
    assert "labels" not in names(replace(HEALTHY, teacher_train=few, teacher_val=replace(few, right=0.85)))
    assert names(replace(HEALTHY, rising=0.05, num_val=20)) == []


def test_a_teacher_that_doubts_by_itself_is_no_fault_of_the_temperature():
    unsure = replace(GOOD, confidence=0.97, entropy=2.2, entropy_at_temperature=2.3)
    assert names(replace(HEALTHY, teacher_train=unsure)) == []


def test_a_denoiser_that_passed_or_left_no_record_is_not_spoken_of():
    for record in (None, {}, {"passed": True}, {"passed": None}, {"passed": "no"}):
        assert names(replace(HEALTHY, acceptance=record)) == []
    (finding,) = diagnose(replace(HEALTHY, acceptance={"passed": False, "detail": "cosine 0.86 -> 0.83"}))
    assert "cosine 0.86 -> 0.83" in finding.measured


def test_what_was_not_looked_at_is_said():
    several = replace(HEALTHY, multi_label=True, gradients={}, rising=None, weights={"bce": 0.1, "kd": 0.9})
    assert len(not_looked_at(several)) == 3
    (renaming,) = not_looked_at(replace(HEALTHY, teacher_train=replace(GOOD, renamed=None)))
    assert "too few images" in renaming
    assert several.most_entropy == pytest.approx(0.6931, abs=1e-4)


def test_measurements_are_json():
    again = json.loads(json.dumps(HEALTHY.as_dict(), allow_nan=False))
    assert again["pulls"] == {"ce": 0.2, "kd": 4.0, "total": 4.1}
    assert again["students"]["distilled"]["val"]["agreement"] == 0.89


def test_a_mean_average_precision_is_no_share_of_images():
    short = replace(HEALTHY, epochs=1, steps=150, students=student("control", "train", score=0.4))
    for measure, words in (("top1", "reaches only 40"), ("map", "reaches a mean average precision of only 40")):
        (finding,) = diagnose(replace(short, measure=measure))
        assert words in finding.measured


def test_a_teacher_that_was_trained_here_does_not_contradict_its_own_labels():
    """At chance and sure of itself: given, it may know other labels; trained here, it has hardly been trained."""
    lost = replace(GOOD, right=0.25, confidence=0.7, renamed=0.3)
    sure = replace(HEALTHY, gap=-0.3, teacher_train=lost, teacher_val=lost)
    assert names(sure)[0] == "labels"
    assert "labels" not in names(replace(sure, is_foreign=False))
    assert names(replace(sure, is_foreign=False))[0] == "weak_teacher"
    renamed = replace(sure, is_foreign=False, teacher_train=replace(sure.teacher_train, renamed=0.9))
    assert names(renamed)[0] == "labels"


def test_terms_that_teach_the_student_nothing_are_no_use_of_the_teacher():
    weights = {"ce": 1.0, "diffkd": 0.0, "diff": 1.0, "ae": 1.0}
    unused = replace(HEALTHY, weights=weights, alpha=None, own_terms=("diff", "ae"))
    assert [f.title for f in diagnose(unused) if f.name == "alpha"] == ["The teacher was not used"]
    assert "alpha" not in names(replace(unused, weights={**weights, "diffkd": 1.0}))


@pytest.mark.parametrize(
    ("detail", "title"),
    [
        ("The autoencoder of branch 'feat' explains nothing", "The autoencoder loses what the teacher says"),
        ("The denoiser of branch 'feat' does not denoise", "The denoiser does not denoise"),
        ("The autoencoder of branch 'feat' .. The denoiser of branch 'feat' ..", "The denoiser does not denoise"),
    ],
)
def test_the_part_that_failed_is_named(detail, title):
    failed = replace(HEALTHY, acceptance={"passed": False, "detail": detail})
    assert [f.title for f in diagnose(failed)] == [title]
