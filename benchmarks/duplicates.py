"""Duplicates: planted copies found, missed, false alarms, in seconds; matches in untouched sets; likeness of groups.

Copies are made from the files as a person would make them (turned, encoded anew, resized ..), decoded like any other
file and added to the pictures in memory; nothing is written but the results. Originals come from the training part
of a split and the copies count to its test part, so that every planted pair lies across splits.

    python benchmarks/duplicates.py eurosat_rgb.zip aid_100.zip street_trees_lidar.zip digits
        [--seeds 3] [--each 30] [--sheets FOLDER] [--output benchmarks/results/duplicates.json]

Planting of broken files and of wrong extensions: see the table of `sapling inspect`, which adds to `plant`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy
from PIL import Image, ImageDraw

from sapling.data.duplicates import Match, clusters, find_matches
from sapling.data.namegroups import propose_group_pattern
from sapling.data.packed import PackedStore, native_size, open_store, prepare_image
from sapling.data.sources import Source, decode_image, open_source
from sapling.data.splits import make_split
from sapling.data.thumbnails import inverse, lay, thumbnails

T = Image.Transpose
TURNS = {"rotated 90": T.ROTATE_90, "rotated 180": T.ROTATE_180, "rotated 270": T.ROTATE_270}
QUALITIES = (30, 50, 75, 85, 95)


@dataclass(frozen=True)
class Planted:
    """A copy: what was done, the position of its original, how it lies, and its file."""

    kind: str
    original: int
    transform: str
    data: bytes


def encoded(image: Image.Image, quality: int | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG") if quality is None else image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize([max(2, round(side * factor)) for side in image.size], Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """A window of 1 - share of each side, anywhere."""
    width, height = (max(2, round(side * (1 - share))) for side in image.size)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def lit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    gain = rng.choice([0.75, 1.25])
    return image.point(lambda value: round(value * gain))


# Each takes a picture, a random generator and the number of the copy; gives file and transform.
KINDS: dict[str, Callable[[Image.Image, np.random.Generator, int], tuple[bytes, str]]] = {
    "mirrored (PNG)": lambda image, rng, k: (encoded(image.transpose(T.FLIP_LEFT_RIGHT)), "mirrored"),
    "recompressed (JPEG 30-95)": lambda image, rng, k: (encoded(image, QUALITIES[k % 5]), "none"),
    "rotated (PNG)": lambda image, rng, k: (encoded(image.transpose([*TURNS.values()][k % 3])), [*TURNS][k % 3]),
    "mirrored, JPEG 75": lambda image, rng, k: (encoded(image.transpose(T.FLIP_LEFT_RIGHT), 75), "mirrored"),
    "rotated, JPEG 75": lambda image, rng, k: (encoded(image.transpose(T.ROTATE_90), 75), "rotated 90"),
    "half size, JPEG 90": lambda image, rng, k: (encoded(scaled(image, 0.5), 90), "none"),
    "double size, JPEG 90": lambda image, rng, k: (encoded(scaled(image, 2), 90), "none"),
    "cropped by 3 %": lambda image, rng, k: (encoded(cropped(image, 0.03, rng)), "none"),
    "cropped by 5 %": lambda image, rng, k: (encoded(cropped(image, 0.05, rng)), "none"),
    "cropped by 5 %, turned, JPEG 85": lambda image, rng, k: (
        encoded(cropped(image, 0.05, rng).transpose(T.ROTATE_180), 85),
        "rotated 180",
    ),
    "brightness +-25 %": lambda image, rng, k: (encoded(lit(image, rng)), "none"),
} | {
    f"JPEG {quality}": lambda image, rng, k, quality=quality: (encoded(image, quality), "none")
    for quality in (95, 75, 50, 30)
}
REQUIRED = dict.fromkeys(("mirrored (PNG)", "recompressed (JPEG 30-95)", "rotated (PNG)"), 10)


def plant(source: Source, candidates: Sequence[int], counts: Mapping[str, int], seed: int) -> list[Planted]:
    """Make ``counts[kind]`` copies of each kind from different images among ``candidates``."""
    rng = np.random.default_rng(seed)
    picks = iter(rng.permutation(np.asarray(candidates)))
    planted = []
    for kind, count in counts.items():
        for k in range(count):
            original = int(next(picks))
            image = source.open(source.items[original]).convert("RGB")
            data, transform = KINDS[kind](image, rng, k)
            planted.append(Planted(kind, original, transform, data))
    return planted


def count(store: PackedStore, known: set[tuple[int, int]], planted: list[Planted]) -> dict[str, Any]:
    """Search the store with the copies added; what is found, missed and wrong."""
    total = len(store.images)
    copies = np.stack([prepare_image(decode_image(each.data), store.size) for each in planted])
    images = np.concatenate([store.images, copies])
    start, wall = time.process_time(), time.perf_counter()
    matches = find_matches(images)
    seconds = time.process_time() - start, time.perf_counter() - wall
    together = {image: group for group in clusters(len(images), matches) for image in group}
    lies = {(match.first, match.second): match.transform for match in matches}
    contrast = thumbnails(copies)[0].std((1, 2))
    rows: dict[str, Any] = {}
    for k, each in enumerate(planted):
        row = rows.setdefault(each.kind, {"planted": 0, "found": 0, "transform_right": 0, "missed_contrast": []})
        found = total + k in together.get(each.original, ())
        row["planted"] += 1
        row["found"] += found
        row["transform_right"] += lies.get((each.original, total + k)) == each.transform
        if not found:
            row["missed_contrast"].append(round(float(contrast[k]), 2))
    original = {total + k: each.original for k, each in enumerate(planted)}
    # A copy of an image may rightly match what its original matches.
    pairs = {(original.get(m.first, m.first), original.get(m.second, m.second)) for m in matches}
    false = sorted(pair for pair in pairs if pair[0] != pair[1] and tuple(sorted(pair)) not in known)
    return {
        "rows": rows,
        "false_alarms": [[store.keys[i] for i in pair] for pair in false],
        "processor_seconds": round(seconds[0], 1),
        "wall_seconds": round(seconds[1], 1),
    }


def sheet(store: PackedStore, matches: list[Match], path: Path) -> None:
    """Pairs side by side, the second laid onto the first, as they are and with stretched contrast."""
    side, columns = 112, 4
    page = Image.new("RGB", (columns * (4 * side + 8), max(1, -(-len(matches) // columns)) * (side + 14)), "white")
    for k, match in enumerate(matches):
        x, y = k % columns * (4 * side + 8), k // columns * (side + 14)
        second = lay(np.asarray(store.images[match.second]).transpose(2, 0, 1), inverse(match.transform))
        pair = [np.asarray(store.images[match.first]), second.transpose(1, 2, 0)]
        stretched = [(p - float(p.min())) / max(float(np.ptp(p)), 1) * 255 for p in pair]
        for place, pixels in enumerate((*pair, *stretched)):
            shown = Image.fromarray(np.ascontiguousarray(pixels).astype(np.uint8)).resize((side, side))
            page.paste(shown, (x + place * side, y + 12))
        label = f"{match.distance:.2f} {match.transform} {Path(store.keys[match.first]).stem}"
        ImageDraw.Draw(page).text((x, y), label.encode("ascii", "replace").decode(), fill="black")
    page.save(path)


def groups(store: PackedStore) -> dict[str, Any]:
    start = time.process_time()
    found = propose_group_pattern(store.keys, store.labels, store.images)
    seconds = round(time.process_time() - start, 2)
    if found is None:
        return {"pattern": None, "processor_seconds": seconds}
    return {
        "pattern": found.pattern,
        "groups": found.num_groups,
        "images": found.num_images,
        "likeness": found.likeness,
        "p_value": found.p_value,
        "processor_seconds": seconds,
    }


def measure(spec: str, options: argparse.Namespace) -> dict[str, Any]:
    source = open_source(spec)
    store = open_store(source, 32 if source.kind == "digits" else min(64, native_size(source)))
    start, wall = time.process_time(), time.perf_counter()
    matches = find_matches(store.images)
    result: dict[str, Any] = {
        "images": len(store.images),
        "size": store.size,
        "untouched": {
            "processor_seconds": round(time.process_time() - start, 1),
            "wall_seconds": round(time.perf_counter() - wall, 1),
            "clusters": len(clusters(len(store.images), matches)),
            "pairs": [[store.keys[m.first], store.keys[m.second], m.kind, m.transform, m.distance] for m in matches],
        },
        "group_pattern": groups(store),
    }
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)
        sheet(store, matches, options.sheets / f"{source.name}.png")
    print(
        f"\n{source.name}: {len(store.images):,} images of {store.size} px, {len(matches)} matches untouched, pattern"
    )
    print(f"  {result['group_pattern']}")
    known = {(m.first, m.second) for m in matches}
    candidates = [int(i) for i in make_split(source).train]
    harder = dict.fromkeys((kind for kind in KINDS if kind not in REQUIRED), options.each)
    result["planted"] = [count(store, known, plant(source, candidates, REQUIRED, k)) for k in range(options.seeds)]
    result["planted_harder"] = [count(store, known, plant(source, candidates, harder, 100))]
    print(f"  {'planted':34} {'copies':>6} {'found':>6} {'missed':>6}  contrast of the missed, in grey levels")
    for runs in (result["planted"], result["planted_harder"]):
        for kind in runs[0]["rows"]:
            rows = [run["rows"][kind] for run in runs]
            copies, found = (sum(row[name] for row in rows) for name in ("planted", "found"))
            missed = sorted(contrast for row in rows for contrast in row["missed_contrast"])
            print(f"  {kind:34} {copies:6} {found:6} {copies - found:6}  {missed}")
        print(f"  false alarms {[run['false_alarms'] for run in runs]}, {[run['processor_seconds'] for run in runs]} s")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/duplicates.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {
        "environment": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pillow": PIL.__version__,
            "processors": os.cpu_count(),
            "machine": platform.machine(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "load_average": os.getloadavg(),
        }
    }
    for spec in options.data:
        results[Path(spec).stem] = measure(spec, options)
    results["environment"]["load_average_after"] = os.getloadavg()
    results["environment"]["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
