"""What one forward pass costs: time of a call, and memory of its tensors.

Its arithmetic is counted by :func:`sapling.models.create.count_macs`: one multiply-add is one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BATCH_SIZES = (1, 32)
TOO_LONG, NEVER_TOO_LONG = 10.0, 5.0
"""A batch is left out where one call would take more than 10 times the seconds that were asked for, and 5 seconds."""


def num_cores() -> int:
    """Count the cores that this process may use; containers often give fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def time_calls(
    call: Callable[[], object], *, seconds: float, max_repeats: int = 200, warmups: int = 3, min_repeats: int = 5
) -> dict[str, float]:
    """``p50``, ``p95`` and ``mean`` in milliseconds of one call, after warm-up, of about ``seconds`` of calls."""
    for _ in range(warmups):
        call()
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < min_repeats or (len(taken) < max_repeats and time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    p50, p95 = np.percentile(taken, [50, 95])
    return {"p50": round(float(p50), 4), "p95": round(float(p95), 4), "mean": round(float(np.mean(taken)), 4)}


def measure_network(
    network: nn.Module,
    images: Tensor,
    *,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    seconds: float = 1.0,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time a network in torch on the CPU, in float32, and take the peak memory of its tensors.

    Args:
        network: images to anything; on the CPU. Its mode is restored.
        images: ``[N,C,S,S]``, repeated to fill a batch.
        batch_sizes: how many images at a time.
        seconds: of calls for each batch size; at least 5 calls.
        threads: of torch while it is timed; None: all cores. The number before is restored.

    Returns:
        ``threads``; ``latency_ms``: batch size to ``p50``, ``p95`` and ``mean`` of one call, in milliseconds;
        ``peak_memory_bytes``: batch size to :func:`peak_memory`. A batch whose one call would take more than 10 times
        ``seconds`` (but 5 seconds at least) is left out of both, and so is one for which there is no memory.
    """
    pixels = torch.as_tensor(images, dtype=torch.float32).cpu().contiguous()
    threads = threads or num_cores()
    latency: dict[str, dict[str, float]] = {}
    memory: dict[str, int] = {}
    with _threads(threads), _evaluating(network), torch.no_grad():
        for size in batch_sizes:
            batch = pixels[torch.arange(size) % len(pixels)]
            if latency:  # of the batch before: per image it gets no slower
                before, known = next(reversed(latency.items()))
                if known["p50"] * size / int(before) > 1e3 * max(TOO_LONG * seconds, NEVER_TOO_LONG):
                    continue
            try:
                timed = time_calls(functools.partial(network, batch), seconds=seconds)
                memory[str(size)] = peak_memory(network, batch)
            except (RuntimeError, MemoryError):
                if not latency:
                    raise
                break
            latency[str(size)] = timed
    return {"threads": threads, "latency_ms": latency, "peak_memory_bytes": memory}


def peak_memory(network: nn.Module, images: Tensor) -> int:
    """Most bytes of tensors alive at one time in one forward pass: weights, buffers, images and what it computes.

    Counted, not measured: each storage once, from the operation that makes it until nobody holds it. It is the same
    on every machine. What an operation needs inside itself, and the runtime's own memory, come on top.

    Args:
        network: in the mode in which it is to be counted.
        images: ``[N,C,S,S]``.
    """
    counter = _LiveBytes()
    counter.add((*network.parameters(), *network.buffers(), images))
    with torch.no_grad(), counter:
        network(images)
    return counter.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, and takes off those that are gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def add(self, values: object) -> None:
        for value in tree_leaves(values):
            if not isinstance(value, Tensor) or value.device.type == "meta":
                continue
            storage = value.untyped_storage()
            key = storage._cdata
            if key in self._known:
                continue
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            self._known[key] = weakref.ref(storage, lambda _, key=key, size=size: self._gone(key, size))  # type: ignore[misc]

    def _gone(self, key: int, size: int) -> None:
        if self._known.pop(key, None) is not None:
            self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(result)
        return result


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
