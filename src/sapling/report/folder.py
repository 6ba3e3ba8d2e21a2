"""Read what a run left behind, as far as it came. Never fails for a part that is missing.

A run folder may come from anyone: see :mod:`sapling.report.confined`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapling.errors import RunError, UsageError
from sapling.record import STOPPED_FILE, json_fault
from sapling.report import wording
from sapling.report.confined import MAX_JSON, MAX_SETTINGS, is_deep, read_confined


@dataclass(slots=True)
class RunRecord:
    """The files of one run folder.

    Attributes:
        folder: the run folder.
        results: ``results.json``, or empty.
        history: one entry per member and epoch, from ``metrics.jsonl``.
        data: ``data.json``, or empty.
        environment: ``environment.json``, or empty.
        config: text of ``config.yaml``, or empty.
        teacher: ``teacher/card.json``, or empty: an unfinished run has it too.
        gallery: ``gallery.json``, the test images to show, or empty: older runs have none.
        last: the last entry of ``metrics.jsonl``, of a first phase too; of an unfinished run.
        stopped: ``stopped.json``, what ended an unfinished run, or empty.
        missing: what is not there, in plain words.
    """

    folder: Path
    results: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    teacher: dict[str, Any] = field(default_factory=dict)
    gallery: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    stopped: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        UsageError: there is no such folder, or it holds nothing of a run.
        RunError: a JSON file is damaged, or a file is a link, no regular file or far too large.
    """
    if not folder.is_dir():
        raise UsageError(f"no run folder {str(folder)!r}", where=str(folder), remedy="sapling report runs/NAME")
    record = RunRecord(folder)
    record.results = read_content(folder, "results.json")
    record.data = read_content(folder, "data.json")
    record.environment = read_content(folder, "environment.json")
    record.teacher = read_content(folder, "teacher", "card.json")
    record.gallery = read_content(folder, "gallery.json")
    # What a method learns before there are students has another loss and other epochs: no curve beside theirs.
    rows = read_lines(folder / "metrics.jsonl")
    record.history = [e for e in rows if not str(e.get("pass")).startswith("phase-")]
    if not record.results:
        record.last = rows[-1] if rows else {}
        record.stopped = read_content(folder, STOPPED_FILE, limit=MAX_SETTINGS)
    config = read_confined(folder, "config.yaml", limit=MAX_SETTINGS) or b""
    record.config = config.decode(errors="replace").replace("\r\n", "\n")
    parts = {
        "results (results.json)": record.results,
        "learning curves (metrics.jsonl)": record.history,
        "data card (data.json)": record.data,
        "environment (environment.json)": record.environment,
        "settings (config.yaml)": record.config,
    }
    record.missing = [name for name, content in parts.items() if not content]
    if len(record.missing) == len(parts):
        raise UsageError(
            "this folder holds nothing of a run",
            where=str(folder),
            allowed="a folder with results.json or metrics.jsonl",
            remedy="sapling report runs/NAME",
        )
    return record


def read_content(folder: Path, *names: str, limit: int = MAX_JSON) -> dict[str, Any]:
    """The mapping in a JSON file of a run folder; empty where there is none.

    Raises:
        RunError: the file is damaged, larger than ``limit`` bytes, or reached by a link.
    """
    text = read_confined(folder, *names, limit=limit)
    if text is None:
        return {}
    try:
        content = json.loads(text.decode("utf-8"))
        if is_deep(content):
            raise ValueError("it is nested too deeply")
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{names[-1]} cannot be read: {json_fault(error)}",
            where=str(folder.joinpath(*names)),
            remedy="repeat the command of the run",
        ) from None
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines that are whole; a killed run may leave half a line at the end. A later line replaces an earlier
    one of the same member and epoch, as a resumed run writes it again.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in (read_confined(path.parent, path.name) or b"").splitlines():
        try:
            entry = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and not is_deep(entry) and number(entry.get("epoch")) is not None:
            found[(str(entry.get("pass")), str(entry.get("member")), int(entry["epoch"]))] = entry
    return list(found.values())


def command_of(results: Mapping[str, Any]) -> str:
    """The command that makes the run, or nothing: a script of Python has none, and older runs name the script; a
    resumed run knows only the command that ended it.
    """
    text = wording.clean(results.get("command") or "")
    return text if text.startswith("sapling ") and "--resume" not in text else ""


def number(value: Any) -> float | None:
    """``value`` as a finite float, or None: whatever an older or damaged run may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number with hundreds of digits
        return None


def numbers(values: Any) -> list[float]:
    """The finite numbers among ``values``."""
    if not isinstance(values, Iterable) or isinstance(values, str | Mapping):
        return []
    return [v for v in map(number, values) if v is not None]


def inner(content: Any, *path: str) -> Any:
    """``content[path[0]][path[1]]..``, or None where a step is missing."""
    for key in path:
        if not isinstance(content, Mapping):
            return None
        content = content.get(key)
    return content


def block(content: Any, *path: str) -> dict[str, Any]:
    """The mapping at ``path``, or an empty one."""
    found = inner(content, *path)
    return dict(found) if isinstance(found, Mapping) else {}


def listing(content: Any, *path: str) -> list[Any]:
    """The list at ``path``, or an empty one."""
    found = inner(content, *path)
    return list(found) if isinstance(found, list | tuple) else []
