"""Reads labelled images from a CSV file: ``image,label[,split][,group]``; opens no image.

A label cell ``a;b`` names several labels; then an empty one names none.

Paths are relative to the folder of the CSV file and stay inside it. Everything that is wrong is told at
once, with the line. The file may lie on disk or inside a zip.
"""

from __future__ import annotations

import csv
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from sapling.data.layout import (
    SPLIT_NAMES,
    Item,
    is_printable_name,
    is_visible,
    many,
    one_spelling,
    printable,
    shared_folder,
)
from sapling.data.marks import file_mark
from sapling.data.table import Faults, read_table
from sapling.errors import DataError, nearest

COLUMNS = "image,label[,split][,group]"
SEPARATOR = ";"
"""Between the labels of an image that has several."""

Find = Callable[[str], tuple[str, str]]
"""From the key of an image to a mark that changes with its content, and what is wrong with it or nothing."""
Read = Callable[[str, int], bytes]
"""From a path inside a folder or zip and a number of bytes to at most so many of its first bytes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a CSV file.

    Attributes:
        image: paths of the images.
        label: their classes.
        group: what they show; None: the column ``group`` where there is one.
        multi_label: whether an image may have several labels; None: as soon as one label holds a ``;``.
    """

    image: str = "image"
    label: str = "label"
    group: str | None = None
    multi_label: bool | None = None

    @property
    def options(self) -> str:
        """As flags of a command, each with a blank before it; nothing for what is as by itself."""
        flags = f" --group-column {quote(self.group)}" if self.group is not None else ""
        for name in ("image", "label"):
            if getattr(self, name) != name:
                flags += " --set " + quote(f"data.{name}_column={getattr(self, name)}")
        return flags + (
            f" --set data.multi_label={str(self.multi_label).lower()}" if self.multi_label is not None else ""
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """What the file says.

    Attributes:
        classes: names in the order of the labels (by code point, as for folders).
        items: all images, ordered by key.
        marks: what changes with the content of an image, by key.
        notes: what was left out or decided, one sentence each.
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    marks: dict[str, str]
    notes: tuple[str, ...]


def read_listing(
    path: Path, *, columns: Columns | None = None, content: bytes | None = None, find: Find | None = None
) -> Listing:
    """Read a CSV file of labelled images.

    Args:
        path: the file; its folder is where the images are looked for.
        columns: names of the columns.
        content: what the file holds, where it lies inside a zip.
        find: finds an image by its key, where they lie inside a zip.

    Raises:
        DataError: the file is no such table, or rows that cannot be used, the first 20 of them by line.
    """
    columns = columns or Columns()
    image, label = columns.image.lower(), columns.label.lower()
    group = columns.group.lower() if columns.group is not None else "group"
    # A group column that was asked for must be there: without it the groups would part, and nobody would notice.
    needed = (image, label, *([group] if columns.group is not None else []))
    faults = Faults(path)
    optional = [name for name in ("split", *(["group"] if columns.group is None else [])) if name not in needed]
    rows, notes = read_table(path, faults, needed=needed, optional=optional, content=content)
    find = find or finder(path.parent)
    several = columns.multi_label
    if several is None:
        several = any(SEPARATOR in row.cells[label] for row in rows)
    read: list[tuple[str, tuple[str, ...], str | None, str | None]] = []
    marks: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row in rows:
        key, mark, wrong = _image(find, row.cells[image])
        cells = [row.cells.get(name, "") for name in (label, "split", group)]
        found, split, thing, more = _words(*cells, several=several)
        for what in (wrong, *more):
            if what:
                faults.add(row.line, what)
        if key and key in lines:
            faults.add(row.line, f"the image {key!r} is listed twice, first in line {lines[key]}")
        elif key:
            lines[key] = row.line
            marks[key] = mark
            read.append((key, found, split, thing))
    faults.raise_any(remedy=f"correct the file; its paths start at {path.parent.resolve()}")

    names = sorted({name for _, found, _, _ in read for name in found})
    if len(names) < 2:
        what = f"there is only one class, {names[0]!r}" if names else "no image is listed"
        raise DataError(f"{what}: a classifier needs two or more", where=str(path), allowed=f"a CSV file {COLUMNS}")
    number = {name: position for position, name in enumerate(names)}
    if several:
        items = _with_labels(read, number)
        notes = (*notes, _several(items, names))
    else:
        items = tuple(Item(key, number[found[0]], split, thing) for key, found, split, thing in sorted(read, key=_key))
    unplaced = sum(item.split is None for item in items)
    if 0 < unplaced < len(items):
        notes = (*notes, f"Counted to train, from where missing splits are cut: {many(unplaced, 'image')} of no split.")
    if columns.group is not None:
        notes = (*notes, _groups(items, columns.group, path))
    return Listing(tuple(names), items, marks, notes)


def _key(row: tuple[str, tuple[str, ...], str | None, str | None]) -> str:
    return row[0]


def _with_labels(
    read: list[tuple[str, tuple[str, ...], str | None, str | None]], number: dict[str, int]
) -> tuple[Item, ...]:
    """Items with all their labels; the one that stands for them is the rarest of the file."""
    count = Counter(name for _, found, _, _ in read for name in found)
    items = []
    for key, found, split, thing in sorted(read, key=_key):
        rarest = min(found, key=lambda name: (count[name], name), default=None)
        label = -1 if rarest is None else number[rarest]
        items.append(Item(key, label, split, thing, tuple(sorted(number[name] for name in found))))
    return tuple(items)


def _several(items: tuple[Item, ...], names: list[str]) -> str:
    counts = [len(item.labels or ()) for item in items]
    bare = counts.count(0)
    note = f"Several labels per image: {len(names)} labels, {sum(counts) / len(counts):.2f} per image"
    return note + (f", {many(bare, 'image')} without any." if bare else ".")


def find_listing(paths: Iterable[str], read: Read, columns: Columns | None = None) -> tuple[str | None, str]:
    """Find the CSV file that says what the images of a folder or zip are: the only one at its top with our header.

    Args:
        paths: posix paths of all files.
        read: reads the start of a file.
        columns: names of the columns.

    Returns:
        Its path or None, and a note or nothing.
    """
    columns = columns or Columns()
    visible = [path for path in paths if is_visible(path)]
    # Below any number of folders that hold all the rest, as for class folders.
    top = shared_folder(path.rpartition("/")[0] for path in visible)
    places = [path for path in visible if path.rpartition("/")[0] == top and path.lower().endswith(".csv")]
    found = sorted(path for path in places if {columns.image.lower(), columns.label.lower()} <= _header(path, read))
    if len(found) < 2:
        return (found[0], "") if found else (None, "")
    named = ", ".join(printable(path) for path in found[:4])
    return None, f"Ignored: {many(len(found), 'CSV file')} that list images ({named}), because only one can be right."


def listing_note(path: str) -> str:
    """Say that a CSV file inside a folder or zip was used."""
    return f"Labels are those of {printable(path)}."


def refuse_columns(columns: Columns | None, where: str) -> None:
    """Refuse names of columns for a source that has none.

    Raises:
        DataError: columns were named.
    """
    default = Columns()
    given = columns or default
    named = [
        f"{k}_column {getattr(given, k)!r}"
        for k in ("image", "label", "group")
        if getattr(given, k) != getattr(default, k)
    ]
    if given.multi_label:
        named.append("multi_label")
    if named:
        raise DataError(
            f"{' and '.join(named)}: these images are not listed by a CSV file, so there is no column",
            where=where,
            allowed="a CSV file, or a folder or zip with one such file at its top",
            remedy="--group-pattern reads groups off file names" if given.group is not None else None,
        )


def _header(path: str, read: Read) -> set[str]:
    """Names of the columns, whatever separates them: what is wrong is said when the file is read."""
    try:
        line = read(path, 4096).decode("utf-8-sig", errors="replace").lstrip("\r\n").splitlines()[:1]
        return {
            name.strip().strip('"').lower() for row in csv.reader(line) for c in row for name in re.split("[;\t|]", c)
        }
    except (OSError, csv.Error):
        return set()


def _groups(items: tuple[Item, ...], column: str, path: Path) -> str:
    sizes = Counter(item.group for item in items if item.group is not None)
    if not sizes:
        raise DataError(f"the group column {column!r} is empty in every row", where=str(path))
    alone = len(items) - sum(sizes.values())
    note = f"{many(len(sizes), 'group')} by the column {column!r}, {many(max(sizes.values()), 'image')} in the largest"
    return note + (f"; {many(alone, 'image')} of no group." if alone else ".")


def finder(folder: Path, statuses: dict[str, os.stat_result] | None = None) -> Find:
    """Find images below ``folder`` on disk; what the disk says of each is kept in ``statuses``."""

    def find(key: str) -> tuple[str, str]:
        try:
            status = Path(folder, key).stat()
        except FileNotFoundError:
            return "", f"there is no file {key!r}"
        except (OSError, ValueError) as error:
            return "", f"the file {key!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        if not stat.S_ISREG(status.st_mode):
            return "", f"{key!r} is no file"
        if statuses is not None:
            statuses[key] = status
        return file_mark(status), ""

    return find


def _image(find: Find, cell: str) -> tuple[str, str, str]:
    """Key of an image, its mark, and what is wrong with it."""
    if not cell:
        return "", "", "no image is named"
    if "://" in cell:
        return "", "", f"{cell!r} is an address: images must be files"
    path = cell.replace("\\", "/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "", "", f"the path {cell!r} is absolute: it must start at the folder of the CSV file"
    # By its letters, not by what lies on the disk: the key must be the same on every machine.
    key = posixpath.normpath(path)
    if key == ".." or key.startswith("../"):
        return "", "", f"the path {cell!r} leaves the folder of the CSV file"
    mark, wrong = find(key)
    if wrong and cell != cell.strip():
        wrong += "; its name begins or ends with a blank"
    return key, mark, wrong


def _words(
    label: str, split: str, group: str, *, several: bool
) -> tuple[tuple[str, ...], str | None, str | None, list[str]]:
    """Labels, split and group of a row, and what is wrong with them."""
    wrong = []
    label, split, group = (one_spelling(cell) for cell in (label, split, group))
    found: tuple[str, ...] = (label,)
    if several:
        # blanks beside the sign, and a sign too many, are how people write lists
        found = tuple(dict.fromkeys(part for name in label.split(SEPARATOR) if (part := name.strip())))
    elif not label.strip():
        wrong.append("the label is empty")
    elif SEPARATOR in label:
        wrong.append(
            f"the label {label!r} names several classes, and data.multi_label is false: keep the main one,"
            f" or make the combination a class of its own ({label.replace(SEPARATOR, '+')!r})"
        )
    for name in found:
        if name.strip() and SEPARATOR not in name and not is_printable_name(name):
            wrong.append(f"the label {name!a} has a control character or a blank at an end")
    if split and split.lower() not in SPLIT_NAMES:
        hint = nearest(split.lower(), SPLIT_NAMES)
        wrong.append(f"there is no split {split!r}; " + (hint or "allowed: train, val, test or nothing"))
    if group and not is_printable_name(group):
        wrong.append(f"the group {group!a} has a control character or a blank at an end")
    return found, SPLIT_NAMES.get(split.lower()), group or None, wrong
