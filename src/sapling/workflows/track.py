"""What a run measures, sent to TensorBoard, Weights & Biases or MLflow as well, through accelerate's trackers.

Only the trackers of ``accelerate.tracking`` are used, not its ``Accelerator``. They see what is in ``metrics.jsonl``
and ``results.json``, after it is there, and change neither. A tracker that fails is left alone: the run goes on.
A run that ends before it is finished is killed or failed there too, and goes on in the same place when it is resumed.
Everything lands in ``track/`` of the run folder, and nothing is sent over the network, unless the environment of the
user says otherwise (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sapling.record import Run, read_json, write_json
from sapling.report.folder import number, read_lines

FOLDER = "track"
PROJECT = "sapling"
FINAL_PARTS = ("teacher", "comparison", "cost", "efficiency")
Row = Mapping[str, Any]
End = Literal["finished", "failed", "killed"]


@contextlib.contextmanager
def tracked(run: Run) -> Iterator[None]:
    """While the block runs, each row of ``metrics.jsonl`` goes to ``output.trackers``; at its end the results go too.

    A run that goes on sends what its trackers have not got yet, and nothing twice.
    """
    outlets = [_Outlet(name, run) for name in run.config.output.trackers]
    if not outlets:
        yield
        return

    def follow() -> None:
        for outlet in outlets:
            outlet.follow()

    run.on_metrics = follow
    end: End = "killed"  # also by what ends the block without an error and without results
    try:
        with _asked_to_end():
            yield
        if run.is_finished:
            follow()
            for outlet in outlets:
                outlet.conclude()
            end = "finished"
    except Exception:
        end = "failed"
        raise
    finally:
        for outlet in outlets:
            outlet.close(end)


@contextlib.contextmanager
def _asked_to_end() -> Iterator[None]:
    """While the block runs, a polite request to end (SIGTERM, as clusters send it) unwinds; else Python just ends."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    is_ours = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Outlet:
    """One tracker of one run: opened by its first row, closed for good by its first failure.

    ``track/<name>.json`` keeps what it has got, and is written before it gets it: a run that is killed between the two
    lacks a point there, and never shows one twice.
    """

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.run = name, run
        self.folder = run.path(FOLDER)
        self._tracker: Any = None
        self._is_broken = False
        self._undo = contextlib.ExitStack()
        self._got: dict[str, Any] = {}

    def follow(self) -> None:
        """Send the rows of ``metrics.jsonl`` that are new."""
        self._try(self._send_rows)

    def conclude(self) -> None:
        """Send the results, once."""
        self._try(self._send_results)

    def close(self, end: End) -> None:
        """Let the tracker write what it holds back, and how the run ended."""
        if self._tracker is not None and not self._is_broken:
            self._try(lambda: self._finish(end))
        elif self._tracker is not None:
            with contextlib.suppress(Exception):  # said already; what it holds open should not meet the next run
                self._finish(end)
        self._tracker = None
        self._undo.close()

    def _finish(self, end: End) -> None:
        """As accelerate does, which says *finished* of every run, but for those that are not."""
        if end != "finished" and self.name == "mlflow":
            import mlflow  # type: ignore[import-not-found, unused-ignore]

            mlflow.end_run(status=end.upper())
        elif end != "finished" and self.name == "wandb":
            self._tracker.tracker.finish(exit_code=1)
        else:
            self._tracker.finish()

    def _try(self, work: Callable[[], None]) -> None:
        if self._is_broken:
            return
        try:
            work()
        except Exception as error:  # whatever somebody else's program raises: the run does not depend on it
            self._is_broken = True
            reason = re.sub(r"//[^/@\s]*@", "//***@", (str(error).splitlines() or [""])[0])  # passwords in addresses
            self.run.log(
                f"warning: {self.name} failed ({type(error).__name__}: {reason}); the run goes on without it, and "
                "metrics.jsonl has every row"
            )

    def _send_rows(self) -> None:
        self._recall()
        rows = self._got["rows"]
        for row in read_lines(self.run.path("metrics.jsonl")):
            key = f"{row.get('pass')}/{row.get('member')}"
            epoch = int(row["epoch"])
            if epoch > rows.get(key, -1):
                rows[key] = epoch
                # before the students a method is trained without a member
                name = row["pass"] if str(row.get("pass")).startswith("phase-") else row.get("member")
                parts = {k: row.get(k) for k in ("train", "gradients", "val", "lr", "seconds")}
                self._log({f"{k}/{name}": v for k, v in numbers_in(parts)}, epoch)

    def _send_results(self) -> None:
        self._recall()
        if self._got["results"]:
            return
        self._got["results"] = True
        results = self.run.results()
        found = {f"final/{k}": v for k, v in numbers_in({k: results.get(k) for k in FINAL_PARTS})}
        for member in results["members"]:
            kept = {k: v for k, v in member.items() if k not in ("seed", "val")}
            found |= {f"final/{k}/{member['name']}": v for k, v in numbers_in(kept)}
        self._log(found, 0)

    def _log(self, values: dict[str, float], epoch: int) -> None:
        tracker = self._open()
        self._got["count"] += 1
        self._keep()
        cleaned = {_name(k): v for k, v in values.items()}
        if self.name == "wandb":  # its steps never go back, and epochs begin again with each pass
            tracker.log({**cleaned, "epoch": epoch}, step=self._got["count"] - 1)
        else:
            tracker.log(cleaned, step=epoch)

    def _open(self) -> Any:
        if self._tracker is None:
            self.folder.mkdir(exist_ok=True)
            _enter_accelerate(self._undo)
            self._tracker = _MAKERS[self.name](self.run, self.folder, self._got, self._undo)
            self._tracker.start()
            if self.name == "mlflow":
                self._got["id"] = self._tracker.tracker.info.run_id
            if not self._got["settings"]:
                self._got["settings"] = True
                self._keep()
                self._tracker.store_init_configuration(settings_of(self.run))
            self.run.log(f"{self.name}: follow it with  {_command(self.name, self.folder)}")
        return self._tracker

    def _recall(self) -> None:
        if not self._got:
            path = self.folder / f"{self.name}.json"
            empty: dict[str, Any] = {"id": None, "settings": False, "rows": {}, "results": False, "count": 0}
            self._got = {**empty, **(read_json(path) if path.exists() else {})}

    def _keep(self) -> None:
        write_json(self.folder / f"{self.name}.json", self._got)


def numbers_in(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers in nested mappings, each with its path ``a/b``; lists are left out."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from numbers_in(value, f"{path}/{key}" if path else str(key))
    elif (value := number(content)) is not None:
        yield path, value


def settings_of(run: Run) -> dict[str, str | int | float | bool]:
    """Settings as hyper-parameters: ``train.lr`` to a plain value; those that are None are left out."""
    return {
        f"{block}.{key}": value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
        for block, content in run.config.model_dump(mode="json").items()
        for key, value in content.items()
        if value is not None
    }


def _name(key: str) -> str:
    """A name that all of them take (MLflow takes the fewest letters)."""
    return re.sub(r"[^\w./ -]", "_", key)


def _enter_accelerate(undo: contextlib.ExitStack) -> None:
    """Log lines of accelerate want its state; on the CPU it touches no device, and it is gone afterwards."""
    from accelerate.state import PartialState

    if not PartialState._shared_state:
        undo.callback(PartialState._reset_state)
        PartialState(cpu=True)


def _default(undo: contextlib.ExitStack, **variables: str) -> None:
    """Set variables of the environment that the user has not set, until the run is done."""
    for name, value in variables.items():
        if name not in os.environ:
            os.environ[name] = value
            undo.callback(os.environ.pop, name, None)


def _tensorboard(run: Run, folder: Path, got: dict[str, Any], undo: contextlib.ExitStack) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", folder)


def _wandb(run: Run, folder: Path, got: dict[str, Any], undo: contextlib.ExitStack) -> Any:
    from accelerate.tracking import WandBTracker

    got["id"] = got["id"] or uuid.uuid4().hex[:12]
    _default(undo, WANDB_ERROR_REPORTING="false")
    return WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=os.environ.get("WANDB_NAME", run.folder.name),
        id=got["id"],
        resume="allow",
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings={"console": "off"},  # stdout holds results only
    )


def _mlflow(run: Run, folder: Path, got: dict[str, Any], undo: contextlib.ExitStack) -> Any:
    from accelerate.tracking import MLflowTracker

    is_users = "MLFLOW_TRACKING_URI" in os.environ
    _default(undo, MLFLOW_TRACKING_URI=_database(folder), MLFLOW_DISABLE_TELEMETRY="true")
    place = None if is_users else (folder.absolute() / "mlflow").as_uri()
    return MLflowTracker(PROJECT, logging_dir=place, run_id=got["id"], run_name=run.folder.name)


_MAKERS: dict[str, Callable[[Run, Path, dict[str, Any], contextlib.ExitStack], Any]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _database(folder: Path) -> str:
    return f"sqlite:///{(folder.absolute() / 'mlflow.db').as_posix()}"


def _command(name: str, folder: Path) -> str:
    """What shows it, as a command."""
    if name == "tensorboard":
        return shlex.join(["tensorboard", "--logdir", str(folder)])
    if name == "mlflow":
        place = os.environ.get("MLFLOW_TRACKING_URI", "")
        own = place.startswith("sqlite:")  # an address of somebody's server may hold a password
        return shlex.join(["mlflow", "ui", "--backend-store-uri", place]) if own else "the page of your MLflow server"
    return f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*  (where it was offline)"
