"""The page, the terminal and compare say what ended a run, whoever wrote its stopped.json."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from sapling.cli import main
from sapling.errors import RunError, UsageError
from sapling.report import details, write_report
from sapling.report.folder import read_run
from sapling.report.summary import summarise
from sapling.report.unfinished import unfinished
from sapling.workflows.stored import read_stored
from tests.report.synthetic import make_run
from tests.report.test_page import one_line, read, results

DIVERGED = {
    "kind": "TrainingError",
    "what": "training diverged: term 'kd' became nan",
    "where": "phase students",
    "allowed": "",
    "remedy": "lower the weight",
    "at": "2026-01-01T00:00:00Z",
}
FULL = {"kind": "OSError", "what": "No space left on device", "remedy": ""}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "pale run", classes=3, seeds=2, epochs=2)
    (folder / "results.json").unlink()
    return folder


def stopped(run: Path, content: Any) -> Path:
    (run / "stopped.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return run


@pytest.mark.parametrize("kind", ["TrainingError", "GateError"])
def test_what_comes_back_is_not_resumed(run: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    stopped(run, DIVERGED | {"kind": kind})
    assert main(["report", str(run)]) == 1
    said, page = capsys.readouterr().err, one_line(read(run).text)
    command = f"sapling distill --config '{run}/config.yaml' --output '{run}-changed' CHANGE"
    for text in (one_line(said), page):
        assert "This run stopped: training diverged: term 'kd' became nan. Where: phase students." in text
        assert "Try: lower the weight. Going on with the same settings ends there again." in text
        assert command in text
        assert "--resume" not in text
    assert "This run stopped before it had results." in page
    assert main(["compare", str(run), str(make_run(run.parent / "b", classes=3, seeds=2, epochs=2))]) == 2
    said = one_line(capsys.readouterr().err)
    assert "it stopped: training diverged: term 'kd' became nan" in said
    assert f"lower the weight; with the change in place of CHANGE: {command}" in said
    assert "--resume" not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (FULL, "This run stopped: No space left on device. When that is mended, go on with it:"),
        ({"kind": "interrupted", "what": "interrupted"}, "This run was interrupted: it has no results yet"),
        ({}, "This run is not finished: it has no results yet"),
    ],
)
def test_what_can_be_mended_goes_on(run: Path, content: dict[str, Any], said: str) -> None:
    state = unfinished(read_run(stopped(run, content)))
    assert state is not None
    assert said in str(state)
    assert state.command == f"sapling distill --resume {shlex.quote(str(run))}"
    with pytest.raises(UsageError, match="not finished") as caught:
        read_stored(run)
    assert str(caught.value.remedy).endswith(state.command)
    write_report(run)
    page = (run / "report.html").read_text()
    assert f'<pre tabindex="0">sapling distill --resume &#39;{run}&#39;</pre>' in page, "in a block of its own"


def test_a_finished_run_is_not_asked(tmp_path: Path) -> None:
    run = stopped(make_run(tmp_path / "run", classes=3, seeds=2, epochs=2), "{")
    assert unfinished(read_run(run)) is None


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "TrainingError"},
        {"kind": ["TrainingError"], "what": "x"},
        {"kind": "TrainingError", "what": {"a": 1}},
        {"kind": "TrainingError", "what": "\n\t "},
        [1, 2],
    ],
)
def test_what_is_no_text_says_nothing(run: Path, content: Any) -> None:
    assert "This run is not finished" in str(unfinished(read_run(stopped(run, content))))


def test_hostile_text_stays_text_and_short(run: Path) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m\u202e"
    stopped(run, DIVERGED | {"what": hostile + "x" * 100_000, "remedy": hostile, "where": 7})
    state = unfinished(read_run(run))
    assert state is not None
    assert len(str(state)) < 2000
    assert not {"\x1b", "\u202e"} & set(str(state))
    write_report(run)
    assert "<script" not in (run / "report.html").read_text()
    with pytest.raises(UsageError) as caught:
        read_stored(run)
    assert not {"\x1b", "\u202e"} & set(str(caught.value))


@pytest.mark.parametrize("fault", ["large", "link", "broken", "deep"])
def test_a_file_that_no_run_writes_is_named(run: Path, fault: str) -> None:
    text = {"large": "{}" + " " * 2**20, "broken": "{", "deep": "[" * 100_000}
    if fault == "link":
        (run / "stopped.json").symlink_to("data.json")
    else:
        stopped(run, text[fault])
    for reads in (write_report, read_stored):
        with pytest.raises(RunError, match=r"stopped\.json"):
            reads(run)


def test_epochs_that_were_trained_are_never_denied(run: Path) -> None:
    row = {"pass": "phase-denoiser", "member": "diffkd", "epoch": 0, "epochs": 4}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    write_report(run)
    assert "Last entry: diffkd, epoch 1 of 4." in one_line(read(run).text)
    (run / "metrics.jsonl").unlink()
    write_report(stopped(run, DIVERGED))
    page = one_line(read(run).text)
    assert "The learning curves hold no epoch." in page
    assert "othing was trained" not in page


@pytest.mark.parametrize(
    ("command", "is_shown"),
    [
        ("sapling distill x", True),
        ("mine.py", False),
        ("", False),
        (None, False),
        ("sapling distill --resume x", False),
    ],
)
def test_only_a_command_of_sapling_is_shown(tmp_path: Path, command: str | None, is_shown: bool) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=2)
    (run / "results.json").write_text(json.dumps(results(run) | {"command": command}))
    entries = details.commands(summarise(read_run(run)))
    assert [e["command"] for e in entries if e["what"] == "The command that made this run"] == [command] * is_shown
