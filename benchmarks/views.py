"""What views cost: images per second of every preset, beside the usual pipeline of one image after the other.

Everything starts from decoded pictures in memory and ends with a uint8 batch, so decoding is not in it. The usual
pipeline is torchvision on Pillow images with the same kinds of augmentation (RandomResizedCrop, flip, ColorJitter,
RandAugment with 2 operations at 9, RandomErasing). Presets and pipelines are timed in turn (interleaved), medians and
spread of the repeats, after a round to warm up. One thread is timed in processor seconds, because the machine may be
shared; two threads in wall seconds, which other work disturbs: look at the fastest, too.

    python benchmarks/views.py [--repeats 15] [--output benchmarks/results/views.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from sapling.data.packed import default_store_size
from sapling.data.views import PRESETS, make_views

BATCH = 64
SIZES = (64, 128)


def usual(size: int) -> dict[str, Callable[[Image.Image], Any]]:
    """The same kinds of augmentation, per image, as most training scripts write them."""

    def photo(least: float) -> list[Any]:
        return [
            v2.RandomResizedCrop(size, scale=(least, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.3, 0.3, 0.3, 0.03),
        ]

    strong = [v2.RandAugment(2, 9), v2.PILToTensor(), v2.RandomErasing(0.25, (0.02, 0.25))]
    light = [v2.RandomCrop(size, padding=size // 8, padding_mode="reflect"), v2.RandomHorizontalFlip()]
    return {
        "light": v2.Compose([v2.CenterCrop(size), *light, v2.PILToTensor()]),
        "photo": v2.Compose([*photo(0.35), v2.PILToTensor()]),
        "strong": v2.Compose([*photo(0.25), *strong]),
    }


def measure(size: int, threads: int, repeats: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    side = default_store_size(size, 4 * size)
    stored = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8))
    index = torch.arange(BATCH)
    pictures = [Image.fromarray(picture.numpy()) for picture in stored]
    views = 0

    def batch_of(name: str) -> None:
        make_views(stored, index, torch.full_like(index, views), spec=PRESETS[name], view_seed=0, img_size=size)

    calls = {name: (lambda name=name: batch_of(name)) for name in PRESETS if name != "none"}
    pipelines = usual(size)
    if threads == 1:
        for name, pipeline in pipelines.items():
            calls[f"usual {name}"] = lambda pipeline=pipeline: torch.stack([pipeline(picture) for picture in pictures])
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            times = 1 if name.startswith("usual") else 8
            begun = clock()
            for _ in range(times):
                views += 1
                call()
            if repeat:
                seconds[name].append((clock() - begun) / times)
    light = statistics.median(seconds["light"])
    return {
        "store_size": side,
        "images_per_second": {
            name: {
                "median": round(BATCH / statistics.median(found)),
                "lowest": round(BATCH / max(found)),
                "highest": round(BATCH / min(found)),
                "times_light": round(statistics.median(found) / light, 2),
            }
            for name, found in seconds.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/views.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "processors": os.cpu_count(),
            "machine": platform.machine(),
            "load_average": os.getloadavg(),
        },
        "batch_size": BATCH,
        "repeats": options.repeats,
        "clock": {"1": "processor seconds", "2": "wall seconds"},
    }
    for size in SIZES:
        for threads in (1, 2):
            results[f"{size} px, {threads} thread{'s' * (threads > 1)}"] = found = measure(
                size, threads, options.repeats
            )
            print(size, threads, json.dumps(found["images_per_second"], indent=1))
    results["environment"]["load_average_after"] = os.getloadavg()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
