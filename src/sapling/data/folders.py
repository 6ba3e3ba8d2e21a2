"""Images that lie on disk: a folder, or the files that a CSV file lists. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sapling.data.base import MAX_FILE_BYTES, Source, decode_image, too_large
from sapling.data.formats import hidden_images
from sapling.data.layout import Item, arrange, is_image, is_visible
from sapling.data.listing import Columns, find_listing, finder, listing_note, read_listing, refuse_columns
from sapling.data.marks import file_marks
from sapling.data.raster import Picture
from sapling.data.supervisely import arrange_annotated
from sapling.errors import DataError


@dataclass
class FolderSource(Source):
    """Images in a folder on disk; links are followed, loops are not."""

    prefix: str = ""
    marks: dict[str, str] = field(default_factory=dict, repr=False)

    def open(self, item: Item) -> Picture:
        """Open one image; see :meth:`Source.open`."""
        return _open_file(Path(self.location, self.prefix + item.key))

    def head(self, item: Item, num_bytes: int) -> bytes:
        """Read the first bytes of an image's file; see :meth:`Source.head`."""
        return _head_of(Path(self.location, self.prefix + item.key), num_bytes)

    def _marks(self) -> Iterator[str]:
        return (self.marks[self.prefix + item.key] for item in self.items)


@dataclass
class CsvSource(Source):
    """Images that a CSV file lists, beside it or in folders below."""

    marks: dict[str, str] = field(default_factory=dict, repr=False)

    def open(self, item: Item) -> Picture:
        """Open one image; see :meth:`Source.open`."""
        return _open_file(Path(self.location).parent / item.key)

    def head(self, item: Item, num_bytes: int) -> bytes:
        """Read the first bytes of an image's file; see :meth:`Source.head`."""
        return _head_of(Path(self.location).parent / item.key, num_bytes)

    def _marks(self) -> Iterator[str]:
        return (self.marks[item.key] for item in self.items)


def _head_of(path: Path, num_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(num_bytes)
    except OSError:
        return b""


def _open_file(path: Path) -> Picture:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise too_large(size)
    return decode_image(path.read_bytes())


def open_folder(path: Path, columns: Columns | None = None) -> FolderSource | CsvSource:
    """Open a folder of images: listed by a CSV file at its top, annotated, or in folders of classes.

    Args:
        path: the folder.
        columns: names of the columns of its CSV file.

    Raises:
        DataError: it cannot be read, or there are no labelled images in it.
    """

    def read(name: str, num_bytes: int) -> bytes:
        with Path(path, name).open("rb") as file:
            return file.read(num_bytes)

    try:
        files = dict(_walk(path))
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", where=str(error.filename)) from error
    name = path.resolve().name or "data"
    listing, note = find_listing(files, read, columns)
    if listing is not None:
        source = open_csv(path / listing, columns)
        return replace(source, name=name, notes=(*source.notes, listing_note(listing)))
    refuse_columns(columns, str(path))
    layout = arrange_annotated(files, read, where=str(path)) or arrange(files, where=str(path))
    return FolderSource(
        name=name,
        location=str(path),
        kind="folder",
        classes=layout.classes,
        items=layout.items,
        notes=(*layout.notes, *filter(None, (note, hidden_images(files, read)))),
        prefix=layout.prefix,
        marks=file_marks({name: status for name, status in files.items() if status is not None}),
    )


def _walk(top: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every visible file below ``top``, with its status where it is an image."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        base = waiting.pop()
        status = Path(top, base).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(Path(top, base)) as entries:
            for entry in entries:
                name = base + entry.name
                if not is_visible(entry.name):
                    continue
                if entry.is_dir():
                    waiting.append(name + "/")
                elif entry.is_file():
                    # stat is the slow part on network disks: only images need it.
                    yield name, entry.stat() if is_image(name) else None


def open_csv(path: Path, columns: Columns | None = None) -> CsvSource:
    """Open the images that a CSV file lists; see :func:`sapling.data.listing.read_listing`."""
    statuses: dict[str, os.stat_result] = {}
    listing = read_listing(path, columns=columns, find=finder(path.parent, statuses))
    return CsvSource(
        name=path.stem,
        location=str(path),
        kind="csv",
        classes=listing.classes,
        items=listing.items,
        notes=listing.notes,
        marks=file_marks(statuses),
    )
