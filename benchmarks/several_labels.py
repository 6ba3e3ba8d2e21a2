"""Claim: where images have several labels ``dist`` on sigmoids is worth no less than ``kd``, on real images.

    python benchmarks/several_labels.py FOLDER [--train 1500] [--dev 1000] [--epochs 30] [--seeds 5] [--threads 1]

No set of several labels is at hand, so images are made of real ones: four EuroSAT tiles, drawn with repetition from
two to four classes, side by side; the labels are the classes that are in it. Those to train come from train, the
others from dev (``sets.py``; test stays closed), half of them the run's validation, half what it measures. One teacher
(wrn_16_2_s2) for all. ``results/several_labels.json`` holds each method minus its control in mean average precision.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sets import open_dev

import sapling
from sapling.data.loader import Dataset
from sapling.record import environment, read_json, write_json

METHODS: dict[str, dict[str, Any]] = {"kd": {"name": "kd", "alpha": 0.1}, "dist": {"name": "dist"}}
SIDE, TILES = 32, 4


def mosaics(data: Dataset, part: str, count: int, folder: Path, rows: list[tuple[str, str, str]], seed: int) -> None:
    """``count`` images of ``part``, below ``folder``; what is in them goes to ``rows``."""
    rng = np.random.default_rng(seed)
    indices, labels = np.asarray(getattr(data.split, part)), np.asarray(data.labels(part))
    of = {k: indices[labels == k] for k in range(data.num_classes)}
    for n in range(count):
        classes = rng.choice(data.num_classes, rng.integers(2, TILES + 1), replace=False)
        drawn = rng.permutation(np.concatenate([classes, rng.choice(classes, TILES - len(classes))]))
        tiles = [np.asarray(data.store.images[int(rng.choice(of[int(k)]))]) for k in drawn]
        tiles = [np.asarray(Image.fromarray(t).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for t in tiles]
        whole = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
        name = f"{part}-{n:05}.png"
        Image.fromarray(whole).save(folder / name)
        split = "train" if part == "train" else ("val", "test")[n % 2]
        rows.append((name, ";".join(sorted(data.classes[int(k)] for k in classes)), split))


def make_images(folder: Path, num_train: int, num_dev: int) -> Path:
    """The set, made once."""
    listing = folder / "images.csv"
    if not listing.exists():
        folder.mkdir(parents=True, exist_ok=True)
        data = open_dev("eurosat", img_size=SIDE)
        rows: list[tuple[str, str, str]] = []
        mosaics(data, "train", num_train, folder, rows, seed=1)
        mosaics(data, "val", num_dev, folder, rows, seed=2)
        with listing.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "label", "split"), *rows])
    return listing


def main() -> None:
    """Make the images, train the teacher, then each method with its control."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, usual in (("train", 1500), ("dev", 1000), ("epochs", 30), ("seeds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    options = parser.parse_args()
    place = options.folder / f"mosaics-{options.train}-{options.dev}"
    data = {"source": str(make_images(place, options.train, options.dev)), "img_size": 2 * SIDE, "views": "aerial"}
    quick = {"onnx": False, "latency_seconds": 0}
    teacher = sapling.train(
        data=data,
        student="wrn_16_2_s2",
        train={"epochs": 40, "threads": options.threads},
        deploy=quick,
        output=str(options.folder / "teacher"),
    )
    rows = {}
    for method, settings in METHODS.items():
        run = sapling.distill(
            data=data,
            teacher=str(teacher.folder),
            student="cnn3",
            method=settings,
            train={"epochs": options.epochs, "num_seeds": options.seeds, "threads": options.threads},
            deploy=quick,
            output=str(options.folder / method),
        )
        results = read_json(run.folder / "results.json")
        rows[method] = {
            "verdict": results["comparison"]["verdict"],
            "teacher": results["teacher"]["test"],
            "members": {m["name"]: m["test"]["map"] for m in results["members"]},
        }
        print(method, run.statement, flush=True)
    write_json(
        Path(__file__).parent / "results" / "several_labels.json",
        {
            "claim": "dist on sigmoids against kd where images have several labels; mosaics of EuroSAT, dev",
            "settings": {k: v for k, v in vars(options).items() if k != "folder"},
            "methods": rows,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
