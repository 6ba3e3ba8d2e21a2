"""Folds of the training images: each is answered by the one teacher that never trained on it. No torch.

Cross-fitting (Chernozhukov et al. 2018, section 3; Wolpert 1992 for stacking): the training images are cut into N
folds, teacher k is trained on all but fold k, and its answers there are those that it would give to new images.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from sapling.data.sources import Source
from sapling.data.splits import Indices, units_of
from sapling.data.stratify import deal_out
from sapling.data.table import Faults, read_table
from sapling.errors import ConfigError, DataError

FOLDS_FILE = "folds.csv"
NO_FOLD = -1
"""Of images that are no training images: every teacher may answer them."""


def make_folds(source: Source, train: Indices, num_folds: int, *, seed: int = 0) -> Indices:
    """Cut the training images into folds, stratified; a group stays in one fold, as in a split.

    A pure function of keys, groups, labels and seed. Within a class the largest groups are dealt out first, each to
    the fold that has the fewest images of the class (of these to the smallest fold); of several labels per image by
    :func:`sapling.data.stratify.deal_out`.

    Args:
        source: all images.
        train: positions of the training images.
        num_folds: N, 2 or more.
        seed: another seed, another cut.

    Returns:
        ``[len(source.items)]``: number of the fold, 0 to N - 1, or -1 for images that are not in ``train``.

    Raises:
        ConfigError: fewer than two folds.
        DataError: a class has all its training images in one fold, so that one teacher would never see it.
    """
    if num_folds < 2:
        raise ConfigError(f"the number of folds is {num_folds}", allowed="2 or more")
    units = units_of(source, train.tolist())
    order = sorted(units, key=lambda name: (-len(units[name]), _rank(seed, name)))
    placed = (
        _by_labels(source, units, order, num_folds)
        if source.multi_label
        else _by_class(source, units, order, num_folds)
    )
    folds = np.full(len(source.items), NO_FOLD, dtype=np.int64)
    for name, fold in placed.items():
        folds[units[name]] = fold
    everything, lacking = source.count_labels(train), set[int]()
    for fold in range(num_folds):
        rest = source.count_labels(train[folds[train] != fold])
        lacking.update(np.flatnonzero((everything > 0) & (rest == 0)).tolist())
    if lacking:
        raise DataError(
            f"a teacher would train without a single image of {', '.join(source.classes[k] for k in sorted(lacking))}: "
            "all its training images are in one fold",
            where=source.location,
            allowed="training images (or groups of them) for two folds or more in each class",
            remedy="add images of these classes, or do without teacher.cross_fit",
        )
    return folds


def _by_class(source: Source, units: dict[str, list[int]], order: list[str], num_folds: int) -> dict[str, int]:
    by_class: dict[int, list[str]] = defaultdict(list)
    for name in order:
        labels = Counter(source.items[i].label for i in units[name])
        by_class[min(labels, key=lambda label: (-labels[label], label))].append(name)
    sizes = [0] * num_folds
    placed: dict[str, int] = {}
    for _, names in sorted(by_class.items()):
        counts = [0] * num_folds
        for name in names:
            fold = min(range(num_folds), key=lambda k: (counts[k], sizes[k], k))
            placed[name] = fold
            counts[fold] += len(units[name])
            sizes[fold] += len(units[name])
    return placed


def _by_labels(source: Source, units: dict[str, list[int]], order: list[str], num_folds: int) -> dict[str, int]:
    targets = source.targets
    counts = np.stack([targets[units[name]].sum(0, dtype=np.int64) for name in order])
    sizes = np.array([len(units[name]) for name in order])
    placed = deal_out(counts, sizes, np.full(num_folds, 1 / num_folds))
    return {name: int(fold) for name, fold in zip(order, placed, strict=True)}


def _rank(seed: int, name: str) -> bytes:
    # Another hash than that of the split, whose order within a class is used up already.
    return hashlib.blake2b(f"fold\0{seed}\0{name}".encode(errors="surrogateescape"), digest_size=16).digest()


def folds_text(source: Source, folds: Indices) -> bytes:
    """Write folds as the bytes of a CSV file ``key,fold``, in the order of the images."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(("key", "fold"))
    writer.writerows((item.key, fold) for item, fold in zip(source.items, folds.tolist(), strict=True) if fold >= 0)
    return file.getvalue().encode("utf-8", errors="surrogateescape")


def read_folds(path: str | Path, source: Source, train: Indices, num_folds: int) -> Indices:
    """Read folds from a CSV file ``key,fold`` that names each training image once and no other image.

    Args:
        path: the file.
        source: all images.
        train: positions of the training images.
        num_folds: N.

    Returns:
        As :func:`make_folds`.

    Raises:
        DataError: it is no such table, or is of other images; the first 20 faults are listed.
    """
    place = Path(path)
    faults = Faults(place)
    rows, _ = read_table(place, faults, needed=("key", "fold"), any_bytes=True)
    position = {source.items[i].key: i for i in train.tolist()}
    folds = np.full(len(source.items), NO_FOLD, dtype=np.int64)
    allowed = {str(k): k for k in range(num_folds)}
    for row in rows:
        key, fold = row.cells["key"], allowed.get(row.cells["fold"])
        if key not in position:
            faults.add(row.line, f"there is no training image {key!r}")
        elif fold is None:
            faults.add(row.line, f"there is no fold {row.cells['fold']!r}; allowed: 0 to {num_folds - 1}")
        elif folds[position[key]] != NO_FOLD:
            faults.add(row.line, f"the image {key!r} stands there twice")
        else:
            folds[position[key]] = fold
    if not faults.found:
        for key, i in position.items():
            if folds[i] == NO_FOLD:
                faults.add(None, f"the training image {key!r} is not in the file")
    faults.raise_any(remedy="these folds are of other images; put the old file back, or start with another --output")
    return folds
