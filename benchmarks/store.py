"""The packed store: what starting costs, what changed data cost, and that it changes no prediction.

First start: open the source and build its store. Second start: open both again. Changed: a store of 99 % of the
images is there and the other 1 % come. Each is repeated in new cache folders, the data sets in turn (interleaved);
median and spread of wall seconds and of processor seconds (of this process), because the machine may be shared.

Equality: a cnn3 is trained for a few epochs on a subset; logits of its test images through the store
(``Dataset.eval_batches``) are compared with those from the original files (as ``sapling predict`` reads them), and
the top classes with what ``sapling predict`` says, with torch and with the exported ONNX file.

    python benchmarks/store.py [--data FOLDER_OF_ZIPS] [--repeats 3] [--every 3] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from sapling import train
from sapling.data.loader import load_data
from sapling.data.packed import native_size, open_store
from sapling.data.sources import Source, open_source
from sapling.data.storefile import fingerprint_of
from sapling.deploy.predict import open_classifier, predict, read_image
from sapling.evaluation.metrics import collect_logits
from sapling.models.load import load_model
from sapling.models.tapped import TappedModel

STEPS = ("first_start", "second_start", "one_percent_new", "one_percent_new_from_nothing", "full_hash")


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - wall, time.process_time() - processor, found


def unpack(archive: Path, target: Path, every: int = 1) -> Path:
    """Write every so many-th image of a zip of class folders below ``target``."""
    with zipfile.ZipFile(archive) as file:
        for name in sorted(n for n in file.namelist() if not n.endswith("/"))[::every]:
            place = target / "/".join(name.split("/")[-2:])
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read(name))
    return target


def pack_zip(folder: Path, archive: Path) -> Path:
    """A zip of all files below ``folder``."""
    with zipfile.ZipFile(archive, "w") as file:
        for place in sorted(folder.rglob("*.*")):
            file.write(place, place.relative_to(folder))
    return archive


def old_part(source: Source) -> Source:
    """The source before its last 1 % came (every 100th image)."""
    return replace(source, items=tuple(item for k, item in enumerate(source.items) if k % 100 != 50))


def measure(path: Path, size: int) -> dict[str, tuple[float, float]]:
    """All steps once, in a new cache."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def start(folder: Path) -> Any:
            return open_store(open_source(path), size, folder=folder)

        *found["first_start"], first = timed(lambda: start(root / "a"))
        *found["second_start"], _ = timed(lambda: start(root / "a"))
        *found["full_hash"], _ = timed(lambda: fingerprint_of(first.folder, first.images, first.labels))
        open_store(old_part(open_source(path)), size, folder=root / "b")
        *found["one_percent_new"], grown = timed(lambda: start(root / "b"))
        *found["one_percent_new_from_nothing"], _ = timed(lambda: start(root / "c"))
        assert grown.fingerprint == first.fingerprint
        assert (grown.folder / "images.npy").read_bytes() == (first.folder / "images.npy").read_bytes()
    return {step: tuple(seconds) for step, seconds in found.items()}


def starts(paths: dict[str, Path], repeats: int) -> dict[str, Any]:
    sizes = {name: native_size(open_source(path)) for name, path in paths.items()}
    runs: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in paths}
    for _ in range(repeats):
        for name, path in paths.items():
            runs[name].append(measure(path, sizes[name]))
    return {
        name: {
            "images": len(open_source(paths[name]).items),
            "store_size": sizes[name],
            **{step: summary([run[step] for run in each]) for step in STEPS},
        }
        for name, each in runs.items()
    }


def summary(seconds: list[tuple[float, float]]) -> dict[str, Any]:
    wall, processor = ([round(each[k], 3) for each in seconds] for k in (0, 1))
    return {
        "wall_seconds": {"median": statistics.median(wall), "all": wall},
        "processor_seconds": {"median": statistics.median(processor), "all": processor},
    }


def equality(folder: Path, work: Path, *, epochs: int) -> dict[str, Any]:
    """Train a small student and compare its answers through the store and from the files."""
    run = train(data=str(folder), student="cnn3", train={"epochs": epochs, "precision": "fp32"}, output=work)
    data = load_data(folder)
    loaded = load_model(work / "student")
    logits, labels = collect_logits(
        TappedModel(loaded.model, loaded.preprocess), data.eval_batches("test", batch_size=64)
    )
    files = [folder / data.source.items[k].key for k in data.split.test]
    found: dict[str, Any] = {
        "images": len(data.source.items),
        "test_images": len(files),
        "native_size": data.native,
        "store_size": data.store.size,
        "img_size": data.img_size,
        "accuracy_through_the_store": float((logits.argmax(1) == labels).mean()),
        "accuracy_of_the_run": run.results["members"][0]["test"]["top1"],
    }
    for name, model in (("torch", work / "student"), ("onnx", work / "student" / "model.onnx")):
        classifier = open_classifier(model)
        pixels = [read_image(f, img_size=classifier.img_size, store_size=classifier.store_size) for f in files]
        direct = np.concatenate([classifier.logits(np.stack(pixels[k : k + 64])) for k in range(0, len(pixels), 64)])
        said = [classes[0][0] for classes in (p.classes for p in predict(model, files, top=1))]
        found[name] = {
            "accuracy_from_the_files": float((direct.argmax(1) == labels).mean()),
            "largest_difference_of_logits": float(np.abs(direct - logits).max()),
            "same_predictions": bool([data.classes[k] for k in logits.argmax(1)] == said),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SAPLING_TEST_DATA", ".")))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=3, help="starts are timed on every so many-th image of EuroSAT")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/store.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    eurosat, aid = options.data / "eurosat_rgb.zip", options.data / "aid_100.zip"
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
        "repeats": options.repeats,
    }
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["SAPLING_CACHE"] = str(work / "cache")
        small = {
            "eurosat": equality(unpack(eurosat, work / "eurosat", every=30), work / "run1", epochs=4),
            "aid": equality(unpack(aid, work / "aid", every=8), work / "run2", epochs=2),
        }
        results["equality"] = small
        print(json.dumps(small, indent=1))
        folder = unpack(eurosat, work / "eurosat_folder", every=options.every)
        archive = pack_zip(folder, work / "eurosat.zip")
        results["starts"] = starts({"eurosat_zip": archive, "eurosat_folder": folder}, options.repeats)
        print(json.dumps(results["starts"], indent=1))
    results["environment"]["load_average_after"] = os.getloadavg()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
