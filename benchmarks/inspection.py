"""What ``sapling inspect`` finds, misses and imagines, and how long it takes.

Planted into a copy of EuroSAT: 12 broken files of 6 kinds, 5 files with a wrong ending, and copies of images of one
part of a given split in another (exact, mirrored, recompressed, turned). All names are known, so that found, missed
and false alarms can be counted. Then EuroSAT, AID and the trees as they are. Processor seconds stand beside wall
seconds, because the machine may be shared; first is without a store, second finds it.

    python benchmarks/inspection.py [--data FOLDER] [--output benchmarks/results/inspect.json]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import subprocess
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sapling.data.inspect import inspect_data
from sapling.data.sources import open_source
from sapling.data.splits import make_split
from sapling.errors import DataError
from sapling.record import environment
from sapling.workflows.inspect import inspect

SEED = 20260101
SETS = ("eurosat_rgb.zip", "aid_100.zip", "street_trees_lidar.zip")
PLANTED_PER_KIND = 10


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 400 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def wrong_checksum(image: Image.Image) -> bytes:
    data = bytearray(png(image))
    place = data.index(b"IDAT") + 40
    data[place] ^= 0xFF
    return bytes(data)


BROKEN: dict[str, tuple[str, Callable[[bytes, Image.Image], bytes]]] = {
    "truncated JPEG": ("jpg", lambda data, _: data[: len(data) // 2]),
    "no bytes": ("jpg", lambda *_: b""),
    "text renamed .jpg": ("jpg", lambda *_: b"this is a note, no image\n" * 20),
    "PNG with damaged data": ("png", lambda _, image: wrong_checksum(image)),
    "decompression bomb": ("png", lambda *_: bomb()),
    "HTML error page": ("jpg", lambda *_: b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"),
}
COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "exact": lambda image: png(image),
    "mirrored": lambda image: png(ImageOps.mirror(image)),
    "recompressed": lambda image: jpeg(image, 60),
    "rotated": lambda image: png(image.transpose(Image.Transpose.ROTATE_90)),
}


def plant(spec: Path, place: Path) -> dict[str, Any]:
    """Write a zip with a given split and everything planted; returns what was."""
    rng = np.random.default_rng(SEED)
    source = open_source(spec)
    split = make_split(source)
    planted: dict[str, Any] = {"broken": {}, "wrong_suffix": [], "copies": {}}
    with zipfile.ZipFile(spec) as archive, zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as out:
        names = {name.split("/", 1)[1]: name for name in archive.namelist() if name.count("/") > 1}
        read = {item.key: partial(archive.read, names.get(item.key, item.key)) for item in source.items}
        part_of = {source.items[int(i)].key: part for part in ("train", "val", "test") for i in split.part(part)}
        for item in source.items:
            out.writestr(f"data/{part_of[item.key]}/{item.key}", read[item.key]())
        train = [source.items[int(i)] for i in rng.permutation(split.train)]
        for kind, (suffix, make) in BROKEN.items():
            for k in range(2):
                item = train.pop()
                data = read[item.key]()
                key = f"train/{source.classes[item.label]}/broken_{kind.replace(' ', '_')}_{k}.{suffix}"
                out.writestr(f"data/{key}", make(data, Image.open(io.BytesIO(data)).convert("RGB")))
                planted["broken"][key] = kind
        for k in range(5):
            # A picture of its own: half of one image beside half of another.
            one, two = (Image.open(io.BytesIO(read[train.pop().key]())).convert("RGB") for _ in range(2))
            one.paste(two.crop((0, 0, one.width // 2, one.height)), (one.width // 2, 0))
            key = f"train/{source.classes[0]}/wrong_{k}.{'png' if k % 2 else 'jpg'}"
            out.writestr(f"data/{key}", jpeg(one) if k % 2 else png(one))
            planted["wrong_suffix"].append(key)
        for kind, change in COPIES.items():
            for k in range(PLANTED_PER_KIND):
                item = train.pop()
                image = Image.open(io.BytesIO(read[item.key]())).convert("RGB")
                suffix = "jpg" if kind == "recompressed" else "png"
                key = f"test/{source.classes[item.label]}/copy_{kind}_{k}.{suffix}"
                out.writestr(f"data/{key}", change(image))
                planted["copies"][key] = {"kind": kind, "of": f"train/{item.key}"}
    return planted


def row(name: str, planted: set[Any], found: set[Any]) -> dict[str, Any]:
    result = {
        "what": name,
        "planted": len(planted),
        "found": len(planted & found),
        "missed": sorted(map(str, planted - found)),
        "false_alarms": sorted(map(str, found - planted)),
    }
    print(f"  {name:28} {len(planted):>8} {result['found']:>6} {len(result['missed']):>7} {len(found - planted):>13}")
    return result


def count(spec: Path) -> dict[str, Any]:
    """Found, missed and false alarms of everything that was planted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "planted.zip")
        planted = plant(spec, path)
        started, processor = time.perf_counter(), time.process_time()
        card = inspect_data(path).card
        seconds = {
            "wall": round(time.perf_counter() - started, 1),
            "processor": round(time.process_time() - processor, 1),
        }
    # Pairs that the set has of itself cross the split as well: they are real, and listed beside.
    own = {frozenset(pair["images"]) for pair in card.duplicates.pairs if pair["parts"][0] != pair["parts"][1]}
    pairs = {frozenset((key, copy["of"])) for key, copy in planted["copies"].items()}
    print(f"  {'what':28} {'planted':>8} {'found':>6} {'missed':>7} {'false alarms':>13}")
    rows = [
        row(f"broken: {kind}", {k for k, v in planted["broken"].items() if v == kind},
            {image.key for image in card.broken if planted["broken"].get(image.key, kind) == kind})
        for kind in BROKEN
    ]  # fmt: skip
    rows.append(row("wrong ending", set(planted["wrong_suffix"]), {wrong.key for wrong in card.wrong_suffixes}))
    for kind in COPIES:
        wanted = {frozenset((k, c["of"])) for k, c in planted["copies"].items() if c["kind"] == kind}
        rows.append(row(f"copies across splits: {kind}", wanted, own & wanted))
    others = [pair for pair in card.duplicates.pairs if frozenset(pair["images"]) not in pairs]
    print(f"  pairs of the set itself: {len(others)}")
    reasons = {image.key: image.reason for image in card.broken}
    return {
        "rows": rows,
        "reasons": reasons,
        "other_pairs": [pair["images"] for pair in others],
        "findings": [f"{finding.severity}: {finding.text}" for finding in card.findings],
        "seconds": seconds,
    }


def timed(spec: Path) -> dict[str, Any]:
    """Seconds of the first look (no store, nothing searched) and of the second; and what was found."""
    result: dict[str, Any] = {"name": spec.name}
    before = os.environ.get("SAPLING_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SAPLING_CACHE"] = cache
        try:
            for which in ("first", "second"):
                started, processor = time.perf_counter(), time.process_time()
                card = inspect(spec, output=Path(cache, "page"))
                result[f"{which}_wall_seconds"] = round(time.perf_counter() - started, 1)
                result[f"{which}_processor_seconds"] = round(time.process_time() - processor, 1)
            result["page_megabytes"] = round(Path(cache, "page", "inspect.html").stat().st_size / 1e6, 2)
        finally:
            os.environ.pop("SAPLING_CACHE")
            if before is not None:
                os.environ["SAPLING_CACHE"] = before
    result["images"] = card.num_images
    result["findings"] = [f"{finding.severity}: {finding.text}" for finding in card.findings]
    print(
        f"{spec.name}: {card.num_images:,} images, first {result['first_wall_seconds']} s "
        f"({result['first_processor_seconds']} s of processor), again {result['second_wall_seconds']} s"
    )
    return result


def refused(spec: Path) -> dict[str, Any]:
    """What a run says to a split of the trees, image by image."""
    from sapling.config import build
    from sapling.screen import Screen
    from sapling.workflows.dataset import open_checked

    try:
        open_checked(build({"data": {"source": str(spec)}}), Screen(quiet=True))
    except DataError as error:
        print(error)
        return {"refused": True, "message": str(error)}
    return {"refused": False}


def main() -> None:
    """Run everything and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SAPLING_TEST_DATA"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "inspect.json")
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data, or set SAPLING_TEST_DATA")
    folder = Path(options.data)
    print(f"planted in {SETS[0]}")
    result = {
        "planted": count(folder / SETS[0]),
        "sets": [timed(folder / name) for name in SETS],
        "trees": refused(folder / SETS[2]),
        "environment": environment(),
        "load": os.getloadavg(),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
    }
    options.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
