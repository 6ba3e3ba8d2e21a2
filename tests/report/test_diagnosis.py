"""The section that says why not better: there where it is needed, harmless whatever a run folder holds."""

import json

import pytest

from sapling.evaluation.diagnosis import diagnose
from sapling.report import write_report
from sapling.report.diagnosis import terminal_lines
from tests.evaluation.test_diagnosis import FLAWS, HEALTHY
from tests.report.synthetic import make_run

COMMAND = "sapling distill 'my  photos' --teacher runs/x/teacher --student cnn3 --method kd --epochs 30"
HOSTILE = {"level": "<i>", "title": "<script>alert(1)</script>", "command": "sapling distill '<b>\u202e  x'"}


def explained(folder, *flaws, outcome="worse"):
    """A run folder whose diagnosis names the causes of some flaws."""
    run = make_run(folder, outcome=outcome)
    results = json.loads((run / "results.json").read_text())
    changes = {k: v for flaw in flaws for k, v in FLAWS[flaw][1].items()}
    measured = type(HEALTHY)(**{**{k: getattr(HEALTHY, k) for k in HEALTHY.__dataclass_fields__}, **changes})
    found = [
        {k: getattr(f, k) for k in ("name", "level", "title", "measured", "why")}
        | {"remedy": "Train the students for 30 epochs.", "changes": {}, "command": COMMAND}
        for f in diagnose(measured)
    ]
    results["diagnosis"] = {"measured": measured.as_dict(), "not_looked_at": ["one thing"], "findings": found}
    if not found:
        results["diagnosis"]["next"] = {"remedy": "Repeat it with 10 seeds.", "changes": {}, "command": COMMAND}
    (run / "results.json").write_text(json.dumps(results))
    return run, results


def test_causes_measurements_and_commands_stand_on_the_page(tmp_path):
    run, results = explained(tmp_path / "r", "worse teacher", "strong term")
    page = write_report(run).read_text()
    for text in (
        'href="#diagnosis"',
        "Why not better?",
        "The teacher is no better than the control",
        "The term kd is too strong",
        "sapling distill &#39;my  photos&#39; --teacher",
        "Pull of each weighted term",
        "control 96.0\u202f%, distilled 98.0\u202f%",
        "Not looked at: one thing.",
    ):
        assert text in page, text
    assert page.index("no better than the control</h3>") < page.index("The term kd is too strong")
    lines = terminal_lines(results)
    assert [label for label, _ in lines] == ["why", "also", "next", ""]
    assert lines[0][1].startswith("The teacher is no better than the control. On validation images")
    assert lines[1][1] == "The term kd is too strong"
    assert lines[3][1] == COMMAND


def test_where_nothing_is_wrong_the_page_says_that(tmp_path):
    run, results = explained(tmp_path / "r")
    page = write_report(run).read_text()
    assert "Nothing wrong was found" in page
    assert "Repeat it with 10 seeds." in page
    assert [text for _, text in terminal_lines(results)][1:] == ["Repeat it with 10 seeds.", COMMAND]


def test_a_better_student_needs_no_explanation(tmp_path):
    run, results = explained(tmp_path / "r", "worse teacher", outcome="better")
    assert "Why not better" not in write_report(run).read_text()
    assert terminal_lines(results) == []


@pytest.mark.parametrize(
    ("diagnosis", "shown"),
    [
        (None, False),
        ({}, False),
        ({"findings": "none", "measured": 3}, False),
        ({"findings": [HOSTILE, 7], "measured": {"gap": "wide", "pulls": {"<b>": 1.0}}}, True),
    ],
)
def test_older_and_odd_runs_do_not_break_the_page(tmp_path, diagnosis, shown):
    run, results = explained(tmp_path / "r", "worse teacher")
    results["diagnosis"] = diagnosis
    if diagnosis is None:
        del results["diagnosis"]
    (run / "results.json").write_text(json.dumps(results))
    page = write_report(run).read_text()
    assert ("Why not better?" in page) is shown
    assert "<script>" not in page
    if shown:
        assert "sapling distill &#39;&lt;b&gt;  x&#39;" in page, "a command is copied: its spaces stay"
    assert bool(terminal_lines(results)) is shown
