"""Looks at labelled images before anything is trained on them: the dataset card. No torch.

Broken images never stop it: they are listed, all of them, and the rest is looked at. The pixels come from the
packed store of the size that a run would choose, so a later run finds it, and what was searched in it, ready.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sapling.bands import band_options
from sapling.data.broken import BadImage, BrokenImagesError, most_skipped, without
from sapling.data.card import Card, Duplicates, Range, Sizes, WrongSuffix
from sapling.data.findings import Finding, Seen, findings_of
from sapling.data.groups import with_groups
from sapling.data.leaks import WARNED, Checked, check_leaks, clean_split
from sapling.data.listing import Columns
from sapling.data.packed import PackedStore, open_store
from sapling.data.pairs import plain
from sapling.data.pixelstats import channel_statistics
from sapling.data.scan import Header, scan_headers
from sapling.data.similar import find_duplicates
from sapling.data.sizes import choose_sizes
from sapling.data.sources import Source, open_source
from sapling.data.splitfile import read_split
from sapling.data.splits import PARTS, Indices, Split, make_split
from sapling.data.survey import settle_bands
from sapling.errors import DataError

_SMALLEST, _COMMON = 5, 5
_MAX_PAIRS = 2000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A card, and what it was read from (for pictures on a page).

    Attributes:
        card: what was found.
        source: the images that can be used.
        store: their pixels; None where there is none.
        clean: a split of them that nothing crosses, where something crosses theirs and there is one.
    """

    card: Card
    source: Source
    store: PackedStore | None
    clean: Split | None = None


def inspect_data(
    data: str | Path | Source,
    *,
    group_pattern: str | None = None,
    split_file: str | Path | None = None,
    columns: Columns | None = None,
    bands: Iterable[int] | str | None = None,
    value_range: tuple[float, float] | None = None,
    img_size: int | None = None,
    store_size: int | None = None,
    val_share: float = 0.15,
    test_share: float = 0.15,
    split_seed: int = 0,
    progress: Progress | None = None,
) -> Inspection:
    """Look at a data set as a run would use it.

    Args:
        data: what :func:`sapling.data.sources.open_source` takes, or what it returned.
        group_pattern: see :func:`sapling.data.groups.with_groups`.
        split_file: see :func:`sapling.data.splitfile.read_split`.
        columns: names of the columns, where a CSV file lists the images.
        bands: which bands become channels; see :func:`sapling.data.survey.settle_bands`.
        value_range: the values that become 0 and 255; see there.
        img_size: side that a run would show to networks; by itself as a run chooses.
        store_size: side that the pixels are looked at in; by itself as a run chooses.
        val_share: see :func:`sapling.data.splits.make_split`.
        test_share: see there.
        split_seed: see there.
        progress: is called with (stage, done, in all).

    Raises:
        DataError: there is no labelled image, or the split file does not fit.
        ConfigError: the group pattern does not fit.
    """
    started = time.perf_counter()
    source = data if isinstance(data, Source) else open_source(data, columns=columns)
    if group_pattern is not None:
        source = with_groups(source, group_pattern)
    source = replace(source, options=source.options + band_options(bands, value_range))
    headers, unreadable = scan_headers(source, progress=_stage(progress, "reading headers"))

    def recut(images: Source) -> Split:
        return make_split(images, val_share=val_share, test_share=test_share, seed=split_seed)

    def sample(images: Source) -> Indices:
        """What a run would take the range of values from: the training part, where there can be one."""
        with suppress(DataError):
            if split_file is not None:
                return read_split(split_file, images, num_unlisted=most_skipped(len(images.items), "skip")).train
            return recut(images).train
        return np.arange(len(images.items), dtype=np.int64)

    usable, store, bad, chosen = _pixels(source, unreadable, img_size, store_size, sample, bands, value_range, progress)
    split, trouble = _nothing(), ""
    if split_file is not None:
        gone = {image.key for image in bad}
        allowed = most_skipped(len(source.items), "skip")
        split = read_split(split_file, usable, num_unlisted=allowed, skipped=gone)
    elif usable.items:
        try:
            split = recut(usable)
        except DataError as error:
            trouble = error.what
    checked: Checked | None = None
    if store is not None:
        is_cut_here = split_file is None and not trouble
        search = _stage(progress, "looking for duplicates")
        try:
            checked = check_leaks(usable, split, store, recut=recut if is_cut_here else None, progress=search)
        except DataError as error:
            trouble = error.what
            checked = check_leaks(usable, split, store, recut=recut, allow=True)
        split = checked.split
    seen = Seen(
        source=source,
        usable=usable,
        split=split,
        trouble=trouble,
        headers=tuple(headers),
        bad=tuple(bad),
        checked=checked,
        channels=channel_statistics(store, split.train) if store is not None else None,
        img_size=chosen[0] if chosen else None,
        group_pattern=group_pattern,
        split_file=str(split_file) if split_file is not None else None,
    )
    findings, commands = findings_of(seen)
    card = _card(seen, store, chosen, findings, commands, time.perf_counter() - started)
    clean = None
    if checked is not None and store is not None and checked.leaks.found:
        clean = clean_split(usable, find_duplicates(store), checked.leaks.pattern, recut)
    return Inspection(card, usable, store, clean)


def _pixels(
    source: Source,
    unreadable: Sequence[BadImage],
    img_size: int | None,
    store_size: int | None,
    sample: Callable[[Source], Indices],
    bands: Iterable[int] | str | None,
    value_range: tuple[float, float] | None,
    progress: Progress | None,
) -> tuple[Source, PackedStore | None, tuple[BadImage, ...], tuple[int, int, int] | None]:
    """The store of a run where one could be built, else that of all images that can be used."""
    bad: tuple[BadImage, ...] = tuple(unreadable)
    usable = source
    for _ in range(3):
        try:
            chosen = choose_sizes(usable, img_size, store_size)
            packing = _stage(progress, "decoding images")
            pixels, remarks = settle_bands(usable, sample=sample(usable), bands=bands, value_range=value_range)
            store = open_store(usable, chosen[1], bands=pixels, on_bad_image="skip", progress=packing)
            bad = store.skipped if usable is source else (*bad, *store.skipped)
            kept = without(usable, store.skipped)
            return replace(kept, notes=(*kept.notes, *remarks)), store, bad, chosen
        except BrokenImagesError as error:
            # Too many for a run. What was found broken is left out here, and the rest is packed by itself.
            found = {image.key: image for image in (*bad, *error.bad)}
            bad = tuple(sorted(found.values(), key=lambda image: image.key))
            usable = without(source, bad)
            if not usable.items:
                break
    return without(source, bad), None, bad, None


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _nothing() -> Split:
    empty: npt.NDArray[np.int64] = np.array([], dtype=np.int64)
    return Split(empty, empty, empty)


def _card(
    seen: Seen,
    store: PackedStore | None,
    chosen: tuple[int, int, int] | None,
    findings: Sequence[Finding],
    commands: Sequence[tuple[str, str]],
    seconds: float,
) -> Card:
    source, checked = seen.source, seen.checked
    pairs = checked.pairs if checked else ()
    shown_again = {key for pair in pairs for key in (pair.first, pair.second)}
    pattern = checked.leaks.pattern if checked else None
    sides = {item.split for item in source.items}
    given = "partly given" if sides - {None} else "made here"
    if seen.split_file or {"val", "test"} <= sides:
        given = "given"
    notes = [*source.notes, *(note for note in seen.split.notes if not note.startswith(WARNED))]
    return Card(
        name=source.name,
        source=source.location,
        kind=source.kind,
        num_images=len(source.items),
        num_groups=len({item.group for item in source.items if item.group is not None}),
        classes=source.classes,
        counts=_counts(seen),
        split="none" if seen.trouble or not len(seen.split.train) else given,
        notes=tuple(notes),
        sizes=_sizes(seen.headers),
        formats=_tally(header.format or "pixels" for header in seen.headers),
        modes=_tally(header.mode for header in seen.headers),
        num_rotated=sum(header.is_rotated for header in seen.headers),
        wrong_suffixes=tuple(
            WrongSuffix(plain(header.key), header.format) for header in seen.headers if header.has_wrong_suffix
        ),
        broken=tuple(BadImage(plain(image.key), plain(image.reason), image.is_lasting) for image in seen.bad),
        imbalance=seen.imbalance,
        duplicates=Duplicates(
            num_exact=sum(pair.kind == "exact" for pair in pairs),
            num_near=sum(pair.kind != "exact" for pair in pairs),
            num_transformed=sum(pair.transform != "none" for pair in pairs),
            num_crossing=sum(pair.crosses for pair in pairs),
            num_conflicting=sum(pair.disagrees for pair in pairs),
            num_images=len(shown_again),
            pairs=tuple(pair.as_dict() for pair in pairs[:_MAX_PAIRS]),
        ),
        torn_groups=tuple(map(plain, checked.leaks.torn)) if checked else (),
        pattern={**asdict(pattern), "torn": checked.leaks.torn_by_pattern} if checked and pattern else None,
        channels=seen.channels,
        img_size=chosen[0] if chosen else None,
        store_size=chosen[1] if chosen else None,
        findings=tuple(findings),
        commands=tuple(commands),
        seconds=round(seconds, 2),
        fingerprint=store.fingerprint if store is not None else "",
        multi_label=source.multi_label,
    )


def _counts(seen: Seen) -> dict[str, list[int]]:
    counts = {part: seen.usable.count_labels(seen.split.part(part)) for part in PARTS}
    rest = seen.usable.count_labels() - sum(counts.values())
    if rest.any():
        counts["none"] = rest
    return {part: [int(n) for n in count] for part, count in counts.items()}


def _sizes(headers: Sequence[Header]) -> Sizes | None:
    if not headers:
        return None
    sides = [sorted((header.width, header.height)) for header in headers]
    counted = Counter((header.width, header.height) for header in headers)
    smallest = sorted(headers, key=lambda header: (min(header.width, header.height), header.key))[:_SMALLEST]
    return Sizes(
        short_side=_range([side[0] for side in sides]),
        long_side=_range([side[1] for side in sides]),
        common=tuple((width, height, count) for (width, height), count in counted.most_common(_COMMON)),
        num_different=len(counted),
        smallest=tuple((plain(header.key), header.width, header.height) for header in smallest),
    )


def _range(values: Sequence[int]) -> Range:
    return Range(min(values), float(np.median(values)), max(values))


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
