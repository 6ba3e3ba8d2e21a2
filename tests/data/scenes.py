"""Pictures with something in them, so that copies can be known again and different ones are not mistaken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def scene(seed: int, side: int = 48) -> Image.Image:
    """A picture of soft blobs; another seed, another picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def write_scenes(root: Path, *, classes: tuple[str, ...] = ("oak", "lime"), each: int = 20, part: str = "") -> Path:
    """A folder with one scene per file, all different; ``part`` is the split folder."""
    for number, name in enumerate(classes):
        folder = root / part / name
        folder.mkdir(parents=True, exist_ok=True)
        offset = {"": 0, "train": 1000, "val": 2000, "test": 3000}[part] + 100 * number
        for k in range(each):
            scene(offset + k).save(folder / f"{name}{k:02d}.png")
    return root


def split_scenes(root: Path, *, each: int = 12) -> Path:
    """Train, val and test folders of different scenes: nothing crosses."""
    for part in ("train", "val", "test"):
        write_scenes(root, each=each, part=part)
    return root
