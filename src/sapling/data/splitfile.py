"""Splits as files: what a run used is written as ``key,split`` and can be given to another run. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

import numpy as np

from sapling.data.layout import SPLIT_NAMES, expanded, printable
from sapling.data.sources import Source
from sapling.data.splits import PARTS, Split, check_parts, fingerprint_of
from sapling.data.table import Faults, Row, read_table
from sapling.errors import nearest


def split_text(source: Source, split: Split) -> bytes:
    """Write a split as the bytes of a CSV file ``key,split``, in the order of the keys.

    Args:
        source: the images.
        split: positions in ``source.items``.
    """
    parts = {int(i): part for part in PARTS for i in split.part(part)}
    file = io.StringIO(newline="")
    # Line ends of two letters: a file name may hold either, and is put in quotes then.
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(("key", "split"))
    writer.writerows((item.key, parts[i]) for i, item in enumerate(source.items) if i in parts)
    # A name that is no UTF-8 is written as the bytes that it is on the disk.
    return file.getvalue().encode("utf-8", errors="surrogateescape")


def read_split(path: str | Path, source: Source, *, num_unlisted: int = 0, skipped: Collection[str] = ()) -> Split:
    """Read the split of a source from a CSV file ``key,split``.

    Args:
        path: the file, for example ``split.csv`` of another run.
        source: the images; each stands in the file once, and no others.
        num_unlisted: so many images need not be in the file (they may turn out to be broken); they are in no
            part.
        skipped: keys of images that were taken out of the source, for the message.

    Raises:
        DataError: the file is no such table; it and the source do not hold the same images (the first 20 that
            differ are listed); a part is empty, or a class has no training image.
    """
    place = expanded(path)
    faults = Faults(place)
    rows, notes = read_table(place, faults, needed=("key", "split"), any_bytes=True)
    position = {item.key: i for i, item in enumerate(source.items)}
    lines: dict[str, int] = {}
    found: dict[str, list[int]] = {part: [] for part in PARTS}
    for row in rows:
        key, part = row.cells["key"], SPLIT_NAMES.get(row.cells["split"].lower())
        if wrong := _fault(row, part, lines, position, skipped):
            faults.add(row.line, wrong)
        elif part is not None:
            found[part].append(position[key])
        lines.setdefault(key, row.line)
    unlisted = [key for key in position if key not in lines]
    if len(unlisted) > num_unlisted:
        for key in unlisted:
            faults.add(None, f"the image {key!r} is not in the file")
    if not faults.found:
        for part in PARTS:
            if not found[part]:
                faults.add(None, f"no image is in {part}")
    faults.raise_any(remedy=f"give the split of these very images; their keys are such as {source.items[0].key!r}")
    arrays = {part: np.array(sorted(found[part]), dtype=np.int64) for part in PARTS}
    notes = (f"The split is that of the file {printable(str(path))}.", *notes, *check_parts(source, arrays))
    return Split(**arrays, notes=notes, fingerprint=fingerprint_of(source.items, arrays))


def _fault(
    row: Row, part: str | None, lines: dict[str, int], position: dict[str, int], skipped: Collection[str]
) -> str:
    """What is wrong with a row, or nothing."""
    key, name = row.cells["key"], row.cells["split"]
    if key in skipped:
        return f"the image {key!r} cannot be used and was skipped"
    if key not in position:
        return f"there is no image {key!r}"
    if key in lines:
        return f"the image {key!r} stands there twice, first in line {lines[key]}"
    if part is None:
        hint = nearest(name.lower(), SPLIT_NAMES) if name else ""
        return f"there is no split {name!r}; " + (hint or f"allowed: {', '.join(PARTS)}")
    return ""
