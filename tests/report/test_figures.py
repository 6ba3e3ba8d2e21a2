"""Figures say what the figures are, in any script, and follow the page's colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from sapling.report import class_figures, figures
from sapling.report.folder import read_run
from sapling.report.summary import class_table, confusion_changes, summarise
from sapling.report.svg import COLOURS, WIDTH, Drawing
from tests.report.conftest import Runs
from tests.report.synthetic import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def words(drawing: Drawing) -> list[str]:
    return [t.text or "" for t in ElementTree.fromstring(drawing.file).iter(f"{SVG}text")]


def fills(drawing: Drawing) -> list[tuple[str, float]]:
    """Colour and strength of every cell of a confusion matrix."""
    pairs = re.findall(r'style="fill: var\(--(\w+)\)(?:; opacity: ([\d.]+))?"', drawing.inline)
    return [(name, float(opacity or 1)) for name, opacity in pairs]


def test_gain_has_a_dot_for_each_seed_and_the_interval() -> None:
    verdict = {"difference": 0.02, "low": 0.01, "high": 0.03, "seed_differences": [0.015, 0.02, 0.025]}
    drawing = figures.gain_figure(verdict, [7, 8, 9])
    assert drawing
    assert {"seed 7", "seed 8", "seed 9", "mean"} <= set(words(drawing))
    assert "+2.0 points, interval +1.0 to +3.0" in drawing.description
    # the first seed stands at the top, so its dot has the smallest y
    dots = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*fill: var\(--method\)', drawing.inline)
    by_height = sorted((float(y), float(x)) for x, y in dots)
    assert [x for _, x in by_height] == sorted(x for _, x in by_height)


def test_gain_without_an_interval_is_no_figure() -> None:
    assert figures.gain_figure({}, []) is None
    assert figures.gain_figure({"difference": 0.1, "low": None, "high": 0.2}, [0]) is None


def test_every_file_is_well_formed_and_names_no_place_outside(runs: Runs) -> None:
    for run in runs.values():
        for path in (run / "figures").iterdir():
            root = ElementTree.parse(path).getroot()
            assert root.find(f"{SVG}title") is not None
            assert not [e for e in root.iter() if e.tag in (f"{SVG}script", f"{SVG}foreignObject")]
            links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
            assert all(v.startswith(("#", "data:image/png")) for v in links)


def test_names_stay_text_in_any_script(runs: Runs) -> None:
    summary = summarise(read_run(runs["hostile"]))
    shares = np.eye(len(summary.classes))
    drawing = class_figures.confusion_figure(shares, summary.classes, name="c", title="t")
    assert words(drawing).count("黄山栾树") == 2  # at its row and at its column
    assert sum("\\frac{a}" in w for w in words(drawing)) == 2
    assert HOSTILE[0][:8] in "".join(words(drawing))
    assert "<script" not in drawing.inline
    assert "<b>" not in drawing.inline


def test_the_page_gets_variables_and_the_file_gets_colours(runs: Runs) -> None:
    table = class_table(summarise(read_run(runs["better"])))
    assert table
    drawing = class_figures.class_gain_figure(table)
    assert drawing
    assert "var(--method)" in drawing.inline
    assert not [c for c in COLOURS.values() if c in drawing.inline]
    assert COLOURS["method"] in drawing.file
    assert "var(" not in drawing.file
    assert f'viewBox="0 0 {WIDTH} ' in drawing.inline


def test_blue_is_better_on_and_beside_the_diagonal() -> None:
    control = np.array([[0.9, 0.1], [0.2, 0.8]])
    method = np.array([[0.95, 0.05], [0.3, 0.7]])
    drawing, largest = class_figures.difference_figure(control, method, ["a", "b"])
    assert largest == pytest.approx(10)
    assert [name for name, _ in fills(drawing)] == ["method", "method", "control", "control"]
    assert [round(v, 3) for _, v in fills(drawing)] == pytest.approx([0.707, 0.707, 1, 1], abs=0.01)
    assert words(drawing)[-6:-2] == ["+5.0", "\u22125.0", "+10.0", "\u221210.0"]


def test_equal_arms_have_no_tint_and_no_change() -> None:
    same = np.eye(3)
    drawing, largest = class_figures.difference_figure(same, same, ["a", "b", "c"])
    assert largest == 0
    assert fills(drawing) == []
    assert confusion_changes(same, same, ["a", "b", "c"]) == []


def test_changes_are_sorted_and_signed() -> None:
    control = np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.3, 0.0, 0.7]])
    method = np.array([[0.95, 0.05, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]])
    rows = confusion_changes(control, method, ["a", "b", "c"])
    assert [(r["true"], r["answer"], r["gain"]) for r in rows] == [("c", "a", "\u221220.0"), ("a", "b", "\u22125.0")]


@pytest.mark.parametrize("size", [2, 3, 12, 13, 24, 25, 30, 31, 100, 1000])
def test_confusion_of_any_size(size: int) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(size), size)
    shares[0] = np.nan
    drawing = class_figures.confusion_figure(shares, [f"c{k}" for k in range(size)], name="c", title="t")
    ElementTree.fromstring(drawing.file)
    assert len(drawing.inline) < (200_000 if size < 200 else 4_000_000)
    assert ("<image" in drawing.inline) == (size > class_figures.MAX_CELLS)


def test_a_class_without_test_images_has_no_gain(runs: Runs) -> None:
    record = read_run(runs["better"])
    for member in record.results["members"]:
        member["test"]["per_class_recall"][4] = None
    table = class_table(summarise(record))
    assert table
    assert 4 not in table.order
    assert len(table.order) == 9
    assert class_figures.class_gain_figure(table)


def test_gains_pair_the_seeds(runs: Runs) -> None:
    record = read_run(runs["better"])
    first = class_table(summarise(record))
    record.results["members"].reverse()
    second = class_table(summarise(record))
    assert first
    assert second
    np.testing.assert_allclose(first.gain_low, second.gain_low)
    # a seed that only one arm has says nothing of the gain
    record.results["members"] = [m for m in record.results["members"] if m["name"] != "control-s1"]
    third = class_table(summarise(record))
    by_name = {m["name"]: np.array(m["test"]["per_class_recall"]) for m in record.results["members"]}
    expected = (by_name["kd-s0"] + by_name["kd-s2"] - by_name["control-s0"] - by_name["control-s2"]) / 2
    assert third
    np.testing.assert_allclose(third.gain, expected)


def test_curves_have_a_panel_for_each_term_and_skip_the_teacher(runs: Runs) -> None:
    record = read_run(runs["better"])
    record.history.append({"pass": "teacher", "member": "teacher", "epoch": 0, "train": {"ce": 9.0, "odd": 1.0}})
    titles = [title for title, *_ in figures.curve_figures(summarise(record))]
    assert titles == [
        "Accuracy on validation images, per cent",
        "NLL on validation images",
        "Training term “ce”, from the labels",
        "Training term “kd”, from the teacher",
    ]


def test_long_runs_are_thinned(runs: Runs) -> None:
    record = read_run(runs["better"])
    record.history = [
        {"pass": "seed0", "member": "kd-s0", "epoch": e, "train": {"ce": 1 / (e + 1)}, "val": {}} for e in range(20_000)
    ]
    (_, drawing, _), *_ = figures.curve_figures(summarise(record))
    assert len(drawing.inline) < 30_000


def test_curves_survive_one_epoch_and_equal_values(runs: Runs) -> None:
    record = read_run(runs["better"])
    record.history = [{"pass": "s", "member": "kd-s0", "epoch": 0, "train": {"ce": 0.0}, "val": {"top1": 1.0}}]
    assert len(figures.curve_figures(summarise(record))) == 2


def test_the_pull_of_each_weighted_term_is_drawn_as_it_was_measured(runs: Runs) -> None:
    """Means over seeds, on one scale of tenfolds, for control and student; what is no term is left out."""
    record = read_run(runs["better"])
    drawing = figures.pull_figure(summarise(record))
    assert drawing is not None
    last = max(e["epoch"] for e in record.history)
    shown = dict(re.findall(r"(ce alone|ce|kd) (\d+\.\d+)", drawing.inline))
    for name, arm, term in (("ce", "kd", "ce"), ("kd", "kd", "kd"), ("ce alone", "control", "ce")):
        of = [e["gradients"][term] for e in record.history if e["epoch"] == last and e["member"].startswith(f"{arm}-")]
        assert float(shown[name]) == pytest.approx(np.mean(of), rel=5e-3)
    assert {"ce", "kd", "ce alone"} <= set(words(drawing))
    assert not {"total", "steps"} & set(words(drawing))
    assert "How strongly each term pulls" in (runs["better"] / "report.html").read_text(encoding="utf-8")
    record.history = [{k: v for k, v in e.items() if k != "gradients"} for e in record.history]
    assert figures.pull_figure(summarise(record)) is None  # a run of an older version


def test_pulls_survive_zeros_and_many_terms(runs: Runs) -> None:
    record = read_run(runs["better"])
    norms = {f"term {k}": 10.0 ** (k - 4) for k in range(9)} | {"none": 0.0, "total": 1.0, "steps": 1, "nan": None}
    record.history = [{"pass": "s", "member": "kd-s0", "epoch": 0, "train": {}, "gradients": norms}]
    drawing = figures.pull_figure(summarise(record))
    assert drawing is not None
    assert {f"term {k}" for k in range(9)} <= set(words(drawing))
    assert "none" not in words(drawing)
    record.history[0]["gradients"] = {"ce": 0.0, "steps": 1}
    assert figures.pull_figure(summarise(record)) is None


def test_an_unpaired_seed_has_no_gain(runs: Runs) -> None:
    record = read_run(runs["better"])
    first = class_table(summarise(record))
    extra = {**record.results["members"][0], "seed": 99}
    assert extra["arm"] == "control"
    record.results["members"].append(extra)
    second = class_table(summarise(record))
    assert first
    assert second
    np.testing.assert_allclose(first.gain, second.gain)


def test_rows_of_a_confusion_matrix_are_true_classes(runs: Runs) -> None:
    summary = summarise(read_run(runs["better"]))
    assert summary.control
    shares = summary.control.confusion(10)
    assert shares is not None
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    counts = sum(np.array(m["test"]["confusion"]) for m in summary.control.members)
    assert shares[2, 5] == pytest.approx(counts[2, 5] / counts[2].sum())


def test_a_spike_leaves_the_chart_and_the_caption_says_so(runs: Runs) -> None:
    """One wild epoch must not flatten the end of the curves; where it leaves is marked, and how far it went said."""
    record = read_run(runs["better"])
    record.results.pop("teacher")
    calm = [1.0, 0.8, 0.6, 0.5, 0.4, 0.35, 0.32, 0.3]
    record.history = [
        {"pass": f"s{s}", "member": f"kd-s{s}", "epoch": e, "train": {"ce": v}, "val": {"nll": v, "top1": 1 - v / 2}}
        for s in range(2) for e, v in enumerate(calm)
    ]  # fmt: skip

    def ticks(drawing: Drawing) -> list[float]:
        return [float(w) for w in words(drawing) if re.fullmatch(r"\d+\.\d+", w)]

    def curve(title: str) -> tuple[Drawing, str]:
        return next((d, note) for t, d, note in figures.curve_figures(summarise(record)) if t.startswith(title))

    assert curve("NLL")[1] == ""
    record.history[1]["val"] = {"nll": 15.1, "top1": 0.5}
    drawing, note = curve("NLL")
    assert note == "▲ leaves the chart, in epoch 2, as far as 15.1: so that the end of the curves can be read."
    assert note in drawing.description
    assert max(ticks(drawing)) < 1.5
    assert curve("Accuracy")[1] == ""
    record.history[1]["val"] = {"nll": 0.8, "top1": -9.0}
    assert curve("Accuracy")[1].startswith("▼ leaves the chart, in epoch 2, as far as \u2212900:")
    assert curve("NLL")[1] == ""
