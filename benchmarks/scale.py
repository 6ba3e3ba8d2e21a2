"""Whether a million images cost more than a million images: start-up, memory and speed of batches beside 27,000.

A store of generated pictures is written as the packer would have written it (random tiles, again and again), with a
source that lists so many images. Every measurement runs in a process of its own: listing (items and stamp), cut of the
split, opening the store, `Dataset`, the first batch, then batches in turn of both sizes. Memory is that of the process,
pages of the memory map (which the system takes back when it wants) apart.

    python benchmarks/scale.py --folder FOLDER [--images 1000000 27000] [--repeats 3]

FOLDER gets 12.3 GB for the default and is left empty.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sapling.data.base import Source
from sapling.data.dataset import Dataset
from sapling.data.layout import Item
from sapling.data.packed import open_store
from sapling.data.recipe import Recipe
from sapling.data.splits import make_split
from sapling.data.storefile import FORMAT, IMAGES, row_check, write_header, write_rest
from sapling.data.viewspec import preset
from sapling.record import environment, write_json

SIDE, CLASSES, BATCH, BATCHES, TILES = 64, 10, 64, 300, 4096


@dataclass
class Generated(Source):
    """So many images that nobody can open: their pixels lie in a store already."""

    def open(self, item: Item) -> Image.Image:
        raise OSError(item.key)

    def _marks(self) -> Iterator[str]:
        return (f"{number} 1700000000000000000" for number in range(len(self.items)))


def listed(num: int) -> Generated:
    items = tuple(Item(f"class{k % CLASSES}/image{k:08d}.jpg", k % CLASSES) for k in range(num))
    return Generated("generated", "generated", "zip", tuple(f"class{k}" for k in range(CLASSES)), items)


def write_store(folder: Path, num: int) -> Path:
    """The files of a store of ``num`` pictures; its fingerprint is a made-up one, as nobody hashes it again."""
    source, recipe = listed(num), Recipe(SIDE)
    import hashlib

    mark = hashlib.sha256(f"{FORMAT} {recipe.text()} {source.stamp()}".encode()).hexdigest()[:16]
    place = folder / f"generated-{SIDE}-{mark}"
    if place.exists():
        return place
    building = folder / f".{place.name}"
    building.mkdir(parents=True)
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    checks = [row_check(tile) for tile in tiles]
    with (building / IMAGES).open("wb+") as file:
        write_header(file, (num, SIDE, SIDE, 3))
        for start in range(0, num, TILES):
            file.write(tiles[: num - start].data)
    meta = {
        "format": FORMAT,
        "mark": mark,
        "fingerprint": "generated",
        "recipe": recipe.as_dict(),
        "images": num,
        "skipped": [],
    }
    keys = [item.key for item in source.items]
    write_rest(building, meta, checks=(checks * -(-num // TILES))[:num], keys=keys, marks=list(source.content_marks()))
    building.rename(place)
    return place


def resident() -> dict[str, float]:
    """Megabytes of this process: its own, and pages of files."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            found[{"RssAnon": "own_mb", "RssFile": "files_mb"}[name]] = round(int(value.split()[0]) / 1000, 1)
    return found


def measure(folder: Path, num: int) -> dict[str, Any]:
    """One start with so many images, and its batches; to be called in a fresh process."""
    torch.set_num_threads(1)
    clock: dict[str, dict[str, float]] = {}
    found: dict[str, Any] = {"images": num, "before": resident(), "steps": clock}

    def step(name: str, call: Any) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        result = call()
        clock[name] = {
            "processor_seconds": round(time.process_time() - processor, 3),
            "wall_seconds": round(time.perf_counter() - wall, 3),
            **resident(),
        }
        return result

    source = step("list", lambda: listed(num))
    split = step("split", lambda: make_split(source))
    store = step("open_store", lambda: open_store(source, SIDE, folder=folder))
    if Path(store.folder).parent != folder:
        raise SystemExit("the generated store was not used")
    spec = preset("aerial")
    data = step("dataset", lambda: Dataset(source, store, split, SIDE, "aerial", spec))
    first = step("first_batch", lambda: next(data.train_batches(0, batch_size=BATCH, seed=0)))
    assert first.images.shape == (BATCH, 3, SIDE, SIDE)

    def epoch() -> None:
        for number, _ in enumerate(data.train_batches(1, batch_size=BATCH, seed=0)):
            if number == BATCHES:
                break

    # pages that were never read come from the disk; the second round of the same batches finds them in memory
    for name in ("batches_cold", "batches"):
        step(name, epoch)
        for key in ("processor", "wall"):
            clock[name][f"images_per_{key}_second"] = round(BATCHES * BATCH / clock[name][f"{key}_seconds"])
    step("card", data.card)
    found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1)
    return found


def in_process(folder: Path, num: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--folder", str(folder), "--measure", str(num)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and range of every figure of repeats."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": round(statistics.median(values), 3), "lowest": min(values), "highest": max(values)}

    steps = {
        name: {key: spread([row["steps"][name][key] for row in rows]) for key in rows[0]["steps"][name]}
        for name in rows[0]["steps"]
    }
    return {"steps": steps, "peak_mb": spread([row["peak_mb"] for row in rows])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="outside of the checkout, with room")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000_000, 27_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", type=int)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/scale.json"))
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    needed = sum(options.images) * SIDE * SIDE * 3
    if needed * 1.2 > shutil.disk_usage(options.folder).free:
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed in --folder")
    places = []
    try:
        places += [write_store(options.folder, num) for num in options.images]
        rows: dict[int, list[dict[str, Any]]] = {num: [] for num in options.images}
        for number in range(options.repeats):
            for num in options.images if number % 2 else options.images[::-1]:
                rows[num].append(in_process(options.folder, num))
                print(num, json.dumps(rows[num][-1]["steps"]), flush=True)
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
    found = {
        "environment": {**environment(), "threads": 1, "load": os.getloadavg()},
        "settings": {"side": SIDE, "batch": BATCH, "batches": BATCHES, "views": "aerial", "repeats": options.repeats},
        "results": {str(num): summary(of) for num, of in rows.items()},
    }
    write_json(options.output, found)


if __name__ == "__main__":
    main()
