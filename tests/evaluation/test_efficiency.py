"""Memory by hand; time is only asked for its order, machines differ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sapling.evaluation import efficiency
from sapling.evaluation.efficiency import measure_network, peak_memory, time_calls


def test_memory_is_what_a_hand_counts() -> None:
    """Weights, input, and the two largest neighbours: the hidden layer before and after its activation."""
    network = nn.Sequential(nn.Linear(10, 1000), nn.ReLU(), nn.Linear(1000, 5)).eval()
    weights = 4 * (10 * 1000 + 1000 + 1000 * 5 + 5)
    images = torch.zeros(4, 10)
    assert peak_memory(network, images) == weights + 4 * (4 * 10) + 2 * 4 * (4 * 1000)


def test_what_is_let_go_counts_no_more() -> None:
    class Deep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(20):
                x = x + 1
            return x

    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + 1
            for _ in range(20):
                x.add_(1)
            return x.view(-1)

    images = torch.zeros(1, 256)
    # the caller's images, the old x and the new one
    assert peak_memory(Deep(), images) == 3 * images.nbytes
    assert peak_memory(InPlace(), images) == 2 * images.nbytes


def test_a_network_is_measured_and_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 2)).train()
    network[1].eval()
    before = torch.get_num_threads()
    found = measure_network(network, torch.zeros(3, 6), batch_sizes=(1, 4), seconds=0.001, threads=1)
    assert found["threads"] == 1
    assert torch.get_num_threads() == before
    assert (network.training, network[0].training, network[1].training) == (True, True, False)
    assert found["latency_ms"].keys() == found["peak_memory_bytes"].keys() == {"1", "4"}
    assert all(0 < t["p50"] <= t["p95"] for t in found["latency_ms"].values())
    assert found["peak_memory_bytes"]["4"] > found["peak_memory_bytes"]["1"]


def test_a_batch_that_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "time_calls", lambda call, seconds: {"p50": 900.0, "p95": 901.0})
    found = measure_network(nn.Linear(2, 2), torch.zeros(1, 2), batch_sizes=(1, 32), seconds=0.5)
    assert found["latency_ms"].keys() == {"1"}
    assert "32" in measure_network(nn.Linear(2, 2), torch.zeros(1, 2), seconds=3.0)["latency_ms"]


def test_a_batch_without_memory_is_left_out() -> None:
    class Small(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 1:
                raise RuntimeError("not enough memory: you tried to allocate 32 bytes")
            return x + 1

    found = measure_network(Small(), torch.zeros(2, 3), seconds=0.001)
    assert found["latency_ms"].keys() == found["peak_memory_bytes"].keys() == {"1"}
    with pytest.raises(RuntimeError, match="not enough memory"):
        measure_network(Small(), torch.zeros(2, 3), batch_sizes=(2,), seconds=0.001)


def test_calls_are_warmed_up_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is told: each call takes as many milliseconds as the list says."""
    takes = [0.9, 0.9, 0.9, *(k / 1000 for k in range(1, 12))]
    now, calls = [0.0], []

    def call() -> None:
        now[0] += takes[len(calls)]
        calls.append(1)

    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: now[0])
    found = time_calls(call, seconds=0.060)  # 1 + 2 + .. + 11 ms is the first sum above 60
    assert len(calls) == 3 + 11
    assert found["p50"] == pytest.approx(6.0)
    assert found["p95"] == pytest.approx(10.5)
