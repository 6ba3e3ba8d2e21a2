"""What a reader is told before the figures, whatever the verdict is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import sapling
from sapling.config import build
from sapling.errors import ConfigError
from sapling.evaluation import compare
from sapling.report.details import fairness
from sapling.report.folder import read_run
from sapling.report.summary import summarise
from sapling.tables import print_result
from sapling.workflows.cautions import never_recognised, short_training, unequal_tuning, uneven_groups
from tests.conftest import SMALL_RUN, write_images


@pytest.fixture(scope="module")
def tuned(photos, finished_run, tmp_path_factory):
    """One epoch, and a method that was tried eight times while its control was not."""
    return sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        teacher={"model": str(finished_run.folder / "teacher"), "accept_weak": True},
        train={**SMALL_RUN["train"], "epochs": 1, "num_seeds": 1, "lr": 0.001},
        evaluate={"tuning_trials": {"method": 8}},
        deploy={"onnx": False, "latency_seconds": 0},
        output=tmp_path_factory.mktemp("tuned") / "r",
    )


def test_a_short_training_is_said_whatever_the_verdict(tuned, capsys):
    fitted = tuned.results["diagnosis"]["measured"]["students"]["control"]["train"]["score"]
    text = next(w for w in tuned.results["warnings"] if w.startswith("Training was too short (1 epoch, 3 steps)"))
    assert f"only {100 * fitted:.1f} % on its own training images" in text
    page = (tuned.folder / "report.html").read_text(encoding="utf-8")
    assert text in page.replace("\u202f", " ")
    print_result(tuned)
    assert text in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("fitted", "epochs", "steps", "is_said"),
    [
        (0.5, 1, 5000, True),
        (0.5, 2, 5000, True),
        (0.5, 3, 5000, False),
        (0.5, 30, 299, True),
        (0.5, 30, 300, False),
        (0.94, 1, 3, True),
        (0.95, 1, 3, False),
    ],
)
def test_training_is_too_short_by_the_rule_of_the_diagnosis(fitted, epochs, steps, is_said):
    assert bool(short_training(fitted, epochs, steps)) == is_said


def test_of_several_labels_it_names_the_measure():
    (text,) = short_training(0.431, 1, 3, multi_label=True)
    assert "reaches a mean average precision of only 43.1 % on its own" in text


def test_declared_trials_reach_manifest_page_and_warnings(tuned, finished_run):
    assert tuned.results["manifest"]["tuning_trials"] == {"control": 0, "method": 8}
    (text,) = (w for w in tuned.results["warnings"] if w.startswith("Not the same tuning"))
    assert "0 for the control, 8 for the method" in text
    assert "the method had more chances" in text
    said = fairness(summarise(read_run(tuned.folder)))
    assert "Not the same tuning: control 0, distilled 8 trials." in said
    assert finished_run.results["manifest"]["tuning_trials"] == {"control": 0, "method": 0}
    said = fairness(summarise(read_run(finished_run.folder)))
    assert "No tuning trials were declared, for either." in said


def test_groups_of_unequal_sizes_are_said(finished_run, tmp_path):
    """Some trees have four views and some one: the verdict counts trees, a student's accuracy images."""
    photos = write_images(tmp_path / "photos", per_class=36)
    for file in photos.glob("*/*.png"):
        number = int(file.stem)
        tree = number // 4 if number < 24 else number
        file.rename(file.with_name(f"tree{tree}_view{number}.png"))
    run = sapling.distill(
        data={"source": str(photos), "img_size": 16, "group_pattern": "(.+)_view", "test_share": 0.3},
        student="cnn3",
        teacher={"model": str(finished_run.folder / "teacher"), "accept_weak": True},
        train={**SMALL_RUN["train"], "epochs": 1, "num_seeds": 1},
        deploy={"onnx": False, "latency_seconds": 0},
        output=tmp_path / "r",
    )
    verdict = run.results["comparison"]["verdict"]
    assert verdict["num_groups"] < verdict["num_images"]
    assert "groups counted alike" in verdict["statement"]
    (text,) = (w for w in run.results["warnings"] if "groups of unequal sizes" in w)
    levels = {m["arm"]: m["test"]["top1"] for m in run.results["members"]}
    assert f"({100 * verdict['difference']:+.1f} points)" in text
    assert f"differ by {100 * (levels['dist'] - levels['control']):+.1f} points" in text
    found = compare(np.ones((1, 4)), np.ones((1, 4)))
    assert uneven_groups(found, [], np.zeros(4, int), None) == []
    assert uneven_groups(found, [], np.zeros(4, int), ["a", "a", "b", "b"]) == []


def test_trials_are_declared_alike_or_warned_about():
    def warned(**trials):
        return unequal_tuning(build({"data": "x", "evaluate": {"tuning_trials": trials}}))

    assert warned() == warned(control=8, method=8) == []
    assert "the control had more chances" in warned(control=8)[0]
    usual = build({"data": "x"}).fingerprint()
    assert build({"data": "x", "evaluate": {"tuning_trials": {"control": 0}}}).fingerprint() == usual
    assert build({"data": "x", "evaluate": {"tuning_trials": {"control": 1}}}).fingerprint() != usual
    with pytest.raises(ConfigError, match=r"tuning_trials\.contrl: unknown setting; did you mean 'control'"):
        warned(contrl=3)
    with pytest.raises(ConfigError, match="must be at least 0"):
        warned(control=-3)


@pytest.mark.parametrize(
    ("recalls", "named"),
    [
        ([[0.5, 0.0, None], [0.4, 0.0, None]], "'b' (3 training and 2 test images)"),
        ([[0.5, 0.0, None], [0.4, 0.1, None]], None),
        ([[0.5, 0.2, 0.0], [0.4, 0.1, 0.3]], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_classes_that_no_student_recognises_are_named(recalls, named):
    counts = {"train": np.array([4, 3, 5]), "test": np.array([2, 2, 0])}
    data = SimpleNamespace(
        num_classes=3,
        classes=("a", "b", "c"),
        split=SimpleNamespace(part=lambda part: part),
        source=SimpleNamespace(count_labels=counts.get),
    )
    found = never_recognised([{"test": {"per_class_recall": recall}} for recall in recalls], data)
    assert found == ([f"No student recognises a single test image of {named}."] if named else [])
