"""Images inside a zip, read in place. No torch.

A zip is never extracted: its paths are names and nothing else, and entries that point outside of it are refused.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sapling.data.base import MAX_FILE_BYTES, Source, decode_image, too_large
from sapling.data.formats import hidden_images
from sapling.data.layout import LAYOUTS, Item, Layout, arrange, many, printable
from sapling.data.listing import COLUMNS, Columns, Read, find_listing, listing_note, read_listing, refuse_columns
from sapling.data.raster import Picture
from sapling.data.supervisely import arrange_annotated
from sapling.data.table import MAX_TABLE_BYTES
from sapling.errors import DataError

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_STEP_BYTES = 2**16


@dataclass
class ZipSource(Source):
    """Images inside a zip, read in place; safe with threads and after a fork."""

    prefix: str = ""
    entries: dict[str, zipfile.ZipInfo] = field(default_factory=dict, repr=False)
    _handle: tuple[int, zipfile.ZipFile] | None = field(default=None, repr=False)

    def open(self, item: Item) -> Picture:
        """Open one image; see :meth:`Source.open`."""
        entry = self.entries[self.prefix + item.key]
        if entry.file_size > MAX_FILE_BYTES:
            raise too_large(entry.file_size)
        if entry.flag_bits & 1:
            raise DataError("the entry is encrypted")
        if entry.compress_type not in _METHODS:
            raise DataError("the entry is compressed in a way that is not read: only deflate and no compression are")
        return decode_image(_inflate(self._archive(), entry, entry.file_size + 1))

    def head(self, item: Item, num_bytes: int) -> bytes:
        """Read the first bytes of an image's entry; see :meth:`Source.head`."""
        try:
            return _read(self._archive(), self.entries[self.prefix + item.key], num_bytes)
        except OSError:
            return b""

    def _archive(self) -> zipfile.ZipFile:
        # A forked process shares the position in the file with its parent: it opens the zip anew.
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), zipfile.ZipFile(self.location))
        return self._handle[1]

    def _marks(self) -> Iterator[str]:
        for item in self.items:
            entry = self.entries[self.prefix + item.key]
            yield f"{entry.CRC:08x} {entry.file_size}"


def open_zip(path: Path, columns: Columns | None = None) -> ZipSource:
    """Open a zip of images: listed by a CSV file at its top, annotated, or in folders of classes.

    Args:
        path: the zip.
        columns: names of the columns of its CSV file.

    Raises:
        DataError: it is no zip, holds paths that point outside of it, or no labelled images.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"the file cannot be read as a zip: {error}",
            where=str(path),
            allowed=f"a folder or a .zip with {LAYOUTS}; or a .csv with {COLUMNS}",
        ) from error
    with archive:
        entries: dict[str, zipfile.ZipInfo] = {}
        links = 0
        for entry in archive.infolist():
            if not entry.filename:
                raise DataError("the zip is damaged: an entry has no name", where=str(path), remedy="copy it again")
            name = _entry_name(entry, path)
            if stat.S_ISLNK(entry.external_attr >> 16):
                links += 1
            elif not entry.is_dir():
                # A later entry of the same name replaces the earlier one, as when a zip is updated.
                entries[name] = entry

        def read(name: str, num_bytes: int) -> bytes:
            return _read(archive, entries[name], num_bytes)

        layout = _layout(path, entries, read, columns)
        notes = [*layout.notes, *([f"Ignored: {many(links, 'link')} in the zip."] if links else [])]
    return ZipSource(
        name=path.stem,
        location=str(path),
        kind="zip",
        classes=layout.classes,
        items=layout.items,
        notes=tuple(notes),
        prefix=layout.prefix,
        entries=entries,
    )


def _layout(path: Path, entries: dict[str, zipfile.ZipInfo], read: Read, columns: Columns | None) -> Layout:
    name, note = find_listing(entries, read, columns)
    if name is None:
        refuse_columns(columns, str(path))
        layout = arrange_annotated(entries, read, where=str(path)) or arrange(entries, where=str(path))
        return replace(layout, notes=(*layout.notes, *filter(None, (note, hidden_images(entries, read)))))
    folder = name[: name.rfind("/") + 1]

    def find(key: str) -> tuple[str, str]:
        return "", "" if folder + key in entries else f"there is no file {key!r}"

    try:
        content = read(name, MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error}", where=f"{path}/{printable(name)}") from error
    listing = read_listing(path / name, columns=columns, content=content, find=find)
    return Layout(listing.classes, listing.items, folder, (*listing.notes, listing_note(name)))


def _inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, num_bytes: int) -> bytes:
    """Read no more than the first ``num_bytes``, in small steps.

    zipfile cuts at the size that an entry declares only *after* it has inflated what was asked for, so a small entry
    that lies about its size would fill the memory. bzip2 and LZMA cannot be inflated in steps at all.
    """
    parts, left = [], num_bytes
    with archive.open(entry) as file:
        while left > 0 and (part := file.read(min(left, _STEP_BYTES))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, num_bytes: int) -> bytes:
    """Read no more than the first ``num_bytes``, or raise OSError with the reason."""
    if entry.compress_type not in _METHODS:
        raise OSError("it is compressed in a way that is not read")
    try:
        return _inflate(archive, entry, num_bytes)
    except (RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise OSError(str(error) or type(error).__name__) from error


def _entry_name(entry: zipfile.ZipInfo, path: Path) -> str:
    """Read the path of an entry, in UTF-8 where it is that, and never one that leaves the zip."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        # Without the flag Python reads cp437, but many programs write UTF-8 and forget the flag.
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = entry.filename
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise DataError(
            f"the zip holds the path {entry.filename!r}, which points outside of it: it is not used",
            where=str(path),
            remedy="make the zip anew from the folder of images",
        )
    return "/".join(parts)
