"""Whose time it is: on the clock, and on that of a GPU, which works behind the calls."""

import pytest
import torch

from sapling.engine import stopwatch
from sapling.engine.stopwatch import Stopwatch


def test_the_clock_is_read_at_each_call(monkeypatch):
    times = iter([10.0, 11.0, 13.0, 13.5])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(times))
    clock = {"data": 1.0, "teacher": 0.0}
    watch = Stopwatch(clock, "cpu")
    for part in ("data", "teacher", "data"):
        watch.charge(part)
    watch.settle()
    assert clock == {"data": 2.5, "teacher": 2.0}


def test_a_gpu_is_waited_for_at_the_end_alone(monkeypatch):
    done, waited = iter([0.0, 250.0, 2250.0, 2500.0]), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = next(done)  # milliseconds at which the GPU comes to it

        def synchronize(self):
            waited.append(self.at)

        def elapsed_time(self, later):
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    clock = {"data": 1.0, "teacher": 0.0, "kd-s0": 0.0}
    watch = Stopwatch(clock, "cuda:1")
    for part in ("data", "teacher", "kd-s0"):
        watch.charge(part)
    assert not waited
    watch.settle()
    watch.settle()
    assert waited == [2500.0]
    assert clock == pytest.approx({"data": 1.25, "teacher": 2.0, "kd-s0": 0.25})
