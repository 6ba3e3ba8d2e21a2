"""What single parts of the fast path are worth on this processor: folded teacher, fused optimisers, prefetched batches.

Each part is timed with and without, in turn (the order swapped every time), on the same inputs: float32, channels last.
Seconds of the processor beside seconds of the wall, because the machine may be shared; the ratio is the median of the
ratios of pairs, with their quartiles.

    OMP_NUM_THREADS=1 python benchmarks/fastpath.py [--repeats 25] [--threads 1] [--parts folding optimiser prefetch]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sapling.data.dataset import Dataset
from sapling.data.digits import DigitsSource
from sapling.data.layout import Item, many
from sapling.data.packed import PackedStore
from sapling.data.splits import Split
from sapling.data.viewspec import preset
from sapling.engine.optim import OptimSettings, make_optimizer
from sapling.engine.prefetch import ahead
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.record import environment, write_json
from sapling.teachers.folding import folded

SIZE, STORE, BATCH, CLASSES = 64, 74, 32, 10
TEACHERS = ("resnet34", "resnet50", "efficientnet_b0", "cnn4")
STUDENTS = ("resnet18", "cnn3")
Call = Callable[[], Any]


def timed(call: Call) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.process_time() - processor, time.perf_counter() - wall


def pair(without: Call, with_it: Call, repeats: int) -> dict[str, Any]:
    """Time two calls in turn; the first of each is not counted."""
    without(), with_it()
    rows = []
    for number in range(repeats):
        first, second = (without, with_it) if number % 2 else (with_it, without)
        a, b = timed(first), timed(second)
        rows.append((a, b) if number % 2 else (b, a))
    found: dict[str, Any] = {}
    for place, clock in enumerate(("processor", "wall")):
        old, new = ([row[k][place] for row in rows] for k in (0, 1))
        low, middle, high = statistics.quantiles((n / o for o, n in zip(old, new, strict=True)), n=4)
        found[clock] = {
            "without_ms": round(1e3 * statistics.median(old), 2),
            "with_ms": round(1e3 * statistics.median(new), 2),
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
    return found


def network(name: str) -> TappedModel:
    model = create_model(name, num_classes=CLASSES, img_size=SIZE, seed=0)
    tapped = TappedModel(model, Preprocess(SIZE, SIZE, (0.5,) * 3, (0.25,) * 3)).eval()
    return tapped.to(memory_format=torch.channels_last)


def batch_of() -> torch.Tensor:
    return torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)


def folding(repeats: int) -> dict[str, Any]:
    images, found = batch_of(), {}
    for name in TEACHERS:
        plain = network(name).requires_grad_(False)
        quick = folded(plain, images)
        with torch.no_grad():
            found[name] = pair(lambda n=plain: n(images), lambda n=quick: n(images), repeats)
        print("folding", name, found[name]["processor"], flush=True)
    return found


def optimiser(repeats: int) -> dict[str, Any]:
    found = {}
    for name in STUDENTS:
        for kind in ("sgd", "adamw"):
            student = network(name)
            fused = make_optimizer([student], OptimSettings(kind, 1e-6, 5e-4, "constant", 0, 1))
            # groups of its own: optimisers keep the dicts that they are given
            groups = [{**group, "fused": False, "foreach": False} for group in fused.param_groups]
            loop = type(fused)(groups, lr=1e-6)
            for parameter in student.parameters():
                parameter.grad = torch.rand_like(parameter)
            assert not any(group["fused"] for group in loop.param_groups)
            assert all(group["fused"] for group in fused.param_groups)
            found[f"{name} {kind}"] = pair(loop.step, fused.step, repeats)
            print("optimiser", name, kind, found[f"{name} {kind}"]["processor"], flush=True)
    return found


def prefetch(repeats: int) -> dict[str, Any]:
    """Training steps of a student on batches made in the loop, or one ahead in a thread."""
    pixels = np.random.default_rng(0).integers(0, 256, (2048, STORE, STORE, 3), dtype=np.uint8)
    items = tuple(Item(f"{k:04d}", k % CLASSES) for k in range(len(pixels)))
    source = DigitsSource("pixels", "pixels", "digits", tuple(map(str, range(CLASSES))), items)
    store = PackedStore(pixels, source.labels, tuple(i.key for i in items), STORE, "pixels", Path())
    everything = np.arange(len(pixels))
    found = {}
    for views in ("aerial", "photo"):
        data = Dataset(source, store, Split(everything, everything[:0], everything[:0]), SIZE, views, preset(views))
        student = network("cnn3").train()

        def steps(*, in_thread: bool, data: Dataset = data, student: TappedModel = student) -> None:
            batches = itertools.islice(data.train_batches(0, batch_size=BATCH, seed=0), 6)
            with ahead(batches, in_thread=in_thread) as ready:
                for batch in ready:
                    student(batch.images).logits.sum().backward()

        name = f"cnn3 {views}"
        found[name] = pair(lambda s=steps: s(in_thread=False), lambda s=steps: s(in_thread=True), repeats)
        print("prefetch", name, found[name], flush=True)
    return found


PARTS = {"folding": folding, "optimiser": optimiser, "prefetch": prefetch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fastpath.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in options.parts:
        load = os.getloadavg()
        results = PARTS[name](options.repeats)
        found[f"{name}, {many(options.threads, 'thread')}"] = {
            "environment": {**environment(), "threads": options.threads, "load": load},
            "settings": {"batch": BATCH, "pixels": SIZE, "repeats": options.repeats},
            "results": results,
        }
        write_json(options.output, found)


if __name__ == "__main__":
    main()
