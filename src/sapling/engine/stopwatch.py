"""What each part of a step takes: on the clock, or on that of a GPU, whose work runs behind the calls."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Charges the time since the last call to one of several parts.

    On a CUDA device it lays marks into the stream and reads them when it is settled, so that no step waits; elsewhere
    it reads the clock at once.

    Args:
        clock: seconds by part, which grow.
        device: where the work is done.
    """

    def __init__(self, clock: dict[str, float], device: str) -> None:
        self._clock, self._device = clock, torch.device(device)
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        self._since = time.perf_counter()
        if self._device.type == "cuda":
            self._mark("")

    def charge(self, part: str) -> None:
        """All since the last call was ``part``."""
        if self._device.type == "cuda":
            self._mark(part)
            return
        now = time.perf_counter()
        self._clock[part] += now - self._since
        self._since = now

    def settle(self) -> None:
        """Wait for what was begun, and charge it."""
        if not self._marks:
            return
        self._marks[-1][1].synchronize()
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            self._clock[part] += before.elapsed_time(after) / 1000.0
        self._marks.clear()

    def _mark(self, part: str) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append((part, event))
