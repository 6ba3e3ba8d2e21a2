"""Small pictures, folders and zips for the tests of the data package; everything follows from a seed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sapling
from sapling.data.sources import FolderSource, Item, Source

REAL = Path(os.environ.get("SAPLING_TEST_DATA", "/nowhere"))


def real(name: str) -> Path:
    """A real data set, or a skipped test."""
    path = REAL / name
    if not path.exists():
        pytest.skip(f"needs {name}: set SAPLING_TEST_DATA to the folder that holds it")
    return path


def picture(seed: int = 0, width: int = 12, height: int = 12, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pictures(paths: Iterable[str], *, width: int = 12, height: int = 12) -> dict[str, bytes]:
    return {path: encoded(picture(k, width, height)) for k, path in enumerate(paths)}


def class_pictures(classes: Iterable[str] = ("cat", "dog"), each: int = 6, **size: int) -> dict[str, bytes]:
    return pictures((f"{name}/{name}_{k}.png" for name in classes for k in range(each)), **size)


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return root


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def listed_source(items: Iterable[Item], num_classes: int) -> Source:
    """A source that has items but no pictures: enough for splits."""
    classes = tuple(f"class {k}" for k in range(num_classes))
    return FolderSource("listed", "nowhere", "folder", classes, tuple(items))


def process_environment() -> dict[str, str]:
    """For other Python processes: they import the same copy of sapling and of the tests as this one."""
    paths = [str(Path(sapling.__file__).parents[1]), str(Path(__file__).parents[2])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=process_environment(), capture_output=True, text=True, check=True
    )
