"""What images cost: opening and packing a data set once, and making training batches from the store.

Processor seconds of one thread, because the machine may be shared; wall seconds beside them. Batches are timed
over whole epochs after one to warm up, views in turn (interleaved), median and spread of the repeats. The
reference is the ordinary way with the same views: decode each file with Pillow, crop, mirror, stack.

    python benchmarks/data_path.py DATA.. [--repeats 5] [--output benchmarks/results/data_path.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from sapling.data.loader import Dataset, load_data
from sapling.data.packed import native_size, open_store
from sapling.data.sources import VIEW_PRESETS, open_source
from sapling.data.splits import make_split

BATCH = 64
REFERENCE_IMAGES = 2048


def timed(call: Callable[[], Any]) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return {
        "wall_seconds": round(time.perf_counter() - wall, 3),
        "processor_seconds": round(time.process_time() - processor, 3),
    }


def epoch_speed(data: Dataset, epoch: int) -> float:
    start = time.process_time()
    images = sum(len(batch.labels) for batch in data.train_batches(epoch, batch_size=BATCH, seed=0))
    return images / (time.process_time() - start)


def ordinary_speed(data: Dataset) -> float:
    """Decode, crop and mirror file by file, without any cache."""
    rng = np.random.default_rng(0)
    side, start = data.img_size, time.process_time()
    picks = data.split.train[:REFERENCE_IMAGES]
    for first in range(0, len(picks), BATCH):
        views = []
        for index in picks[first : first + BATCH]:
            image = data.source.open(data.source.items[int(index)]).convert("RGB")
            if min(image.size) != data.store.size:
                image = image.resize((data.store.size, data.store.size), PIL.Image.Resampling.BICUBIC)
            pixels = np.pad(np.asarray(image), ((8, 8), (8, 8), (0, 0)), mode="reflect")
            y, x = rng.integers(0, pixels.shape[0] - side + 1, 2)
            view = pixels[y : y + side, x : x + side]
            views.append(view[:, ::-1] if rng.random() < 0.5 else view)
        torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).to(torch.float32).div_(255)
    return len(picks) / (time.process_time() - start)


def measure(path: str, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {"open_source": timed(lambda: open_source(path))}
    source = open_source(path)
    found |= {"images": len(source.items), "classes": len(source.classes), "native_size": native_size(source)}
    found["make_split"] = timed(lambda: make_split(source))
    found["first_start"] = timed(lambda: load_data(path))
    found["second_start"] = timed(lambda: load_data(path))
    data = load_data(path)
    found["reopen_store"] = timed(lambda: open_store(source, data.store.size))
    found |= {"img_size": data.img_size, "store_size": data.store.size}
    found["store_bytes"] = (data.store.folder / "images.npy").stat().st_size

    sets = {name: load_data(path, views=name) for name in VIEW_PRESETS}
    speeds: dict[str, list[float]] = {name: [] for name in sets}
    for epoch in range(repeats + 1):
        for name, each in sets.items():
            speed = epoch_speed(each, epoch)
            if epoch:
                speeds[name].append(speed)
    found["images_per_processor_second"] = {
        name: {"median": round(statistics.median(s)), "lowest": round(min(s)), "highest": round(max(s))}
        for name, s in speeds.items()
    }
    found["ordinary_images_per_processor_second"] = round(ordinary_speed(sets["light"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/data_path.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "processors": os.cpu_count(),
            "machine": platform.machine(),
            "torch_threads": 1,
            "load_average": os.getloadavg(),
        },
        "batch_size": BATCH,
        "repeats": options.repeats,
    }
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SAPLING_CACHE"] = cache
        for path in options.data:
            results[Path(path).stem] = found = measure(path, options.repeats)
            print(Path(path).stem, json.dumps(found, indent=1))
    results["environment"]["load_average_after"] = os.getloadavg()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
