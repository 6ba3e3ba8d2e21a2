"""A run without results: what ended it, as ``stopped.json`` tells, and how to go on. The file may come from anyone."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapling.record import INTERRUPTED, STOPPED_FILE
from sapling.report import wording
from sapling.report.confined import MAX_SETTINGS
from sapling.report.folder import RunRecord, number, read_content

COMES_BACK = ("TrainingError", "GateError")  # the same settings end in the same way
CHANGE = "CHANGE"  # stands in a command for the changed setting
MOST_LETTERS = 1000  # of one text of the file


@dataclass(frozen=True, slots=True)
class Stop:
    """What ended a run: its error, in the error's own words.

    Attributes:
        kind: class of the error, or ``interrupted``.
        what: the error.
        where: file or place; may be empty, as the rest.
        allowed: what would have been accepted.
        remedy: what to do.
    """

    kind: str
    what: str
    where: str = ""
    allowed: str = ""
    remedy: str = ""

    @property
    def is_interrupted(self) -> bool:
        """Whether somebody ended the run, by Ctrl-C for example."""
        return self.kind == INTERRUPTED

    @property
    def comes_back(self) -> bool:
        """Whether a plain ``--resume`` ends in the same way."""
        return self.kind in COMES_BACK

    @property
    def said(self) -> str:
        """What the run did: ``stopped: training diverged ..``, without a full stop."""
        return f"was {INTERRUPTED}" if self.is_interrupted else f"stopped: {self.what}"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run without results.

    Attributes:
        badge: one or two words.
        headline: one sentence.
        text: what happened and what to do; before ``command`` where there is one.
        command: how to go on; empty where there is no way.
    """

    badge: str
    headline: str
    text: str
    command: str

    def __str__(self) -> str:
        return f"{self.text}\n  {self.command}" if self.command else self.text


def read_stop(folder: Path) -> Stop | None:
    """What ended the run in ``folder``, or None where nothing was kept.

    Raises:
        RunError: the file is damaged, too large, or a link.
    """
    return stop_of(read_content(folder, STOPPED_FILE, limit=MAX_SETTINGS))


def stop_of(content: Mapping[str, Any]) -> Stop | None:
    """The content of ``stopped.json``; what is no text, or too much of it, is left out."""
    parts = {k: v for k in Stop.__slots__ if isinstance(v := content.get(k), str) and v.strip()}
    parts = {k: wording.shorten(v[: 4 * MOST_LETTERS], MOST_LETTERS) for k, v in parts.items()}
    return Stop(**parts) if {"kind", "what"} <= parts.keys() else None


def unfinished(record: RunRecord) -> Unfinished | None:
    """What to know of a run without results, and how to go on with it; None for a finished one."""
    if record.results:
        return None
    stop = stop_of(record.stopped)
    badge, headline = "not finished", "This run has no results yet."
    text = "This run is not finished: it has no results yet, and the page shows how far it came."
    if stop is not None and stop.is_interrupted:
        badge = INTERRUPTED
        text = "This run was interrupted: it has no results yet, and the page shows how far it came."
    elif stop is not None:
        badge, headline = "stopped", "This run stopped before it had results."
        parts = (("This run ", stop.said), ("Where: ", stop.where), ("Allowed: ", stop.allowed), ("Try: ", stop.remedy))
        text = " ".join(f"{name}{part.rstrip('. ')}." for name, part in parts if part)
    if not record.config:
        again = "It cannot go on without its config.yaml: repeat the command that made it."
        return Unfinished(badge, headline, f"{text} {again}", "")
    command = next_command(given_path(record), task_of(record), stop)
    return Unfinished(badge, headline, f"{text} {_before(stop)}:", command)


def next_command(folder: str, task: str, stop: Stop | None) -> str:
    """How to go on with an unfinished run: by ``--resume``, or where that is of no use, anew with a changed setting."""
    if stop is None or not stop.comes_back:
        return f"sapling {task} --resume {shlex.quote(folder)}"
    config = shlex.quote(f"{folder}/config.yaml")
    anew = shlex.quote(f"{folder}-changed" if Path(folder).name.strip(".") else "changed")
    return f"sapling {task} --config {config} --output {anew} {CHANGE}"


def advice(folder: str, task: str, stop: Stop | None) -> str:
    """What to do, in one line: the error's remedy, and the next command."""
    command = next_command(folder, task, stop)
    if stop is None or stop.is_interrupted:
        return command
    joint = f"with the change in place of {CHANGE}: " if stop.comes_back else "then "
    return f"{stop.remedy.rstrip('. ')}; {joint}{command}" if stop.remedy else f"{joint}{command}"


def _before(stop: Stop | None) -> str:
    """What stands before the command."""
    if stop is None or stop.is_interrupted:
        return "To go on with it"
    if not stop.comes_back:
        return "When that is mended, go on with it"
    return f"Going on with the same settings ends there again. Start anew, with the change in place of {CHANGE}"


def progress(record: RunRecord) -> str:
    """How far training came, in one sentence."""
    if not record.last:
        return "The learning curves hold no epoch."
    last = record.last
    of = f" of {int(last['epochs'])}" if number(last.get("epochs")) else ""
    return f"Last entry: {wording.clean(last.get('member'))}, epoch {int(last['epoch']) + 1}{of}."


def given_path(record: RunRecord) -> str:
    """The run folder as it was given: with it commands work in the folder where the page was made."""
    return "".join(c for c in str(record.folder) if unicodedata.category(c)[0] != "C")


def task_of(record: RunRecord) -> str:
    """``train`` or ``distill``."""
    stamp = re.search(r"(?m)^fingerprint: train:", record.config)
    return "train" if stamp or record.results.get("task") == "train" else "distill"
