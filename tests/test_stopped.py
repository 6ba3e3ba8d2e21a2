"""What ended a run stays with it: in log.txt and stopped.json, and with the command only where one was typed."""

import errno
import json
import subprocess
import sys

import pytest

from sapling import record
from sapling.command import command_line, typed
from sapling.config import build
from sapling.errors import DataError, GateError, RunError, TrainingError, UsageError
from sapling.record import Run

CONFIG = build({"data": "x"})
OTHER = build({"data": "x", "train": {"epochs": 3}})
DIVERGED = TrainingError("training diverged: term 'kd' became nan", where="phase students", remedy="lower\nthe weight")


def stop(folder, error, *, config=CONFIG, trained=True):
    """A run that ends by an error; gives what it kept."""
    with pytest.raises(type(error)) as caught, Run(folder, config, task="distill") as run:
        run.note("begun")
        if trained:
            run.add_metrics([{"pass": "seed0", "member": "kd-s0", "epoch": 0}])
        raise error
    assert caught.value is error
    path = folder / "stopped.json"
    return json.loads(path.read_text()) if path.is_file() else None


def test_the_error_is_kept_in_file_and_log(tmp_path):
    found = stop(tmp_path / "r", DIVERGED)
    assert found.pop("at").endswith("Z")
    assert found == {
        "kind": "TrainingError",
        "what": "training diverged: term 'kd' became nan",
        "where": "phase students",
        "allowed": "",
        "remedy": "lower\nthe weight",
    }
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "r/log.txt").read_text().splitlines()]
    assert lines == [
        "begun",
        "stopped: training diverged: term 'kd' became nan",
        "stopped: where: phase students",
        "stopped: try: lower the weight",
    ]


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted"),
        (SystemExit(143), "interrupted", "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "OSError", "No space left on device"),
        (GateError("weak"), "GateError", "weak"),
        (DataError("leak"), "DataError", "leak"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (ValueError("z" * 10_000), "ValueError", "z" * 4000),
    ],
)
def test_every_end_has_a_kind(tmp_path, error, kind, what):
    found = stop(tmp_path / "r", error)
    assert (found["kind"], found["what"]) == (kind, what)
    assert found["where"] == ("/x/y" if kind == "OSError" else "")


def test_it_goes_when_the_run_goes_on(tmp_path):
    stop(tmp_path / "r", DIVERGED)
    with Run(tmp_path / "r", CONFIG, task="distill") as run:
        assert not run.path("stopped.json").exists()
        run.finish({})
    assert not (tmp_path / "r/stopped.json").exists()


def test_a_finished_run_did_not_stop(tmp_path):
    with pytest.raises(RunError), Run(tmp_path / "r", CONFIG, task="distill") as run:
        run.finish({})
        raise RunError("no page")
    assert not (tmp_path / "r/stopped.json").exists()
    assert "stopped: no page" in (tmp_path / "r/log.txt").read_text()


def test_who_has_no_right_to_the_folder_changes_nothing(tmp_path):
    """Other settings, or another process: the error is not the run's."""
    before = stop(tmp_path / "r", DIVERGED)
    with pytest.raises(UsageError, match="other settings"), Run(tmp_path / "r", OTHER, task="distill"):
        pass
    assert json.loads((tmp_path / "r/stopped.json").read_text()) == before
    with Run(tmp_path / "r", CONFIG, task="distill"):
        with pytest.raises(RunError, match="another process"), Run(tmp_path / "r", CONFIG, task="distill"):
            pass
        assert not (tmp_path / "r/stopped.json").exists()


def test_a_folder_where_nothing_was_trained_still_belongs_to_nobody(tmp_path):
    assert stop(tmp_path / "r", UsageError("no such image"), trained=False) is None
    assert not (tmp_path / "r").exists(), "a wrong call leaves nothing behind"
    assert stop(tmp_path / "r", GateError("weak"), trained=False)["kind"] == "GateError"
    with Run(tmp_path / "r", OTHER, task="distill") as run:
        assert not run.path("stopped.json").exists()


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyError("x")])
def test_a_failing_write_does_not_hide_the_error(tmp_path, monkeypatch, fault):
    def fails(*args):
        raise fault

    with pytest.raises(TrainingError) as caught, Run(tmp_path / "r", OTHER, task="distill") as run:
        monkeypatch.setattr(record, "write_json", fails)
        monkeypatch.setattr(run, "note", fails)
        raise DIVERGED
    assert caught.value is DIVERGED
    assert caught.value.__cause__ is None


def test_half_a_file_never_lies_there(tmp_path, monkeypatch):
    monkeypatch.setattr(record.os, "replace", lambda *names: (_ for _ in ()).throw(OSError("pulled")))
    folder = tmp_path / "r"
    folder.mkdir()
    monkeypatch.setattr(record.Run, "_check_config", lambda run: None)
    assert stop(folder, DIVERGED) is None
    assert not list(folder.glob("*stopped*"))


def test_the_command_is_the_one_that_was_typed(monkeypatch):
    assert command_line() == ""
    monkeypatch.setattr("sys.argv", ["/x/mine.py", "distill"])
    with typed(["distill", "my photos"]):
        assert command_line() == "sapling distill 'my photos'"
    assert command_line() == "", "a script of Python is no command of Sapling"


@pytest.mark.parametrize("how", ["program", "module", "call"])
def test_sapling_knows_its_command_however_it_is_called(how):
    """By its program, by ``python -m sapling``, and from Python by ``main``."""
    arguments = [] if how == "call" else ["report", "a b"]
    start = {
        "program": "from sapling.cli import main; sys.exit(main())",
        "module": "import runpy; runpy.run_module('sapling', run_name='__main__')",
        "call": "from sapling.cli import main; sys.exit(main(['report', 'a b']))",
    }[how]
    code = (
        "import sys, sapling.report.page as page\n"
        "from sapling.command import command_line\n"
        "page.write_report = lambda folder: print(command_line()) or sys.exit(0)\n" + start
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout == "sapling report 'a b'\n", done.stderr
