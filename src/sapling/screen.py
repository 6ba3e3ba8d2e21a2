"""What a run shows while it works: a line per stage, a bar with the time left when it is a terminal. No torch."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

MIN_REDRAW_SECONDS = 0.1


class Bar:
    """Progress of one stage; does nothing unless a terminal is there."""

    def __init__(self, progress: Any = None, task: Any = None) -> None:
        self._progress, self._task = progress, task
        self._pending, self._drawn = 0, 0.0

    def advance(self, steps: int, note: str = "") -> None:
        """So many steps are done; ``note`` stands beside the bar."""
        if self._progress is None:
            return
        self._pending += steps
        current = time.monotonic()
        if current - self._drawn >= MIN_REDRAW_SECONDS:
            self._progress.update(self._task, advance=self._pending, note=note)
            self._pending, self._drawn = 0, current

    def reach(self, done: int, total: int) -> None:
        """``done`` of ``total`` is done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)


class Screen:
    """Lines and bars on stderr, so that stdout holds results only.

    Args:
        quiet: show nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console: Any = None

    @property
    def is_terminal(self) -> bool:
        """Whether a person is watching."""
        return not self.quiet and sys.stderr.isatty()

    @property
    def console(self) -> Any:
        """The rich console for stderr."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self._console

    def say(self, line: str) -> None:
        """Show one line; above the bar when there is one."""
        if self.quiet:
            return
        if self.is_terminal:
            self.console.print(line, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Bar]:
        """A progress bar with the time left, while the block runs."""
        if not self.is_terminal:
            yield Bar()
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        ]
        with Progress(*columns, console=self.console, transient=True, speed_estimate_period=120) as progress:
            yield Bar(progress, progress.add_task(description, total=total, note=""))


def docstring(text: str) -> Any:
    """Words of a docstring for the terminal: what stands between backticks is bold instead."""
    from rich.text import Text

    return Text.assemble(*((part, "bold" if k % 2 else "") for k, part in enumerate(re.split("`+", text))))


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def file_size(num_bytes: float) -> str:
    """``44_800_000`` -> ``44.8 MB``."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"
