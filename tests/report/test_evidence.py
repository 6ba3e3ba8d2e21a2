"""Calibration, gains of classes, pictures and costs on the page; and runs that have none of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sapling.report import write_report
from sapling.report.class_intervals import class_interval_figure
from sapling.report.efficiency import efficiency_section
from sapling.report.folder import read_run
from sapling.report.gallery import MOST, gallery_section
from sapling.report.phases import phase_section
from sapling.report.reliability import pooled_bins
from sapling.report.summary import summarise
from tests.report.evidence import add_evidence, picture
from tests.report.synthetic import make_run
from tests.report.test_page import Reader, one_line, read, results

NEW = ("before", "calibration", "pictures", "efficiency")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("full") / "run", classes=12, hostile=True, epochs=3)
    add_evidence(run)
    write_report(run)
    return run


def sections(page: Reader) -> list[str | None]:
    return [a.get("id") for t, a in page.tags if t == "section"]


def test_the_new_sections_are_there_and_linked(full: Path) -> None:
    page = read(full)
    assert set(NEW) <= set(sections(page))
    links = [a.get("href") for t, a in page.tags if t == "a"]
    assert {f"#{name}" for name in NEW} <= set(links)
    labels = [a["aria-label"] for t, a in page.tags if t == "svg" and a.get("class") == "drawing"]
    assert sum(label.startswith("Reliability of ") for label in labels) == 3
    assert sum(label.startswith("Confusion matrix") for label in labels) == 3


def test_the_check_of_a_first_phase_is_drawn(full: Path) -> None:
    page = read(full)
    (label,) = [
        a["aria-label"] for t, a in page.tags if t == "svg" and (a.get("aria-label") or "").startswith("Check of")
    ]
    assert "noise loss 0.97 at timesteps 0-100; 0.81 at timesteps 100-200" in (label or "")
    assert "cosine to the clean feature 0.78 before and 0.86 after the steps" in (label or "")
    assert (full / "figures" / "phase_denoiser_feat.svg").exists()
    text = one_line(page.text)
    assert "It passed: the frozen parts" in text
    assert "72 epochs on the teacher alone" in text
    assert re.search(r"explains 95.3\s?% of the teacher", text)


def test_a_phase_that_failed_its_check_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=2)
    results = add_evidence(run)
    check = results["phases"]["denoiser"]["check"]
    check["problems"] = ["The denoiser does <b>not</b> denoise."]
    results["phases"] |= {"odd": {"check": {"branches": {"feat": [1], "logit": {"noise_loss": {"0-1": "x"}}}}}, "n": 3}
    (run / "results.json").write_text(json.dumps(results))
    section = phase_section(summarise(read_run(run)))
    assert section
    assert (section["passed"], len(section["figures"])) == (False, 1)
    write_report(run)
    page = read(run)
    assert "The denoiser does <b>not</b> denoise." in page.text
    assert "It passed: the frozen" not in page.text


def test_pictures_are_inside_the_page_and_names_are_text(full: Path) -> None:
    page = read(full)
    images = [a for t, a in page.tags if t == "img"]
    assert len(images) == 4 * 3
    assert all((a["src"] or "").startswith("data:image/jpeg;base64,") and a["alt"] for a in images)
    assert not any(t in ("script", "b", "iframe") for t, _ in page.tags)
    assert not any(k.startswith("on") for _, a in page.tags for k in a)
    assert "gained 0.png" in page.text
    assert "right in 1\u00a0of\u00a03" in page.text


def test_pictures_that_are_none_or_too_many_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=2)
    add_evidence(run, pictures=MOST + 6)
    path = run / "gallery.json"
    content = json.loads(path.read_text())
    keys = [e["image"] for e in content["kinds"]["gained"]]
    evil = [
        "javascript:alert(1)",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "https://example.org/a.jpg",
        'data:image/jpeg;base64,AAAA" onerror="alert(1)',
        "data:image/jpeg;base64," + "A" * 100_000,
        7,
    ]
    content["pictures"] |= dict(zip(keys, evil, strict=False))
    content["kinds"]["lost"] = ["no entry", {"image": "not there"}, {}]
    path.write_text(json.dumps(content))
    section = gallery_section(summarise(read_run(run)))
    assert section
    assert [g["kind"] for g in section["groups"]] == ["gained", "mistakes", "disagreements"]
    assert [len(g["shots"]) for g in section["groups"]] == [MOST - len(evil), MOST, MOST]
    path.write_text(json.dumps({"kinds": 3, "pictures": [picture(0)]}))
    assert gallery_section(summarise(read_run(run))) is None


def test_older_runs_have_a_page_without_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=2)
    write_report(run)
    page = read(run)
    assert not set(NEW) & set(sections(page))
    assert "Every measure with its interval" not in page.text


@pytest.mark.parametrize("part", ["efficiency", "comparison", "teacher"])
def test_damaged_parts_leave_a_page(tmp_path: Path, part: str) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=2)
    content = add_evidence(run)
    broken = {
        "efficiency": {"networks": [{"role": None, "latency_ms": 3, "bytes": "x"}, 5], "threads": "many"},
        "comparison": {**content["comparison"], "classes": [{"difference": None}, 4, {"low": 1}], "levels": [1]},
        "teacher": {**content["teacher"], "test": {"calibration": {"count": [1, 2], "confidence": [0.5]}}},
    }
    (run / "results.json").write_text(json.dumps({**content, part: broken[part]}))
    write_report(run)
    read(run)


def test_plain_training_shows_its_one_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=1, epochs=2, task="train")
    add_evidence(run, onnx=False)
    write_report(run)
    page = read(run)
    assert set(NEW) <= set(sections(page))
    text = one_line(page.text)
    assert "Its surest mistakes" in text
    assert "Gained" not in text
    assert "Distilled:" not in text


def test_bins_of_all_seeds_are_added_up(full: Path) -> None:
    summary = summarise(read_run(full))
    assert summary.control
    found = pooled_bins(summary.control)
    members = [m["test"]["calibration"] for m in results(full)["members"] if m["arm"] == "control"]
    assert found
    for b in range(15):
        counts = [m["count"][b] for m in members]
        assert found.count[b] == sum(counts)
        if sum(counts):
            right = sum(m["count"][b] * m["accuracy"][b] for m in members) / sum(counts)
            assert found.accuracy[b] == pytest.approx(right)
    excess = sum(
        n * (c - r) for m in members for n, c, r in zip(m["count"], m["confidence"], m["accuracy"], strict=True) if n
    )
    assert found.excess == pytest.approx(excess / found.count.sum())
    assert "surer of itself than it should be" in one_line(read(full).text)


@pytest.mark.parametrize("size", [2, 30, 200])
def test_gains_are_drawn_for_few_and_for_many_classes(size: int) -> None:
    gains = np.linspace(0.2, -0.2, size)[::-1]
    table = np.stack([gains, gains - 0.05, gains + 0.05], 1)
    table[0] = np.nan
    drawing = class_interval_figure(table, [f"class {k}" for k in range(size)])
    dots = re.findall(r"<use [^>]*fill: var\(--(\w+)\)", drawing.inline)
    clear = [int((table[:, 1] > 0).sum()), int((table[:, 2] < 0).sum())]
    assert [dots.count("method"), dots.count("control")] == clear
    assert len(dots) == size - 1
    assert f"class {size - 1} +20.0 (+15.0 to +25.0)" in drawing.description
    assert len(drawing.inline) < 120_000


def test_costs_and_levels_stand_in_their_columns(full: Path) -> None:
    rows = {r[0].split("numbers")[0].split("half")[0].split("weights")[0]: r for r in read(full).rows if r}
    assert rows["Time for one image"][1:] == ["3.21\u00a0ms95\u202f%: 4\u00a0ms"] * 3
    assert rows["Peak memory, 1 image"][1:] == ["45\u00a0MB", "45\u00a0MB", "–"]
    levels = [r for r in read(full).rows if r and r[0] == "Top-1 accuracy"]
    assert levels[0][1:] == ["87.1\u202f%85.2 to 88.9\u202f%"] * 3
    assert "with 2 threads" in one_line(read(full).text)


def test_the_cost_of_the_control_is_said_and_not_only_taken_for_granted(tmp_path):
    """One network is measured once for control and student; where they are not one, the page does not say so."""
    run = make_run(tmp_path / "run", classes=3, epochs=2)
    add_evidence(run)
    section = efficiency_section(summarise(read_run(run)))
    assert section is not None
    assert section["columns"][:2] == ["Teacher", "Control and student"]
    assert "the same network, measured once" in section["note"]
    results = json.loads((run / "results.json").read_text())
    next(m for m in results["members"] if m["arm"] != "control")["parameters"] += 1
    (run / "results.json").write_text(json.dumps(results))
    section = efficiency_section(summarise(read_run(run)))
    assert section is not None
    assert section["columns"][:2] == ["Teacher", "Distilled, shipped"]
    assert section["note"].endswith("not of one size here; only the shipped one was measured.")
    networks = results["efficiency"]["networks"]
    results["efficiency"]["networks"] = [networks[0], {**networks[1], "role": "control"}, *networks[1:]]
    (run / "results.json").write_text(json.dumps(results))
    section = efficiency_section(summarise(read_run(run)))
    assert section is not None
    assert section["columns"] == ["Teacher", "Control", "Distilled, shipped", "Student, ONNX"]
    assert section["note"].endswith("not of one size here: each was measured.")
