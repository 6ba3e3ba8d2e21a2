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
from sapling.report.confined import MAX_SETTINGS, is_deep, read_confined


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
    record.results = _read_json(folder, "results.json")
    record.data = _read_json(folder, "data.json")
    record.environment = _read_json(folder, "environment.json")
    record.teacher = _read_json(folder, "teacher", "card.json")
    record.gallery = _read_json(folder, "gallery.json")
    # What a method learns before there are students has another loss and other epochs: no curve beside theirs.
    record.history = [e for e in read_lines(folder / "metrics.jsonl") if not str(e.get("pass")).startswith("phase-")]
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


def _read_json(folder: Path, *names: str) -> dict[str, Any]:
    text = read_confined(folder, *names)
    if text is None:
        return {}
    try:
        content = json.loads(text.decode("utf-8"))
        if is_deep(content):
            raise ValueError("it is nested too deeply")
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise RunError(
            f"{names[-1]} cannot be read: {why}",
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
