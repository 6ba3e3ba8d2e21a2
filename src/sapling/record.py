"""The run folder: every file is written to a temporary name and renamed; one process at a time. No torch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sapling.config import RunConfig, save
from sapling.errors import RunError, SaplingError, UsageError
from sapling.run_folders import CHOSEN as CHOSEN
from sapling.run_folders import (
    FIRST_FILES,
    is_this_run,
    is_untouched,
    refuse_foreign_folder,
    refuse_own_split,
    stamp_of,
)
from sapling.run_folders import SPLIT_FILE as SPLIT_FILE
from sapling.run_folders import STOPPED_FILE as STOPPED_FILE

FORMAT = 1
COMPACT_ABOVE = 1_000_000
INTERRUPTED = "interrupted"
MOST_LETTERS = 4000  # of one text in stopped.json
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "onnxruntime")


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its place only when everything was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN is refused, because no other language reads it."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    if len(text) > COMPACT_ABOVE:  # many classes: a confusion matrix with a line per cell helps nobody
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as file:
        file.write(text + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a damaged file is a ``RunError`` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"cannot read {path.name}: {json_fault(error)}", where=str(path), remedy="make the run again"
        ) from None


def json_fault(error: Exception) -> str:
    """What is wrong with a JSON file, without advice to whoever programs Python."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it holds a number of thousands of digits" if "set_int_max_str_digits" in str(error) else str(error)


def environment() -> dict[str, Any]:
    """Versions and machine: what another person needs to judge a figure."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "sapling": importlib.metadata.version("sapling-kd"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor,
        "cores": os.cpu_count(),
        "libraries": versions,
    }


class Run:
    """One run folder, locked for this process while it is open.

    Args:
        folder: where; made if it does not exist.
        config: the settings; a folder made by other settings is refused.
        task: ``distill`` or ``train``.
    """

    def __init__(self, folder: str | Path, config: RunConfig, *, task: str) -> None:
        self.folder = Path(folder)
        self.config, self.task = config, task
        self._lock: IO[str] | None = None
        self._is_new = False
        self.say: Callable[[str], None] = lambda line: None
        self.on_metrics: Callable[[], None] = lambda: None

    def __enter__(self) -> Run:
        refuse_foreign_folder(self.folder)
        self._is_new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder: {error}", where=str(self.folder)) from None
        self._take_lock()
        try:
            self._check_config()
            self.path(STOPPED_FILE).unlink(missing_ok=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        # the call was wrong before anything was done: leave no folder behind
        goes = self._is_new and isinstance(error, UsageError) and is_untouched(self.folder)
        if error is not None and not goes:
            self._keep_stop(error)
        if self._lock:
            self._lock.close()
            self._lock = None
        if goes:
            shutil.rmtree(self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether results are there: such a run is printed again and trains nothing."""
        return (self.folder / "results.json").exists()

    def path(self, *parts: str) -> Path:
        """A path inside the run folder."""
        return self.folder.joinpath(*parts)

    def started(self) -> str:
        """When the first process began with this run, as ISO text."""
        return str(read_json(self.path("environment.json")).get("started", now()))

    def finish(self, results: dict[str, Any]) -> None:
        """Write ``results.json``, which makes the run a finished one; what only a resume needs goes."""
        write_json(self.path("results.json"), results)
        shutil.rmtree(self.path("checkpoints"), ignore_errors=True)

    def results(self) -> dict[str, Any]:
        """``results.json``."""
        content = read_json(self.path("results.json"))
        if not isinstance(content, dict):
            raise RunError("results.json holds no results", where=str(self.path("results.json")))
        return content

    def note(self, line: str) -> None:
        """Add a line to ``log.txt``."""
        with self.path("log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def log(self, line: str) -> None:
        """Add a line to ``log.txt`` and show it."""
        self.note(line)
        self.say(line)

    def _keep_stop(self, error: BaseException) -> None:
        """Say in ``log.txt`` and ``stopped.json`` what ended the run; where that fails, ``error`` itself goes on."""
        stop = _stop_of(error)
        texts = {"": stop["what"], "where: ": stop["where"], "allowed: ": stop["allowed"], "try: ": stop["remedy"]}
        with contextlib.suppress(Exception):  # a full disk, for example
            for name, text in texts.items():
                if text:
                    self.note(f"stopped: {name}{' '.join(text.split())}")
        with contextlib.suppress(Exception):
            if not self.is_finished:
                write_json(self.path(STOPPED_FILE), stop)

    def add_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Append lines to ``metrics.jsonl``."""
        with self.path("metrics.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.on_metrics()

    def drop_metrics(self, name: str, *, from_epoch: int) -> None:
        """Forget lines of pass ``name`` from an epoch on: a resumed pass writes them again."""
        path = self.path("metrics.jsonl")
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the last line of a killed run may be cut
            if row.get("pass") != name or row.get("epoch", 0) < from_epoch:
                kept.append(line)
        with atomic_file(path) as file:
            file.writelines(line + "\n" for line in kept)

    def _take_lock(self) -> None:
        file = self.path(".lock").open("w")
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: no lock
            pass
        except OSError:
            file.close()
            raise RunError(
                "another process is working on this run",
                where=str(self.folder),
                remedy="wait for it, or give another folder with --output",
            ) from None
        self._lock = file

    def _check_config(self) -> None:
        path = self.path("config.yaml")
        if path.exists():
            if is_this_run(self.folder, self.config, self.task):
                return
            refuse_own_split(self.folder, self.config)
            for name in FIRST_FILES:
                self.path(name).unlink(missing_ok=True)
        write_json(self.path("environment.json"), {**environment(), "started": now()})
        with atomic_file(path) as file:
            file.write(save(self.config) + f"fingerprint: {stamp_of(self.config, self.task)}\n")


def _stop_of(error: BaseException) -> dict[str, str]:
    """What ``stopped.json`` says of an error: its kind and its parts, all of them text."""
    what, where, allowed, remedy = str(error) or type(error).__name__, "", "", ""
    kind = type(error).__name__
    if isinstance(error, SaplingError):
        what, where, allowed, remedy = error.what, error.where or "", error.allowed or "", error.remedy or ""
    elif isinstance(error, KeyboardInterrupt | SystemExit):
        kind = what = INTERRUPTED
    elif isinstance(error, OSError):
        what, where = error.strerror or what, str(error.filename or "")
    parts = {"what": what, "where": where, "allowed": allowed, "remedy": remedy}
    return {"kind": kind, **{k: str(v)[:MOST_LETTERS] for k, v in parts.items()}, "at": now()}


def now() -> str:
    """The time as ISO text, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
