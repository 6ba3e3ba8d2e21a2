"""What crosses a split that must not: the same picture, or images of one group, in training and in test. No torch.

Where the split is made here, images that show the same picture are kept together and nothing can cross. Where
it was given, and where names and pictures speak of groups that nobody told about, the run stops, unless it is
allowed to go on and says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

import numpy as np

from sapling.data.duplicates import Match
from sapling.data.groups import with_groups
from sapling.data.layout import many, printable
from sapling.data.namegroups import NamePattern
from sapling.data.packed import PackedStore
from sapling.data.pairs import Pair, describe, keep_together, parts_of, plain, zones_of
from sapling.data.similar import find_duplicates, find_pattern
from sapling.data.sources import Item, Source
from sapling.data.splits import PARTS, Split
from sapling.errors import DataError

VERSION = 1
WARNED = ("Leak", "Conflict")
"""How the notes begin that belong into every report's warnings."""

_SHOWN, _LISTED, _KEPT = 5, 20, 50
_ON = "--allow-leaks goes on all the same, and the report says so"


@dataclass(frozen=True, slots=True)
class Leak:
    """One way in which test or validation images were seen in training.

    Attributes:
        text: one clause.
        remedy: what to do about it.
        examples: pairs or groups.
    """

    text: str
    remedy: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaks:
    """What was found in the images of a run.

    Attributes:
        found: what crosses the split; empty where nothing does.
        allowed: whether the run was told to go on all the same.
        crossing: pairs that show one picture in two parts.
        conflicts: pairs that show one picture in two classes.
        torn: groups with images in more than one part.
        pattern: the group pattern that names and pictures ask for, where no groups are known.
        torn_by_pattern: how many of its groups have images in more than one part.
        num_kept: how many sets of images are kept in one part because they show one picture.
        num_kept_images: how many images these are.
        num_exact: pairs with the same pixels.
        num_near: pairs with nearly the same.
    """

    found: tuple[Leak, ...]
    allowed: bool
    crossing: tuple[Pair, ...]
    conflicts: tuple[Pair, ...]
    torn: tuple[str, ...]
    pattern: NamePattern | None
    torn_by_pattern: int
    num_kept: int
    num_kept_images: int
    num_exact: int
    num_near: int

    def as_dict(self) -> dict[str, Any]:
        """The ``leaks`` block of ``data.json``; of long lists the beginning."""
        return {
            "version": VERSION,
            "found": [leak.text for leak in self.found],
            "allowed": self.allowed,
            "crossing": {"pairs": len(self.crossing), "examples": [p.as_dict() for p in self.crossing[:_KEPT]]},
            "conflicts": {"pairs": len(self.conflicts), "examples": [p.as_dict() for p in self.conflicts[:_KEPT]]},
            "torn_groups": {"groups": len(self.torn), "examples": [plain(name) for name in self.torn[:_KEPT]]},
            "pattern": None
            if self.pattern is None
            else {"pattern": self.pattern.pattern, "groups": self.pattern.num_groups, "torn": self.torn_by_pattern},
            "kept_together": {"sets": self.num_kept, "images": self.num_kept_images},
            "duplicates": {"exact": self.num_exact, "near": self.num_near},
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """Images and split as they are to be used, and what was found.

    Attributes:
        source: the images; those that show one picture are one group.
        split: their parts.
        leaks: what was found.
        pairs: all pairs that show one picture.
    """

    source: Source
    split: Split
    leaks: Leaks
    pairs: tuple[Pair, ...]

    def stop_unless_allowed(self) -> None:
        """Refuse what leaks.

        Raises:
            DataError: with everything that crosses the split, examples, and what to do.
        """
        if self.leaks.found and not self.leaks.allowed:
            raise refusal(self.source, self.leaks.found)


def refusal(source: Source, found: Sequence[Leak], *, by_data: bool = True) -> DataError:
    """The error that stops a run on what leaks.

    Args:
        source: the images.
        found: what leaks.
        by_data: whether a look at the data shows it, and another split of them mends it.
    """
    what = "what is tested was seen in training, so every figure would be too good:"
    for leak in found:
        what += f"\n  - {leak.text}" + "".join(f"\n      {example}" for example in leak.examples[:_SHOWN])
    remedies = list(dict.fromkeys(leak.remedy for leak in found))
    look = f"sapling inspect {quote(source.location)}{source.options} shows it all and writes a split without it"
    remedies = [*remedies, *([look] if by_data else []), _ON]
    return DataError(what, where=source.location, remedy="\n  or:      ".join(remedies))


def check_leaks(
    source: Source,
    split: Split,
    store: PackedStore,
    *,
    recut: Callable[[Source], Split] | None,
    allow: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Search for images that cross the split, and keep together what can be kept together.

    Args:
        source: the images, in the order of the store.
        split: their parts.
        store: their pixels.
        recut: makes the split anew; None where all of it was given.
        allow: whether to go on where something crosses.
        progress: is called with (done, in all) while searching.

    Raises:
        DataError: images that show one picture leave too few to make a split of.
    """
    matches = find_duplicates(store, progress=progress)
    grouped = all(item.group is not None for item in source.items)
    pattern = None if grouped or source.kind == "digits" else find_pattern(source, store)
    torn = torn_groups(source.items, split)
    joined, kept = keep_together(source, matches, zones_of(source, split, is_cut_here=recut is not None))
    if kept and recut is not None:
        try:
            split = recut(joined)
        except DataError as error:
            if not allow:
                look = f"sapling inspect {quote(source.location)}{source.options} lists them"
                raise DataError(
                    f"images that show the same picture must stay in one split, and then {error.what}",
                    where=error.where,
                    allowed=error.allowed,
                    remedy=f"remove the copies ({look})\n  or:      {_ON}",
                ) from error
            joined, kept = source, []
    pairs = describe(source, split, matches)
    crossing = tuple(pair for pair in pairs if pair.crosses)
    found = _leaks(source, split, crossing, torn, pattern, recut)
    leaks = Leaks(
        found=tuple(found),
        allowed=allow,
        crossing=crossing,
        conflicts=tuple(pair for pair in pairs if pair.disagrees),
        torn=torn,
        pattern=pattern,
        torn_by_pattern=len(torn_groups(with_groups(source, pattern.pattern).items, split)) if pattern else 0,
        num_kept=len(kept),
        num_kept_images=sum(map(len, kept)),
        num_exact=sum(match.kind == "exact" for match in matches),
        num_near=sum(match.kind != "exact" for match in matches),
    )
    # What was said before anyone looked at the pictures is said better now.
    notes = [note for note in split.notes if not note.startswith("Leak")]
    return Checked(joined, replace(split, notes=(*notes, *_notes(leaks))), leaks, pairs)


def _notes(leaks: Leaks) -> list[str]:
    notes = []
    for leak in leaks.found:
        example = f", for example {leak.examples[0]}" if leak.examples else ""
        notes.append(f"Leak, and the run was told to go on: {leak.text}{example}.")
    if leaks.num_kept:
        notes.append(
            f"Kept together in the split: {many(leaks.num_kept_images, 'image')} that show "
            f"{many(leaks.num_kept, 'picture')}."
        )
    if leaks.conflicts:
        shown = "; ".join(_with_classes(pair) for pair in leaks.conflicts[:_SHOWN])
        more = len(leaks.conflicts) - _SHOWN
        notes.append(
            f"Conflicting labels: {many(len(leaks.conflicts), 'pair')} of images show the same picture in two "
            f"classes: {shown}" + (f" and {more} more." if more > 0 else ".")
        )
    return notes


def _with_classes(pair: Pair) -> str:
    return f"{printable(pair.first)} ({pair.classes[0]}) = {printable(pair.second)} ({pair.classes[1]})"


def _leaks(
    source: Source,
    split: Split,
    crossing: Sequence[Pair],
    torn: Sequence[str],
    pattern: NamePattern | None,
    recut: Callable[[Source], Split] | None,
) -> list[Leak]:
    """What crosses the split."""
    found = []
    if torn:
        found.append(_torn_leak(torn, source, split))
    if pattern is not None:
        grouped = with_groups(source, pattern.pattern)
        if by_pattern := torn_groups(grouped.items, split):
            text = (
                f"names and pictures say that {pattern.num_images:,} images are {pattern.num_groups:,} groups of "
                f"images of one thing, and {len(by_pattern):,} of the groups have images in more than one split"
            )
            examples = _torn_examples(by_pattern, grouped, split)
            found.append(Leak(text, _pattern_remedy(grouped, pattern, recut), examples))
    if crossing:
        verb = "shows" if len(crossing) == 1 else "show"
        text = f"{many(len(crossing), 'pair')} of images in different splits {verb} the same picture"
        found.append(Leak(text, "remove one image of each pair", tuple(map(str, crossing[:_LISTED]))))
    return found


def _torn_leak(torn: Sequence[str], source: Source, split: Split) -> Leak:
    text = f"{many(len(torn), 'group')} with images in more than one split"
    return Leak(text, "give a split that keeps groups together, or none", _torn_examples(torn, source, split))


def _torn_examples(torn: Sequence[str], source: Source, split: Split) -> tuple[str, ...]:
    """The first groups with an image in each of their parts."""
    shown: dict[str, dict[str, str]] = {group: {} for group in torn[:_LISTED]}
    for item, part in zip(source.items, parts_of(len(source.items), split), strict=True):
        if item.group in shown and part:
            shown[item.group].setdefault(part, f"{printable(item.key)} ({part})")
    return tuple(f"{printable(group)}: {', '.join(images.values())}" for group, images in shown.items())


def _pattern_remedy(grouped: Source, pattern: NamePattern, recut: Callable[[Source], Split] | None) -> str:
    """The flag that keeps the groups together, where it can."""
    flag = f"--group-pattern {quote(pattern.pattern)}"
    if recut is not None:
        try:
            if not torn_groups(grouped.items, recut(grouped)):
                return f"{flag} keeps them together"
        except DataError:
            pass
    return f"put the images of each class into one folder, without splits, and let {flag} keep them together"


def torn_groups(items: Sequence[Item], split: Split) -> tuple[str, ...]:
    """Names of the groups with images in more than one part, sorted."""
    homes: dict[str, set[str]] = defaultdict(set)
    for part in PARTS:
        for i in split.part(part):
            if (group := items[int(i)].group) is not None:
                homes[group].add(part)
    return tuple(sorted(group for group, parts in homes.items() if len(parts) > 1))


def refuse_torn_groups(source: Source, split: Split, *, allow: bool = False) -> None:
    """Stop on given groups that a given split parts: known from the names, before any image is read.

    Raises:
        DataError: there are such groups, and they are not allowed.
    """
    if not allow and (torn := torn_groups(source.items, split)):
        raise refusal(source, [_torn_leak(torn, source, split)])


def clean_split(
    source: Source, matches: Sequence[Match], pattern: NamePattern | None, cut: Callable[[Source], Split]
) -> Split | None:
    """A split of all images that nothing crosses; given parts are not kept.

    Args:
        source: the images.
        matches: pairs of them that show one picture.
        pattern: that names ask for, where no groups are known.
        cut: makes a split.

    Returns:
        None where too few images stay for one.
    """
    free = replace(source, items=tuple(replace(item, split=None) for item in source.items))
    if pattern is not None:
        free = with_groups(free, pattern.pattern)
    joined, _ = keep_together(free, matches, np.zeros(len(free.items), np.int64))
    try:
        return cut(joined)
    except DataError:
        return None
