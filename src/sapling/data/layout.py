"""Reads classes and given splits off the paths of the images; opens no file.

Two layouts are understood, below any number of folders that all images share::

    train/<class>/..  val/<class>/..  test/<class>/..     the split is given (as <class>/train/.. too)
    <class>/..                                            the split is made by :mod:`sapling.data.splits`
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sapling.errors import DataError

_SUFFIXES = "jpg jpeg jpe jfif png bmp gif webp avif tif tiff ppm pgm pbm pnm jp2 j2k"
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
LAYOUTS = "train/<class>/, val/<class>/, test/<class>/ (val or test may be missing), or one folder per class"
_JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"))


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Attributes:
        key: posix path below the folder that all images share, so that a zip and its unpacked folder agree.
        label: position of its class in ``Source.classes``; of several labels the rarest, -1 where it has none.
        split: ``train``, ``val`` or ``test`` where the source says so, else None.
        group: images of one group (one tree, one patient) never part ways in a split; None stands alone.
        labels: positions of all its labels, ascending, where images may have several; None where each has one class.
    """

    key: str
    label: int
    split: str | None = None
    group: str | None = None
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What the paths say.

    Attributes:
        classes: names in the order of the labels (by code point, as torchvision's ImageFolder).
        items: all images, ordered by key.
        prefix: the folder that all images share, with a slash at its end, or an empty string.
        notes: what was left out or decided, one sentence each.
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    prefix: str
    notes: tuple[str, ...]


def is_visible(path: str) -> bool:
    """Whether no part of ``path`` is hidden or left there by an operating system."""
    return not any(part.startswith(".") or part.lower() in _JUNK for part in path.split("/"))


def is_image(path: str) -> bool:
    """Whether the name says that this is an image; what it really is shows when it is decoded."""
    # Not PurePosixPath: for 100,000 names it needs longer than all the rest of listing a zip.
    return posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES


def printable(name: str) -> str:
    """Write a name so that it can be shown: no byte that is no UTF-8, no command to the terminal."""
    return name if name.isprintable() else ascii(name)


def one_spelling(name: str) -> str:
    """One spelling (NFC) for one name: macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


# They turn the direction of what follows: a name could show as another one.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_printable_name(name: str) -> bool:
    """Whether a name can stand in ``classes.txt``: UTF-8, no control characters, no blanks at either end."""
    # Cc are control characters (a line break would break classes.txt, as Zl and Zp do), Cs bytes that were no UTF-8.
    kinds = {unicodedata.category(letter) for letter in name}
    return name == name.strip() and kinds.isdisjoint(("Cc", "Cs", "Zl", "Zp")) and _TURNING.isdisjoint(name)


def expanded(path: str | Path) -> Path:
    """A path with ``~`` made whole; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def shared_folder(folders: Iterable[str]) -> str:
    """Find the deepest folder that all of ``folders`` are or lie in; an empty string is the top."""
    # An absolute path of a folder for every one of them: commonpath takes no empty ones.
    paths = {f"/{folder}" for folder in folders}
    return posixpath.commonpath(paths).lstrip("/") if paths else ""


def many(count: int, noun: str) -> str:
    """Write ``1 image`` or ``2 images``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def arrange(paths: Iterable[str], *, where: str) -> Layout:
    """Find classes and given splits.

    Args:
        paths: posix paths of all files, relative to the source.
        where: the source, for messages.

    Raises:
        DataError: no image, no class folder, only one class, a folder beside train/ that is no split, or a
            class name that cannot be printed.
    """
    visible = [path for path in paths if is_visible(path)]
    images = sorted(path for path in visible if is_image(path))
    notes: list[str] = []
    if others := [path for path in visible if not is_image(path)]:
        kinds = Counter(PurePosixPath(path).suffix.lower() or "without a suffix" for path in others)
        listed = ", ".join(f"{count} {printable(kind)}" for kind, count in kinds.most_common(4))
        shown = ", ".join(printable(path) for path in sorted(others)[:3])
        notes.append(f"Ignored: {many(len(others), 'file')} not named as images ({listed}), for example {shown}.")
    if not images:
        found = notes[0] if notes else "There is no file at all."
        raise DataError(f"no image was found; {found[0].lower()}{found[1:].rstrip('.')}", where=where, allowed=LAYOUTS)

    prefix = _shared_folder(images)
    inside = [path[len(prefix) :].split("/") for path in images if path.startswith(prefix)]
    parts = [part for part in inside if len(part) > 1]
    if not parts:
        raise DataError(
            f"{many(len(images), 'image')}, but no class folders: the folder of an image names its class",
            where=where,
            allowed=LAYOUTS,
        )
    if strays := len(images) - len(parts):
        notes.append(f"Ignored: {many(strays, 'image')} outside of the class folders.")
    placed = _place(parts, notes, where)

    names = sorted({name for _, name, _ in placed})
    check_class_names(names, where)
    number = {name: label for label, name in enumerate(names)}
    items = tuple(Item("/".join(part), number[name], split) for split, name, part in placed)
    return Layout(tuple(names), items, prefix, tuple(notes))


def _shared_folder(images: list[str]) -> str:
    """Find the folder that holds all class or split folders; single images beside it do not matter."""
    parts = [path.split("/") for path in images]
    depth = 0
    while True:
        parts = [part for part in parts if len(part) - depth > 1]
        tops = {part[depth] for part in parts}
        # A lone split folder is a split, and a lone folder without folders is a class.
        if len(tops) != 1 or tops <= _split_folders(tops) or not any(len(part) - depth > 2 for part in parts):
            break
        depth += 1
    return "".join(f"{name}/" for name in parts[0][:depth]) if parts else ""


def _split_folders(names: set[str]) -> set[str]:
    return {name for name in names if name.lower() in SPLIT_NAMES}


def _place(parts: list[list[str]], notes: list[str], where: str) -> list[tuple[str | None, str, list[str]]]:
    """Split, class name and path of every labelled image."""
    tops = {part[0] for part in parts}
    split_tops = _split_folders(tops)
    nested = {SPLIT_NAMES[part[0].lower()] for part in parts if part[0] in split_tops and len(part) > 2}
    # A folder called train may also be a class (bus, train, ..): it is a split only where it holds folders.
    if nested and ("train" in nested or split_tops == tops):
        if others := sorted(tops - split_tops):
            raise DataError(
                f"folder {others[0]!r} stands beside the split folders {', '.join(sorted(split_tops))}",
                where=where,
                allowed=LAYOUTS,
                remedy="move it away, or move its images into one of the splits",
            )
        labelled = [part for part in parts if len(part) > 2]
        if bare := len(parts) - len(labelled):
            notes.append(f"Ignored: {many(bare, 'image')} directly in a split folder, without a class folder.")
        _note_depth(labelled, 3, notes)
        return [(SPLIT_NAMES[part[0].lower()], one_spelling(part[1]), part) for part in labelled]

    if all(len(part) > 2 and part[1].lower() in SPLIT_NAMES for part in parts) or _is_split_below(parts):
        labelled = [part for part in parts if len(part) > 2]
        if others := sorted({f"{part[0]}/{part[1]}" for part in labelled if part[1].lower() not in SPLIT_NAMES}):
            raise DataError(
                f"folder {others[0]!r} stands beside the split folders of its class",
                where=where,
                allowed=LAYOUTS,
                remedy="move it away, or move its images into one of the splits",
            )
        if bare := len(parts) - len(labelled):
            notes.append(f"Ignored: {many(bare, 'image')} directly in a class folder, beside its split folders.")
        _note_depth(labelled, 3, notes)
        return [(SPLIT_NAMES[part[1].lower()], one_spelling(part[0]), part) for part in labelled]
    _note_depth(parts, 2, notes)
    return [(None, one_spelling(part[0]), part) for part in parts]


def _is_split_below(parts: list[list[str]]) -> bool:
    """Whether every class folder holds split folders, one of them of training images."""
    below: dict[str, set[str]] = {part[0]: set() for part in parts}
    for part in parts:
        if len(part) > 2 and part[1].lower() in SPLIT_NAMES:
            below[part[0]].add(SPLIT_NAMES[part[1].lower()])
    return all(below.values()) and "train" in set().union(*below.values())


def _note_depth(parts: list[list[str]], depth: int, notes: list[str]) -> None:
    if deeper := sum(len(part) > depth for part in parts):
        notes.append(f"Counted to their class: {many(deeper, 'image')} in folders below a class folder.")


def check_class_names(names: Sequence[str], where: str) -> None:
    """Refuse names that cannot be shown, and less than two of them.

    Raises:
        DataError: it is so.
    """
    for name in names:
        if not is_printable_name(name):
            raise DataError(
                f"the class {name!a} has a name that cannot be printed safely",
                where=where,
                allowed="names in UTF-8 without control characters and without blanks at either end",
                remedy="rename the folder (or tag) of this class",
            )
    if len(names) < 2:
        raise DataError(
            f"there is only one class, {names[0]!r}: a classifier needs two or more",
            where=where,
            allowed=LAYOUTS,
        )
