"""Train, validation and test: given by the source, or cut stratified, seeded and by group. No torch.

Which images go where follows from a hash of (seed, key or group), not from their order: the same images are
split in the same way from a zip and from a folder, and a new image hardly moves the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sapling.data.groups import propose_pattern
from sapling.data.layout import LAYOUTS, many
from sapling.data.sources import Item, Source
from sapling.data.stratify import deal_out
from sapling.errors import ConfigError, DataError

Indices = npt.NDArray[np.int64]
PARTS = ("train", "val", "test")
_ATTEMPTS = 20


@dataclass(frozen=True)
class Split:
    """Positions of the images of each part, ascending.

    Attributes:
        train: what students learn from.
        val: what choices are made on.
        test: opened once, at the end; no choice is ever made on it.
        notes: what was decided, one sentence each.
        fingerprint: sha256 of keys and parts; independent of the order of the items.
    """

    train: Indices
    val: Indices
    test: Indices
    notes: tuple[str, ...] = ()
    fingerprint: str = field(default="", compare=False)

    def part(self, name: str) -> Indices:
        """Choose the part called ``train``, ``val`` or ``test``."""
        if name not in PARTS:
            raise ConfigError(f"there is no split {name!r}", allowed=", ".join(PARTS))
        indices: Indices = getattr(self, name)
        return indices


def make_split(source: Source, *, val_share: float = 0.15, test_share: float = 0.15, seed: int = 0) -> Split:
    """Split the images of a source.

    Given splits stay as they are. Where only ``val`` is given it becomes *test*, because choices would be
    made on it otherwise, and a validation part is cut from ``train``. What is cut is stratified by class
    (largest remainders, so that the parts have the sizes that were asked for; of several labels per image by
    :mod:`sapling.data.stratify`) and never parts a group.

    Args:
        source: the images.
        val_share: share of the images to cut for validation (of ``train`` where a test part is given).
        test_share: share of the images to cut for test, where none is given.
        seed: another seed, another cut.

    Raises:
        ConfigError: shares out of range.
        DataError: a class with too few images (or groups), or without any training image.
    """
    if not (0 < val_share < 1 and 0 < test_share < 1 and val_share + test_share < 1):
        raise ConfigError(
            f"val_share is {val_share} and test_share {test_share}",
            allowed="each above 0, and together below 1, so that something is left for training",
        )
    items = source.items
    given = {part: [i for i, item in enumerate(items) if item.split == part] for part in PARTS}
    free = [i for i, item in enumerate(items) if item.split is None]
    notes: list[str] = []
    if given["val"] and not given["test"]:
        given["test"], given["val"] = given["val"], []
        notes.append("The given val split is used as test; validation is cut from train.")

    pool = given["train"] + free
    base = "train" if len(free) < len(items) else "all images"
    if not pool:
        raise DataError("there is no training image", where=source.location, allowed=LAYOUTS)
    wanted = {"test": test_share, "val": val_share}
    wanted = {part: share for part, share in wanted.items() if not given[part]}
    if wanted:
        notes += _ungrouped(source)
        cut = (_cut_by_labels if source.multi_label else _cut)(source, pool, wanted, seed)
        for part, indices in cut.items():
            given[part] = indices
        shares = " and ".join(f"{100 * share:.0f} % for {part}" for part, share in wanted.items())
        by = "all labels" if source.multi_label else "class"
        notes.append(f"Cut from {base}, stratified by {by}, seed {seed}: {shares}.")
    else:
        given["train"] = pool
    arrays = {part: np.array(sorted(given[part]), dtype=np.int64) for part in PARTS}
    notes += check_parts(source, arrays)
    return Split(**arrays, notes=tuple(notes), fingerprint=fingerprint_of(items, arrays))


def movable(source: Source) -> list[int]:
    """Positions of the images that :func:`make_split` may put into one part or another; the others are given."""
    given = {item.split for item in source.items}
    if {"val", "test"} <= given:
        return []
    return [i for i, item in enumerate(source.items) if item.split in (None, "train")]


def _ungrouped(source: Source) -> list[str]:
    """Warn where the names speak of groups that nobody told about."""
    if any(item.group is not None for item in source.items):
        return []
    pattern = propose_pattern(source.items)
    if pattern is None:
        return []
    name = source.items[0].key
    looks = f"Leak? Names such as {name!r} look like several images of one thing, and the split parts them"
    return [f"{looks}; the group pattern {pattern!r} keeps them together."]


def _cut(source: Source, pool: list[int], wanted: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Cut ``wanted`` from ``pool``; what is left is train."""
    units = units_of(source, pool)
    by_class: dict[int, list[str]] = defaultdict(list)
    for name, members in units.items():
        if len(members) == 1:
            by_class[source.items[members[0]].label].append(name)
            continue
        labels = Counter(source.items[i].label for i in members)
        # A group of several classes counts to the one that it has most of.
        by_class[min(labels, key=lambda label: (-labels[label], label))].append(name)

    _check_sizes(source, by_class, parts=len(wanted) + 1)
    sizes = {label: sum(len(units[name]) for name in names) for label, names in by_class.items()}
    cut: dict[str, list[int]] = {part: [] for part in (*wanted, "train")}
    targets = {part: _targets(sizes, share) for part, share in wanted.items()}
    for label, names in sorted(by_class.items()):
        waiting = deque(sorted(names, key=lambda name: _rank(seed, name)))
        parts_left = len(wanted)
        for part in wanted:
            taken = 0
            # Every later part, and train, keeps at least one unit.
            while len(waiting) > parts_left:
                members = units[waiting[0]]
                # The unit that would overshoot by more than it falls short without it stays out.
                if taken and taken + len(members) / 2 > targets[part][label]:
                    break
                cut[part] += members
                taken += len(members)
                waiting.popleft()
                if taken >= targets[part][label]:
                    break
            parts_left -= 1
        cut["train"] += [i for name in waiting for i in units[name]]
    return cut


def units_of(source: Source, pool: list[int]) -> dict[str, list[int]]:
    """Images that must not part ways, by a name of their own."""
    units: dict[str, list[int]] = defaultdict(list)
    for i in pool:
        item = source.items[i]
        # One letter in front, so that a group and an image of the same name stay two units.
        units[f"g{item.group}" if item.group is not None else f"k{item.key}"].append(i)
    return units


def _cut_by_labels(source: Source, pool: list[int], wanted: dict[str, float], seed: int) -> dict[str, list[int]]:
    """As :func:`_cut`, for images of several labels: every label is in every part."""
    units, targets = units_of(source, pool), source.targets
    names = list(units)
    by_label: dict[int, list[str]] = defaultdict(list)
    for name in names:
        for label in np.flatnonzero(targets[units[name]].any(0)):
            by_label[int(label)].append(name)
    _check_sizes(source, by_label, parts=len(wanted) + 1)
    parts = (*wanted, "train")
    shares = np.array([*wanted.values(), 1 - sum(wanted.values())])
    for attempt in range(_ATTEMPTS):
        # A label may run out before its turn, with images of rarer ones: another order is tried then.
        names.sort(key=lambda name: _rank(seed, name if attempt == 0 else f"{attempt}\0{name}"))
        counts = np.stack([targets[units[name]].sum(0, dtype=np.int64) for name in names])
        placed = deal_out(counts, np.array([len(units[name]) for name in names]), shares)
        if all((counts[placed == k] > 0).any(0).all() for k in range(len(parts))):
            break
    else:
        lacking = {int(label) for k in range(len(parts)) for label in np.flatnonzero(~(counts[placed == k] > 0).any(0))}
        raise DataError(
            f"no split was found in which every part has every label: {', '.join(source.classes[k] for k in lacking)}",
            where=source.location,
            remedy="add images of these labels, leave the labels out, or give the splits in a column split",
        )
    return {
        part: [i for name, at in zip(names, placed, strict=True) if at == k for i in units[name]]
        for k, part in enumerate(parts)
    }


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode(errors="surrogateescape"), digest_size=16).digest()


def _targets(sizes: dict[int, int], share: float) -> dict[int, int]:
    """Images to take of each class: exact in sum, at most one off in each (largest remainders)."""
    exact = {label: size * share for label, size in sizes.items()}
    # Rounded to nine places: 3000 * 0.15 must not be 449.99999999999994.
    targets = {label: int(round(value, 9)) for label, value in exact.items()}
    missing = round(sum(sizes.values()) * share) - sum(targets.values())
    by_remainder = sorted(sizes, key=lambda label: (targets[label] - round(exact[label], 9), label))
    for label in by_remainder[: max(missing, 0)]:
        targets[label] += 1
    return targets


def whole(source: Source) -> Split:
    """Put every image into *test*: for data that nothing was trained on and nothing will be."""
    nothing, everything = np.array([], dtype=np.int64), np.arange(len(source.items), dtype=np.int64)
    parts = {"train": nothing, "val": nothing, "test": everything}
    return Split(nothing, nothing, everything, fingerprint=fingerprint_of(source.items, parts))


def _check_sizes(source: Source, by_class: dict[int, list[str]], parts: int) -> None:
    small = [
        f"{source.classes[label]} ({len(by_class.get(label, ()))})"
        for label in range(len(source.classes))
        if len(by_class.get(label, ())) < parts
    ]
    if small:
        grouped = any(item.group is not None for item in source.items)
        what = "groups of images" if grouped else "images"
        raise DataError(
            ("1 class has" if len(small) == 1 else f"{len(small)} classes have")
            + f" too few {what} to be split: {', '.join(small[:10])}"
            + (", .." if len(small) > 10 else ""),
            where=source.location,
            allowed=f"{parts} or more in each class, one for each of {parts} parts",
            remedy="add images, merge or remove these classes, or give the splits as folders",
        )


def check_parts(source: Source, parts: dict[str, Indices]) -> list[str]:
    """Raise on a split that cannot be trained on, and note what should be known of it.

    Raises:
        DataError: a class without a training image.
    """
    notes = []
    counts = {part: source.count_labels(i) for part, i in parts.items()}
    untrained = _names(source, counts["train"] == 0)
    if untrained:
        raise DataError(
            f"classes without a training image: {untrained}",
            where=source.location,
            remedy="move images of these classes into train, or remove the classes",
        )
    for part in ("val", "test"):
        if missing := _names(source, counts[part] == 0):
            notes.append(f"Classes without an image in {part}: {missing}.")
    homes: dict[str, set[str]] = defaultdict(set)
    for part, indices in parts.items():
        for i in indices:
            if (group := source.items[int(i)].group) is not None:
                homes[group].add(part)
    if torn := sorted(group for group, where in homes.items() if len(where) > 1):
        # Only a given split can do this: what is cut here keeps groups together.
        notes.append(f"Leak: {many(len(torn), 'group')} with images in more than one split, for example {torn[0]!r}.")
    return notes


def _names(source: Source, chosen: npt.NDArray[np.bool_]) -> str:
    names = [name for name, yes in zip(source.classes, chosen, strict=True) if yes]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def fingerprint_of(items: Sequence[Item], parts: dict[str, Indices]) -> str:
    """Identity of a split: sha256 of keys and parts, whatever the order of the items."""
    lines = [f"{items[int(i)].key}\0{part}" for part in PARTS for i in parts[part]]
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()
