"""Images that show the same picture: named, placed in a split, and joined into groups. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sapling.data.duplicates import Match, clusters
from sapling.data.layout import printable
from sapling.data.sources import Source
from sapling.data.splits import PARTS, Split, movable


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: key of one image.
        second: key of the other.
        classes: their class names.
        parts: the parts of the split that they are in; empty where they are in none.
        kind: ``exact`` or ``near``.
        transform: what was done to the second: ``none``, ``mirrored``, ``rotated 90``, ..
        distance: how far apart they are; 0 means equal.
    """

    first: str
    second: str
    classes: tuple[str, str]
    parts: tuple[str, str]
    kind: str
    transform: str
    distance: float

    @property
    def crosses(self) -> bool:
        """Whether they are in two parts of the split."""
        return self.parts[0] != self.parts[1] and all(self.parts)

    @property
    def disagrees(self) -> bool:
        """Whether one picture has two classes, or two sets of labels."""
        return self.classes[0] != self.classes[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {
            "images": [plain(self.first), plain(self.second)],
            "classes": list(self.classes),
            "parts": list(self.parts),
            "kind": self.kind,
            "transform": self.transform,
            "distance": round(float(self.distance), 4),
        }

    def __str__(self) -> str:
        names = [
            f"{printable(key)}" + (f" ({part})" if part else "")
            for key, part in zip((self.first, self.second), self.parts, strict=True)
        ]
        return " = ".join(names) + ("" if self.transform == "none" else f", {self.transform}")


def describe(source: Source, split: Split, matches: Iterable[Match]) -> tuple[Pair, ...]:
    """Matches by name: what crosses the split first, then what conflicts, then the nearest."""
    parts = parts_of(len(source.items), split)
    pairs = []
    for match in matches:
        a, b = source.items[match.first], source.items[match.second]
        pairs.append(
            Pair(
                a.key,
                b.key,
                (source.label_name(a), source.label_name(b)),
                (parts[match.first], parts[match.second]),
                match.kind,
                match.transform,
                match.distance,
            )
        )
    return tuple(
        sorted(pairs, key=lambda p: (not p.crosses, not p.disagrees, p.kind != "exact", p.distance, p.first, p.second))
    )


def keep_together(
    source: Source, matches: Sequence[Match], zones: npt.NDArray[np.int64]
) -> tuple[Source, list[tuple[int, ...]]]:
    """Make images that show one picture one group, joined with the groups that they are in already.

    Args:
        source: the images.
        matches: pairs of them that show one picture.
        zones: ``[N]``: only images of one zone are joined; between zones the split was given.

    Returns:
        The source with these groups, and the sets of images that show one picture (before they are joined
        with groups).
    """
    inside = [match for match in matches if zones[match.first] == zones[match.second]]
    sets = clusters(len(source.items), inside)
    # A group is one more edge between each of its images and the first of them.
    edges = list(inside)
    first: dict[str, int] = {}
    for i, item in enumerate(source.items):
        if item.group is not None and (start := first.setdefault(item.group, i)) != i:
            edges.append(Match(start, i, "exact", "none", 0.0))
    shown_once = {i for members in sets for i in members}
    names: dict[int, str] = {}
    for members in clusters(len(source.items), edges):
        if shown_once.isdisjoint(members):
            continue
        groups = sorted({group for i in members if (group := source.items[i].group) is not None})
        name = groups[0] if groups else f"same picture: {source.items[members[0]].key}"
        names.update(dict.fromkeys(members, name))
    items = tuple(replace(item, group=names[i]) if i in names else item for i, item in enumerate(source.items))
    return replace(source, items=items), sets


def zones_of(source: Source, split: Split, *, is_cut_here: bool) -> npt.NDArray[np.int64]:
    """``[N]``: the part of each image, and one zone for all images that may still be put anywhere."""
    zones = np.full(len(source.items), len(PARTS), dtype=np.int64)
    for number, part in enumerate(PARTS):
        zones[split.part(part)] = number
    if is_cut_here:
        zones[movable(source)] = len(PARTS) + 1
    return zones


def plain(name: str) -> str:
    """A name that can be written as UTF-8: bytes of another kind become their codes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return ascii(name)[1:-1]
    return name


def parts_of(num_items: int, split: Split) -> list[str]:
    """The part of each image; empty for images of no part."""
    names = [""] * num_items
    for part in PARTS:
        for i in split.part(part):
            names[int(i)] = part
    return names
