"""The dataset card: what :func:`sapling.data.inspect.inspect_data` found, as plain values. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sapling.data.broken import BadImage
from sapling.data.findings import Finding
from sapling.data.pixelstats import Channels

VERSION = 1


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest, middle and largest of some numbers."""

    smallest: int
    median: float
    largest: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the pictures are, in pixels, as they are shown.

    Attributes:
        short_side: of all readable images.
        long_side: of all readable images.
        common: the sizes met most often, each ``(width, height, images)``.
        num_different: how many sizes there are.
        smallest: the smallest images, each ``(key, width, height)``.
    """

    short_side: Range
    long_side: Range
    common: tuple[tuple[int, int, int], ...]
    num_different: int
    smallest: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class WrongSuffix:
    """An image whose name says that it is of another kind."""

    key: str
    format: str


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Images that show the same picture.

    Attributes:
        num_exact: pairs with the same pixels.
        num_near: pairs with nearly the same, also mirrored or turned.
        num_transformed: pairs of which one is mirrored or turned.
        num_crossing: pairs in two parts of the split.
        num_conflicting: pairs in two classes.
        num_images: images that show a picture which another image shows, too.
        pairs: the pairs; the worst first, up to 2,000.
    """

    num_exact: int
    num_near: int
    num_transformed: int
    num_crossing: int
    num_conflicting: int
    num_images: int
    pairs: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Card:
    """What was found in a data set; :meth:`as_dict` is ``inspect.json``.

    Attributes:
        name: of the source.
        source: where it lies.
        kind: folder, zip, csv, digits.
        num_images: listed, broken ones included.
        num_groups: groups of images that were given.
        classes: in the order of the labels.
        counts: images per class in train, val, test; and ``none`` for those of no part.
        split: ``made here``, ``given``, ``partly given`` or ``none`` (it cannot be made).
        notes: what was decided while reading and splitting.
        sizes: None where no image can be read.
        formats: images per format.
        modes: images per mode.
        num_rotated: images that an EXIF tag turns or mirrors.
        wrong_suffixes: images whose names say that they are of another kind.
        broken: images that cannot be used.
        imbalance: training images of the largest class for one of the smallest.
        duplicates: images that show the same picture.
        torn_groups: groups with images in more than one part.
        pattern: the group pattern that names and pictures ask for, or None.
        channels: statistics of the training pixels; None where no image can be read.
        img_size: side that a run would show to networks.
        store_size: side that the pixels were looked at in.
        findings: what to know, the worst first.
        commands: what to do next.
        seconds: how long the look took.
        fingerprint: of the pixels and labels.
        multi_label: whether an image may have several labels; ``counts`` then count it with each of them.
    """

    name: str
    source: str
    kind: str
    num_images: int
    num_groups: int
    classes: tuple[str, ...]
    counts: dict[str, list[int]]
    split: str
    notes: tuple[str, ...]
    sizes: Sizes | None
    formats: dict[str, int]
    modes: dict[str, int]
    num_rotated: int
    wrong_suffixes: tuple[WrongSuffix, ...]
    broken: tuple[BadImage, ...]
    imbalance: float | None
    duplicates: Duplicates
    torn_groups: tuple[str, ...]
    pattern: dict[str, Any] | None
    channels: Channels | None
    img_size: int | None
    store_size: int | None
    findings: tuple[Finding, ...]
    commands: tuple[tuple[str, str], ...]
    seconds: float
    fingerprint: str
    multi_label: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {"version": VERSION, **asdict(self)}

    @property
    def num_leaks(self) -> int:
        """How many findings would stop a run because test images were seen in training."""
        return sum(finding.severity == "leak" for finding in self.findings)
