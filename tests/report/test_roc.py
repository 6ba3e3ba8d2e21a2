"""The ROC curve on the page: drawn from the curves of the members, for two classes and for several labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sapling.report import write_report
from sapling.report.folder import read_run
from sapling.report.roc import roc_curves, roc_section
from sapling.report.summary import summarise
from tests.report.synthetic import make_run
from tests.report.test_page import one_line, read

PLACES = np.linspace(0, 1, 101)


def with_curves(folder: Path, *, classes: int = 2, seeds: int = 2, **changes: object) -> Path:
    """A run whose arms find different shares; seeds differ by 0.02."""
    run = make_run(folder, classes=classes, seeds=seeds, epochs=2)
    path = run / "results.json"
    content = {**json.loads(path.read_text()), **changes}
    for member in (content["teacher"], *content["members"]):
        power = {"control": 0.3, "kd": 0.2}.get(member.get("arm"), 0.1) + 0.02 * member.get("seed", 0)
        member["test"] = {**member["test"], "roc": (PLACES**power).round(4).tolist(), "auc": 1 / (1 + power)}
    path.write_text(json.dumps(content))
    return run


def test_two_classes_have_a_curve_for_each_arm_with_its_area(tmp_path: Path) -> None:
    run = with_curves(tmp_path / "run")
    write_report(run)
    page = read(run)
    (label,) = [
        a["aria-label"] or "" for t, a in page.tags if t == "svg" and (a.get("aria-label") or "").startswith("ROC")
    ]
    for name, powers in (("Teacher", (0.1,)), ("Control", (0.3, 0.32)), ("Distilled", (0.2, 0.22))):
        area = np.mean([1 / (1 + p) for p in powers])
        found = 100 * np.mean([0.1**p for p in powers])
        assert f"{name}, area {area:.3f}, {found:.1f} per cent found at 10 per cent false alarms" in label
    text = one_line(page.text)
    assert "Found is “damaged”; a false alarm is another image that is taken for it." in text
    assert (run / "figures" / "roc.svg").exists()
    assert "roc" in [a.get("id") for t, a in page.tags if t == "section"]
    section = roc_section(summarise(read_run(run)))
    assert section
    dashed = section["drawing"].inline.count("stroke-dasharray")
    assert dashed == 4, "teacher and control, at the curve and in the legend: not told apart by colour alone"


def test_more_than_two_classes_have_none_unless_an_image_may_have_several(tmp_path: Path) -> None:
    assert roc_section(summarise(read_run(with_curves(tmp_path / "three", classes=3)))) is None
    section = roc_section(summarise(read_run(with_curves(tmp_path / "several", classes=3, multi_label=True))))
    assert section
    assert section["note"].startswith("The mean over the labels")


@pytest.mark.parametrize("curve", [None, [], [0.5], [0.1, None, 1.0], [0.0, 2.0], "steep", 3])
def test_a_damaged_curve_is_left_out(tmp_path: Path, curve: object) -> None:
    run = with_curves(tmp_path / "run")
    path = run / "results.json"
    content = json.loads(path.read_text())
    content["members"][0]["test"]["roc"] = curve
    path.write_text(json.dumps(content))
    summary = summarise(read_run(run))
    assert summary.control
    assert roc_curves(summary.control).shape == (1, 101)
    assert roc_section(summary)
    for member in (content["teacher"], *content["members"]):
        member["test"]["roc"] = curve
    path.write_text(json.dumps(content))
    assert roc_section(summarise(read_run(run))) is None
