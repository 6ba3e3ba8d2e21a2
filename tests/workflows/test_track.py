"""Rows and results also go to other programs, once each; these change nothing and their failures cost nothing."""

import contextlib
import importlib.util
import json
import os
import random
import re
import signal
import sys
import time
import types
from typing import ClassVar

import pytest

from sapling.config import build
from sapling.errors import ConfigError, UsageError
from sapling.record import Run
from sapling.trackers import check_trackers
from sapling.workflows.track import _command, numbers_in, tracked

RESULTS = {
    "teacher": {"test": {"top1": 0.9, "confusion": [[1]]}, "model": "cnn4"},
    "members": [{"name": "kd-s0", "seed": 0, "val": {"top1": 0.6}, "test": {"top1": 0.7, "nll": None}}],
    "comparison": {"verdict": {"gain": 0.02, "statement": "kd is better", "is_sure": True}},
}


def rows(name, first, last, *, value=0.5):
    return [
        {
            "pass": "seed0",
            "member": name,
            "epoch": epoch,
            "epochs": last,
            "phase": "all",
            "lr": 0.1,
            "train": {"ce": 1.0, "kd (soft)": 2.0},
            "gradients": {"ce": 0.1, "steps": 3},
            "val": {"top1": value},
            "seconds": 1.5,
        }
        for epoch in range(first, last)
    ]


class Tracker:
    """Stands in for those of accelerate.tracking; ``opened`` holds all that were made."""

    opened: ClassVar[list["Tracker"]] = []
    fails_at = None

    def __init__(self, project, *places, **options):
        self.project, self.places, self.options = project, places, options
        self.logged, self.settings, self.finished, self.ends = [], [], 0, []
        self.tracker = types.SimpleNamespace(info=types.SimpleNamespace(run_id="run-of-mlflow"), finish=self.finish)
        Tracker.opened.append(self)

    def start(self):
        self.uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.fail("start")

    def store_init_configuration(self, values):
        self.settings.append(values)

    def log(self, values, step):
        self.fail("log")
        self.logged.append((step, values))

    def finish(self, exit_code=0):
        self.finished += 1
        self.ends.append(exit_code)

    def fail(self, where):
        if type(self).fails_at == where:
            raise OSError("no such host\nand much more")


@pytest.fixture
def stand_ins(monkeypatch):
    """accelerate and the three programs, as modules of ours."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    Tracker.opened = []
    kinds = {name: type(name, (Tracker,), {}) for name in ("TensorBoardTracker", "WandBTracker", "MLflowTracker")}
    state = type("PartialState", (), {"_shared_state": {}, "__init__": lambda self, cpu: None})
    state._reset_state = staticmethod(lambda: None)
    for name, content in {
        "accelerate": {},
        "accelerate.tracking": kinds,
        "accelerate.state": {"PartialState": state},
        "tensorboard": {},
        "wandb": {},
        "mlflow": {"end_run": lambda status: Tracker.opened[-1].finish(status)},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return types.SimpleNamespace(**kinds)


def settings(folder, *names, **more):
    return build({"data": "photos", "output": {"folder": str(folder), "trackers": list(names)}, **more})


def follow(folder, names, batches, *, results=None):
    """A run that writes these rows; gives its log."""
    with Run(folder, settings(folder, *names), task="distill") as run, tracked(run):
        for batch in batches:
            run.add_metrics(batch)
        if results is not None:
            run.finish(results)
    log = folder / "log.txt"
    return log.read_text() if log.exists() else ""


def test_every_row_and_the_results_go_there(stand_ins, tmp_path):
    follow(tmp_path / "r", ["tensorboard"], [rows("kd-s0", 0, 1), rows("kd-s0", 1, 2)], results=RESULTS)
    (tracker,) = Tracker.opened
    assert tracker.places == (tmp_path / "r" / "track",)
    values = {
        "train/ce/kd-s0": 1.0,
        "train/kd _soft_/kd-s0": 2.0,
        "gradients/ce/kd-s0": 0.1,
        "gradients/steps/kd-s0": 3.0,
        "val/top1/kd-s0": 0.5,
        "lr/kd-s0": 0.1,
        "seconds/kd-s0": 1.5,
    }
    final = {
        "final/teacher/test/top1": 0.9,
        "final/comparison/verdict/gain": 0.02,
        "final/test/top1/kd-s0": 0.7,
    }
    assert tracker.logged == [(0, values), (1, values), (0, final)]
    assert tracker.finished == 1
    (stored,) = tracker.settings
    assert stored["train.batch_size"] == 64
    assert stored["data.view_options"] == "{}"
    assert "train.epochs" not in stored  # None: nothing was set


def test_nothing_is_opened_before_there_is_a_row(stand_ins, tmp_path):
    with Run(tmp_path / "r", settings(tmp_path / "r", "wandb"), task="distill") as run, tracked(run):
        pass
    assert Tracker.opened == []
    assert not (tmp_path / "r" / "track").exists()


def test_a_run_that_goes_on_sends_nothing_twice(stand_ins, tmp_path):
    folder = tmp_path / "r"
    follow(folder, ["tensorboard", "mlflow"], [rows("kd-s0", 0, 1), rows("kd-s0", 1, 2)])
    with Run(folder, settings(folder, "tensorboard", "mlflow"), task="distill") as run, tracked(run):
        run.drop_metrics("seed0", from_epoch=1)
        for batch in (rows("kd-s0", 1, 2), rows("kd-s0", 2, 3)):
            run.add_metrics(batch)
        run.finish(RESULTS)
    follow(folder, ["tensorboard", "mlflow"], [])  # finished: the command is only repeated
    for name in ("TensorBoardTracker", "MLflowTracker"):
        mine = [t for t in Tracker.opened if isinstance(t, getattr(stand_ins, name))]
        assert [step for t in mine for step, values in t.logged if "lr/kd-s0" in values] == [0, 1, 2]
        assert sum("final/test/top1/kd-s0" in values for t in mine for _, values in t.logged) == 1
        assert [len(t.settings) for t in mine] == [1, 0]
    assert [t.options.get("run_id") for t in mine] == [None, "run-of-mlflow"]


def test_switched_on_late_it_gets_what_was_before(stand_ins, tmp_path):
    folder = tmp_path / "r"
    follow(folder, [], [rows("kd-s0", 0, 2)], results=RESULTS)
    before = (folder / "config.yaml").read_text()
    follow(folder, ["tensorboard"], [])
    assert [step for step, _ in Tracker.opened[0].logged] == [0, 1, 0]
    assert (folder / "config.yaml").read_text() == before  # the same run: trackers are none of its terms


def test_wandb_stays_off_the_network_and_its_steps_never_go_back(stand_ins, tmp_path, monkeypatch):
    folder = tmp_path / "r"
    follow(folder, ["wandb"], [rows("kd-s0", 0, 2)])
    follow(folder, ["wandb"], [rows("kd-s1", 0, 2)], results=RESULTS)
    first, second = Tracker.opened
    assert [step for t in Tracker.opened for step, _ in t.logged] == [0, 1, 2, 3, 4]
    assert [values["epoch"] for t in Tracker.opened for _, values in t.logged][:4] == [0, 1, 0, 1]
    assert first.options["mode"] == "offline"
    assert first.options["dir"] == str(folder / "track")
    assert first.options["id"] == second.options["id"]
    assert second.options["resume"] == "allow"
    monkeypatch.setenv("WANDB_MODE", "online")
    follow(tmp_path / "other", ["wandb"], [rows("kd-s0", 0, 1)])
    assert Tracker.opened[2].options["mode"] == "online"
    assert Tracker.opened[2].options["id"] != first.options["id"]


def test_mlflow_lies_in_the_run_folder_unless_the_user_has_a_server(stand_ins, tmp_path, monkeypatch):
    follow(tmp_path / "r", ["mlflow"], [rows("kd-s0", 0, 1)])
    assert Tracker.opened[0].uri == f"sqlite:///{tmp_path / 'r' / 'track' / 'mlflow.db'}"
    assert Tracker.opened[0].options["logging_dir"] == (tmp_path / "r" / "track" / "mlflow").as_uri()
    assert "MLFLOW_TRACKING_URI" not in os.environ  # the next run of this process has its own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine")
    follow(tmp_path / "other", ["mlflow"], [rows("kd-s0", 0, 1)])
    assert Tracker.opened[1].uri == os.environ["MLFLOW_TRACKING_URI"] == "http://mine"
    assert Tracker.opened[1].options["logging_dir"] is None


@pytest.mark.parametrize("where", ["start", "log"])
def test_one_that_fails_is_named_once_and_costs_nothing(stand_ins, tmp_path, where):
    stand_ins.WandBTracker.fails_at = where
    log = follow(tmp_path / "r", ["wandb", "tensorboard"], [rows("kd-s0", 0, 1), rows("kd-s0", 1, 2)], results=RESULTS)
    assert log.count("warning: wandb failed (OSError: no such host)") == 1
    failed, good = Tracker.opened
    assert failed.logged == []
    assert failed.finished == 1
    assert [step for step, _ in good.logged] == [0, 1, 0]
    assert len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "r" / "results.json").read_text()) == RESULTS


ENDS = [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (ValueError, "FAILED"), (None, "KILLED")]


@pytest.mark.parametrize(("error", "status"), ENDS)
@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_run_that_ends_early_is_not_called_finished(stand_ins, tmp_path, name, error, status):
    folder = tmp_path / "r"
    config = settings(folder, name)
    expected = {"tensorboard": 0, "wandb": 1, "mlflow": status}[name]
    with (
        contextlib.suppress(*[error] if error else []),
        Run(folder, config, task="distill") as run,
        tracked(run),
    ):
        run.add_metrics(rows("kd-s0", 0, 1))
        if error:
            raise error
    assert Tracker.opened[0].ends == [expected]
    follow(folder, [name], [rows("kd-s0", 1, 2)], results=RESULTS)  # it goes on in the same place, and is finished
    first, second = Tracker.opened
    assert second.ends == [0]
    assert [step for step, values in second.logged if "lr/kd-s0" in values] == [1]
    if name != "tensorboard":
        key = {"wandb": "id", "mlflow": "run_id"}[name]
        assert second.options[key] == (first.options["id"] if name == "wandb" else "run-of-mlflow")


def test_a_polite_kill_is_written_down(stand_ins, tmp_path):
    """Clusters send SIGTERM before they kill; Python ends at once by itself, and nobody is told."""
    config = settings(tmp_path / "r", "wandb")
    with pytest.raises(SystemExit) as caught, Run(tmp_path / "r", config, task="distill") as run, tracked(run):
        run.add_metrics(rows("kd-s0", 0, 1))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert caught.value.code == 128 + signal.SIGTERM
    assert Tracker.opened[0].ends == [1]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_missing_is_said_with_the_extra(monkeypatch, photos, tmp_path):
    from sapling.cli import main

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("accelerate", "wandb", "tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UsageError, match=re.escape("pip install 'sapling-kd[track]' wandb")):
        check_trackers(["wandb"])
    with pytest.raises(
        UsageError, match=r"accelerate and tensorboard are needed(.|\n)*pip install 'sapling-kd\[track\]'$"
    ):
        check_trackers(["tensorboard"])
    check_trackers([])
    monkeypatch.undo()
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="wandb"):  # a folder that wandb left behind is no package
        check_trackers(["wandb"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    output = tmp_path / "r"
    assert main(["train", str(photos), "--model", "cnn3", "--track", "wandb", "-q", "-o", str(output)]) == 2
    assert not output.exists()


def test_an_unknown_one_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"'tensorbord' is unknown(.|\n)*did you mean 'tensorboard'"):
        settings(tmp_path, "tensorbord")
    with pytest.raises(ConfigError, match="not allowed"):
        settings(tmp_path, 3)
    assert settings(tmp_path, "wandb", "wandb").output.trackers == ("wandb",)


def test_no_bit_and_no_fingerprint_changes(stand_ins, photos, tmp_path, monkeypatch):
    import numpy as np
    import torch

    from sapling import train
    from tests.digests import digest

    def disturb(self, values, step):
        random.seed(0), np.random.seed(0), torch.manual_seed(0), torch.rand(7), random.random()

    monkeypatch.setattr(Tracker, "log", disturb)
    blocks = {
        "data": {"source": str(photos), "img_size": 16, "views": "photo", "mixup": 0.5},
        "student": "cnn3",
        "train": {"epochs": 2, "batch_size": 16, "precision": "fp32", "threads": 1},
        "deploy": {"onnx": False, "latency_seconds": 0},
    }
    plain = train(**blocks, output=tmp_path / "plain").folder
    with_it = train(**blocks, output={"folder": str(tmp_path / "with"), "trackers": "tensorboard,wandb"}).folder
    assert len(Tracker.opened) == 2
    assert digest(with_it / "student" / "model.safetensors") == digest(plain / "student" / "model.safetensors")
    stamps = {re.search(r"fingerprint: (\S+)", (f / "config.yaml").read_text()).group(1) for f in (plain, with_it)}
    assert len(stamps) == 1


def test_numbers_are_found_and_nothing_else():
    content = {"a": {"b": 1, "c": [1, 2]}, "d": True, "e": float("nan"), "f": "2", "g": None, "h": 2.5}
    assert dict(numbers_in(content)) == {"a/b": 1.0, "h": 2.5}


# -------------------------------------------------------------------------------------------- with accelerate itself
@pytest.mark.filterwarnings("default")
def test_tensorboard_reads_what_was_sent(tmp_path):
    pytest.importorskip("accelerate")
    pytest.importorskip("tensorboard")
    from accelerate.state import PartialState
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = follow(tmp_path / "r", ["tensorboard"], [rows("kd-s0", 0, 1), rows("kd-s0", 1, 2)], results=RESULTS)
    assert "warning" not in log
    events = EventAccumulator(str(tmp_path / "r" / "track" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/top1/kd-s0")] == [(0, 0.5), (1, 0.5)]
    assert events.Scalars("final/test/top1/kd-s0")[0].value == pytest.approx(0.7)
    assert PartialState._shared_state == {}


@pytest.mark.filterwarnings("default")
def test_accelerate_is_called_as_it_wants_to_be(tmp_path, monkeypatch):
    """Its own trackers, on modules that stand in for wandb and mlflow."""
    pytest.importorskip("accelerate")
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    calls = []

    def note(name, result=None):
        return lambda *args, **kwargs: calls.append((name, args, kwargs)) or result

    active = types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
    run = types.SimpleNamespace(log=note("wandb.log"), finish=note("wandb.finish"))
    limits = types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
    modules = {
        "wandb": {"init": note("init", run), "config": types.SimpleNamespace(update=note("wandb.config"))},
        "mlflow": {
            "search_experiments": note("search", []),
            "create_experiment": note("create", "7"),
            "start_run": note("start_run", active),
            "log_params": note("params"),
            "log_metrics": note("metrics"),
            "end_run": note("end_run"),
            "utils": types.SimpleNamespace(validation=limits),
        },
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    log = follow(tmp_path / "r", ["wandb", "mlflow"], [rows("kd-s0", 0, 1)], results=RESULTS)
    assert "warning" not in log
    named = {name: kwargs for name, _, kwargs in calls}
    assert named["init"]["project"] == "sapling"
    assert named["init"]["mode"] == "offline"
    assert named["start_run"]["experiment_id"] == "7"
    assert named["metrics"]["step"] == 0
    assert [name for name, _, _ in calls].count("wandb.log") == [name for name, _, _ in calls].count("metrics") == 2
    assert {"wandb.config", "params", "wandb.finish", "end_run"} <= named.keys()
    assert named["wandb.finish"] == named["end_run"] == {}
    calls.clear()
    log = follow(tmp_path / "other", ["wandb", "mlflow"], [rows("kd-s0", 0, 1)])
    assert "warning" not in log
    named = {name: kwargs for name, _, kwargs in calls}
    assert (named["wandb.finish"], named["end_run"]) == ({"exit_code": 1}, {"status": "KILLED"})
    assert [name for name, _, _ in calls].count("end_run") == 1


def test_addresses_keep_their_passwords(tmp_path, monkeypatch):
    """A run folder is made to be shown."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@example.org")
    assert _command("mlflow", tmp_path) == "the page of your MLflow server"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert _command("mlflow", tmp_path) == "mlflow ui --backend-store-uri sqlite:///here.db"
