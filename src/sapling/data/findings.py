"""From what was seen in a data set to findings: what is wrong, how bad it is, what to do. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote

import numpy as np
import numpy.typing as npt

from sapling.data.broken import MAX_SKIPPED_PERCENT, BadImage, may_skip
from sapling.data.layout import many
from sapling.data.leaks import Checked
from sapling.data.pairs import plain
from sapling.data.pixelstats import Channels
from sapling.data.scan import Header
from sapling.data.sources import Source
from sapling.data.splits import Split

SEVERITIES = ("leak", "error", "warning", "note")
"""Leaks and errors stop a run; the worst first."""

MAX_IMBALANCE = 5.0
"""Above it accuracy says little, and runs compare macro recall (evidence.md)."""
MIN_TRAIN, MIN_TEST = 20, 10
_MANY_COPIES = 0.05
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know about a data set.

    Attributes:
        severity: ``leak``, ``error``, ``warning`` or ``note``.
        code: short name for programs, such as ``broken-images``.
        text: one sentence.
        remedy: what to do, as a command where there is one; may be empty.
        examples: names of up to 20 images or classes that it concerns.
    """

    severity: str
    code: str
    text: str
    remedy: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was read of a data set.

    Attributes:
        source: all images.
        usable: those that can be decoded.
        split: parts of the usable ones.
        trouble: why no split can be made; empty where it can.
        headers: of all images that have one.
        bad: images that cannot be used.
        checked: what shows the same picture, and what crosses the split; None without pixels.
        channels: statistics of the pixels; None without any.
        img_size: side that a run would show to networks.
        group_pattern: that was given.
        split_file: that was given.
    """

    source: Source
    usable: Source
    split: Split
    trouble: str
    headers: tuple[Header, ...]
    bad: tuple[BadImage, ...]
    checked: Checked | None
    channels: Channels | None
    img_size: int | None
    group_pattern: str | None
    split_file: str | None

    @property
    def train_counts(self) -> npt.NDArray[np.int64]:
        """``[K]``: training images of each class; all usable ones where there is no split."""
        chosen = self.split.train if len(self.split.train) else slice(None)
        return self.usable.count_labels(chosen)

    @property
    def imbalance(self) -> float | None:
        """Training images of the largest class for one of the smallest."""
        counts = self.train_counts
        return round(float(counts.max() / counts.min()), 2) if counts.min() > 0 else None


def findings_of(seen: Seen) -> tuple[list[Finding], list[tuple[str, str]]]:
    """Findings, the worst first, and the commands to go on with."""
    rules = (_leaks, _broken, _split, _copies, _balance, _files, _looks)
    found = [finding for rule in rules for finding in rule(seen)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return found, _commands(seen, found)


def _leaks(seen: Seen) -> Iterator[Finding]:
    if seen.checked is None:
        return
    leaks = seen.checked.leaks
    for leak in leaks.found:
        yield Finding("leak", "leak", _sentence(leak.text), leak.remedy, leak.examples)
    if leaks.conflicts:
        examples = tuple(f"{pair} [{pair.classes[0]} / {pair.classes[1]}]" for pair in leaks.conflicts[:_SHOWN])
        count = len(leaks.conflicts)
        text = f"{many(count, 'pair')} of images {_show(count)} the same picture in two classes."
        yield Finding("warning", "conflicting-labels", text, "look at them and correct or remove one of each", examples)


def _show(count: int) -> str:
    return "shows" if count == 1 else "show"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _broken(seen: Seen) -> Iterator[Finding]:
    if not seen.bad:
        return
    total = len(seen.source.items)
    skippable = may_skip(seen.bad, total, "skip")
    text = f"{len(seen.bad):,} of {many(total, 'image')} cannot be used"
    examples = tuple(f"{plain(image.key)}: {plain(image.reason)}" for image in seen.bad[:_SHOWN])
    if skippable:
        text += "; a run leaves them out and says so."
        yield Finding("warning", "broken-images", text, "repair or remove them", examples)
    else:
        text += f"; up to {MAX_SKIPPED_PERCENT} % would be left out."
        yield Finding("error", "broken-images", text, "repair or remove them: a run stops here", examples)


def _split(seen: Seen) -> Iterator[Finding]:
    if seen.trouble:
        yield Finding("error", "no-split", _sentence(f"No split can be made: {seen.trouble}"), "add images to it")
        return
    for note in seen.split.notes:
        if note.startswith("Classes without"):
            yield Finding("warning", "missing-class", note, "these classes cannot be judged")


def _copies(seen: Seen) -> Iterator[Finding]:
    if seen.checked is None or not seen.checked.pairs:
        return
    leaks, total = seen.checked.leaks, len(seen.usable.items)
    inside = [pair for pair in seen.checked.pairs if not pair.crosses]
    images = {key for pair in inside for key in (pair.first, pair.second)}
    if not images:
        return
    text = f"{many(len(images), 'image')} {_show(len(images))} a picture that another image of the same split shows"
    text += "; a split that is made here keeps them together." if leaks.num_kept else "."
    severity = "warning" if len(images) > _MANY_COPIES * total else "note"
    remedy = "remove the copies: the data set is smaller than it looks" if severity == "warning" else ""
    yield Finding(severity, "duplicates", text, remedy, tuple(str(pair) for pair in inside[:_SHOWN]))


def _balance(seen: Seen) -> Iterator[Finding]:
    counts, classes = seen.train_counts, seen.source.classes
    if seen.imbalance is not None and seen.imbalance > MAX_IMBALANCE:
        large, small = int(counts.argmax()), int(counts.argmin())
        text = (
            f"The largest class ({classes[large]}, {many(int(counts[large]), 'training image')}) has "
            f"{seen.imbalance:.0f} times the images of the smallest ({classes[small]}, {counts[small]})."
        )
        measure = "mean average precision" if seen.source.multi_label else "macro recall"
        yield Finding("warning", "imbalance", text, f"runs then compare {measure}, in which classes count alike")
    if few := [f"{name} ({n})" for name, n in zip(classes, counts, strict=True) if n < MIN_TRAIN]:
        text = f"{len(few)} {'class' if len(few) == 1 else 'classes'} with fewer than {MIN_TRAIN} training images."
        yield Finding("warning", "small-classes", text, "add images, or merge classes", tuple(few[:_SHOWN]))
    if len(seen.split.test):
        tests = seen.usable.count_labels(seen.split.test)
        if few := [f"{name} ({n})" for name, n in zip(classes, tests, strict=True) if 0 < n < MIN_TEST]:
            text = f"{len(few)} {'class' if len(few) == 1 else 'classes'} with fewer than {MIN_TEST} test images:"
            yield Finding("note", "few-tests", f"{text} one image moves their recall a lot.", "", tuple(few[:_SHOWN]))
    spellings: dict[str, list[str]] = {}
    for name in classes:
        spellings.setdefault("".join(c for c in name.casefold() if c.isalnum()) or name, []).append(name)
    if twins := [", ".join(names) for names in spellings.values() if len(names) > 1]:
        text = "Classes whose names differ in case, blanks or signs only: are they one?"
        yield Finding("warning", "similar-names", text, "rename or merge the folders", tuple(twins[:_SHOWN]))


def _files(seen: Seen) -> Iterator[Finding]:
    if wrong := [header for header in seen.headers if header.has_wrong_suffix]:
        text = f"{many(len(wrong), 'file')} with a wrong ending; they are read by what they are."
        named = tuple(f"{plain(h.key)} is {h.format}" for h in wrong[:_SHOWN])
        yield Finding("note", "wrong-suffix", text, "", named)
    modes = Counter(header.mode for header in seen.headers)
    if deep := modes.get("I;16", 0) + modes.get("I", 0):
        dark = next((note for note in seen.usable.notes if note.startswith("Dark pictures")), "")
        yield Finding("warning", "16-bit", dark or f"{many(deep, 'image')} of 16 bits: the upper 8 are kept.", "")
    if clear := sum(n for mode, n in modes.items() if mode in ("RGBA", "LA", "PA", "RGBa", "La")):
        yield Finding("note", "transparency", f"{many(clear, 'image')} with transparency, which is shown on white.")
    if cmyk := modes.get("CMYK", 0):
        yield Finding("note", "cmyk", f"{many(cmyk, 'image')} in CMYK, converted to RGB.")
    if rotated := sum(header.is_rotated for header in seen.headers):
        yield Finding("note", "rotated", f"{many(rotated, 'image')} turned by an EXIF tag; they are shown upright.")
    yield from _tells_the_class(seen)


def _tells_the_class(seen: Seen) -> Iterator[Finding]:
    """What a network could learn instead of the picture: a format, a mode or a size that goes with one class."""
    if seen.source.multi_label:
        return  # no class of an image that a file could give away
    label = {item.key: item.label for item in seen.source.items}
    num_images = Counter(label[header.key] for header in seen.headers)
    total = len(seen.headers)
    for what, value_of in (
        ("format", lambda h: h.format),
        ("mode", lambda h: h.mode),
        ("size", lambda h: f"{h.width} x {h.height}"),
    ):
        together = Counter((label[header.key], value_of(header)) for header in seen.headers)
        values = Counter(value_of(header) for header in seen.headers)
        told = []
        for (k, value), count in sorted(together.items()):
            others = total - num_images[k]
            if count >= max(10, 0.9 * num_images[k]) and others and values[value] - count <= 0.1 * others:
                told.append(f"{seen.source.classes[k]}: {value or 'none'}")
        if told:
            text = f"The {what} of the files gives the class away; a network may learn that instead of the picture."
            yield Finding("warning", f"telling-{what}", text, "save all images alike", tuple(told[:_SHOWN]))


def _looks(seen: Seen) -> Iterator[Finding]:
    if seen.channels is not None:
        if seen.channels.num_flat:
            text = f"{many(seen.channels.num_flat, 'image')} of one colour all over."
            yield Finding("warning", "flat", text, "look at them and remove what shows nothing", seen.channels.flat)
        if seen.channels.grey_share == 1:
            yield Finding("note", "grey", "All images are grey.")
    if seen.img_size is None or seen.source.kind == "digits":
        return
    sides = [(min(header.width, header.height), header) for header in seen.headers]
    if tiny := [header for side, header in sides if 2 * side < seen.img_size]:
        text = f"{many(len(tiny), 'image')} less than half as large as networks see them ({seen.img_size} pixels)."
        named = tuple(f"{plain(h.key)}: {h.width} x {h.height}" for h in tiny[:_SHOWN])
        yield Finding("note", "small-images", text, "", named)
    if long := [header for side, header in sides if max(header.width, header.height) > 2 * side]:
        text = f"{many(len(long), 'image')} more than twice as long as wide: only the centre square is seen."
        named = tuple(f"{plain(h.key)}: {h.width} x {h.height}" for h in long[:_SHOWN])
        yield Finding("warning", "elongated", text, "cut them to what matters", named)


def _commands(seen: Seen, found: Sequence[Finding]) -> list[tuple[str, str]]:
    """What to type next."""
    data, flags = quote(seen.source.location), seen.usable.options
    if seen.group_pattern:
        flags += f" --group-pattern {quote(seen.group_pattern)}"
    if seen.split_file:
        flags += f" --split {quote(seen.split_file)}"
    leaks = seen.checked.leaks if seen.checked else None
    stops = sum(finding.severity in ("leak", "error") for finding in found)
    commands = []
    if leaks is not None and leaks.pattern is not None and leaks.torn_by_pattern:
        flags += f" --group-pattern {quote(leaks.pattern.pattern)}"
        # The pattern cures this one.
        stops -= 1
        commands.append(("Look again, with groups read off the names", f"sapling inspect {data}{flags}"))
    elif stops:
        commands.append(("When it is repaired, look again", f"sapling inspect {data}{flags}"))
    if not stops:
        commands.append(("See what a run would do", f"sapling distill {data}{flags} --dry-run"))
        commands.append(("Distil", f"sapling distill {data}{flags}"))
    return commands
