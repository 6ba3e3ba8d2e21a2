"""Rows of an older store that a new one may copy instead of decoding the files again. No torch.

A row is copied only where that gives the very bits that decoding would give: same recipe, same decoders, and a
content mark (see :mod:`sapling.data.marks`) that says that the file is the same. Labels do not matter: they belong
to the source. Each row is compared with its checksum while it is copied.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sapling.data.marks import is_content
from sapling.data.recipe import Recipe, decoder
from sapling.data.sources import Source
from sapling.data.storefile import CHECKED, hold, map_images, read_index, read_meta, read_rows, row_check

_MOST_EXAMINED = 8


@dataclass
class Reuse:
    """An older store, held so that nobody removes it, and which of its rows the images of a source are.

    Attributes:
        place: where it lies.
        images: its pixels.
        checks: CRC-32 of each of its rows.
        rows: ``[N]`` int64: row of each image of the source; -1 for those that must be decoded.
        handle: file descriptor of the lock.
    """

    place: Path
    images: npt.NDArray[np.uint8]
    checks: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.int64]
    handle: int

    def pixels(self, position: int) -> npt.NDArray[np.uint8] | None:
        """Pixels of an image of the source; None where they are not here, or damaged."""
        row = self.rows[position]
        if row < 0:
            return None
        pixels = np.array(self.images[row])
        return pixels if row_check(pixels) == self.checks[row] else None

    def close(self) -> None:
        """Let go of the store."""
        os.close(self.handle)


def find_rows(root: Path, source: Source, recipe: Recipe, *, avoid: Path) -> Reuse | None:
    """Find the older store of which most rows can be copied; of the likeliest few, for an index takes time to read.

    Args:
        root: folder of stores.
        source: the images that are to be packed.
        recipe: how they become pixels.
        avoid: the place of the store that is to be built.
    """
    marks = list(source.content_marks())
    best: Reuse | None = None
    for place in _candidates(root, source, recipe, avoid)[:_MOST_EXAMINED]:
        found = _match(place, source, recipe, marks)
        if found is None:
            continue
        if best is None or (found.rows >= 0).sum() > (best.rows >= 0).sum():
            found, best = best, found
        if found is not None:
            found.close()
        if best is not None and (best.rows >= 0).all():
            break
    if best is not None and (best.rows < 0).all():
        best.close()
        return None
    return best


def _candidates(root: Path, source: Source, recipe: Recipe, avoid: Path) -> list[Path]:
    """Stores of this recipe: those of the same data first, then the last used."""
    found: list[tuple[bool, float, Path]] = []
    for place in root.iterdir():
        if place.name.startswith(".") or place == avoid:
            continue
        meta = read_meta(place)
        if meta is None or not _fits(meta, source, recipe):
            continue
        try:
            used = (place / CHECKED).stat().st_mtime
        except OSError:
            used = 0.0
        found.append((meta["location"] == source_location(source), used, place))
    return [place for _, _, place in sorted(found, reverse=True)]


def _fits(meta: dict[str, Any], source: Source, recipe: Recipe) -> bool:
    same = (meta["recipe"], meta["decoder"], meta["kind"]) == (recipe.as_dict(), decoder(), source.kind)
    # Marks of other kinds of source mean something inside of one data set only.
    return same and (is_content(source) or meta["location"] == source_location(source))


def _match(place: Path, source: Source, recipe: Recipe, marks: list[str]) -> Reuse | None:
    handle = hold(place)
    if handle is None:
        return None
    reuse = None
    try:
        meta = read_meta(place)
        index = read_index(place, meta) if meta is not None else None
        checks = read_rows(place, meta) if meta is not None else None
        if meta is not None and index is not None and checks is not None and _fits(meta, source, recipe):
            shape = (len(checks), recipe.size, recipe.size, recipe.num_channels)
            images = map_images(place, shape)
            if images is not None and len(index[0]) == len(checks):
                reuse = Reuse(place, images, checks, _rows(source, marks, *index), handle)
    finally:
        if reuse is None:
            os.close(handle)
    return reuse


def _rows(source: Source, marks: list[str], old_keys: list[str], old_marks: list[str]) -> npt.NDArray[np.int64]:
    by_key = {key: row for row, key in enumerate(old_keys)}
    by_name: dict[tuple[str, str], int] = {}
    if is_content(source):
        # Under another folder, too: the name of the file beside the mark makes a chance meeting of marks unlikely.
        by_name = {
            (posixpath.basename(key), mark): row
            for row, (key, mark) in enumerate(zip(old_keys, old_marks, strict=True))
        }
    rows = np.full(len(marks), -1, dtype=np.int64)
    for position, (item, mark) in enumerate(zip(source.items, marks, strict=True)):
        row = by_key.get(item.key, -1)
        if row < 0 or old_marks[row] != mark:
            row = by_name.get((posixpath.basename(item.key), mark), -1)
        rows[position] = row
    return rows


def source_location(source: Source) -> str:
    """Where the images come from, absolute and without links where that is a path."""
    return str(Path(source.location).resolve()) if is_content(source) else source.location
