"""How a teacher's answers to the views of training images lie on the disk. No torch.

One folder holds the answers of one teacher to V views of one set of training images:

======================  =========================================================================================
``meta.json``           what the answers depend on, sealed by its own sha256 and never rewritten: users lock it
``rows.npy``            ``[n]`` int64: the images, by their positions in the packed store
``<part>-<view>-<crc>`` a numpy file ``[n,..]`` float16: ``logits``, or one tap's feature, of one view; where only the
                        largest logits are kept also ``top`` (int32, their classes). The name ends with the CRC-32
                        of the file, so each file vouches for itself
``used``                empty; its time is that of the last use
======================  =========================================================================================

A file appears under its name when it is whole, so a build that is killed goes on where it stopped, and another tap
or view is added beside what there is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sapling.data.packed import cache_folder
from sapling.data.packing import lock_file
from sapling.data.storefile import META, hold, locked, read_sealed, write_sealed
from sapling.errors import DataError, RunError

FORMAT = 2
"""Counts up when the same settings come to give other files."""
KIND = "answers"
LOGITS, TOP = "logits", "top"
ROWS, USED = "rows.npy", "used"
MOST_OPEN = 64
"""Files of one store that are mapped at a time."""
BUILDING = ".part-"
_FILE = re.compile(r"([A-Za-z0-9_.]+)-(\d{4})-([0-9a-f]{8})\.npy")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)

Rows = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def answers_folder() -> Path:
    """Where the answers of all teachers lie."""
    return cache_folder() / KIND


def mark_of(fingerprint: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name what answers depend on."""
    text = json.dumps({"format": FORMAT, **fingerprint}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def part_name(tap: str) -> str:
    """The name of a tap in file names: readable, and its own for each tap."""
    readable = re.sub(r"[^A-Za-z0-9_.]", "_", tap)[:40]
    return f"tap.{readable}.{hashlib.sha256(tap.encode()).hexdigest()[:8]}"


@dataclass
class AnswerStore:
    """The answers of one teacher to V views of the training images.

    While it is in use, ``sapling cache clear`` leaves it alone.

    Attributes:
        place: its folder.
        mark: names what the answers depend on.
        rows: ``[n]`` the images, by their positions in the packed store, ascending.
        num_views: V.
        meta: all that is known of it.
    """

    place: Path
    mark: str
    rows: Rows = field(repr=False)
    num_views: int
    meta: Mapping[str, Any] = field(repr=False)
    _release: Callable[[], object] | None = field(default=None, repr=False)
    _maps: dict[tuple[str, int], Array] = field(default_factory=dict, repr=False)
    _checked: set[str] = field(default_factory=set, repr=False)

    def close(self) -> None:
        """Let ``sapling cache clear`` have it."""
        self._maps.clear()
        if self._release is not None:
            self._release()

    def missing(self, parts: Sequence[str]) -> dict[int, list[str]]:
        """The parts that are not there yet, by view."""
        there = {(m[1], int(m[2])) for p in self.place.iterdir() if (m := _FILE.fullmatch(p.name))}
        lacking = {view: [part for part in parts if (part, view) not in there] for view in range(self.num_views)}
        return {view: found for view, found in lacking.items() if found}

    def read(self, part: str, view: int) -> Array:
        """``[n,..]`` of a part and view, a read-only memory map.

        Raises:
            RunError: it is not there, or damaged; a damaged file is removed, so that it is made anew.
            DataError: the system does not let it be read just now.
        """
        found = self._maps.pop((part, view), None)
        if found is None:
            path = self._file(part, view)
            found = self._opened(path) if path is not None else None
            if found is None:
                if path is not None:
                    _discard(path)
                raise RunError(
                    f"the kept answers of the teacher lack {part} of view {view}, or it is damaged",
                    where=str(self.place),
                    remedy="the same command again makes it anew",
                )
        self._maps[part, view] = found
        while len(self._maps) > MOST_OPEN:  # each holds a descriptor: what was asked for last stays
            self._maps.pop(next(iter(self._maps)))
        return found

    def drop_damaged(self, parts: Sequence[str]) -> list[str]:
        """Remove the files of these parts that are not whole, where they can be removed; gives their names.

        Raises:
            DataError: the system does not let one be read just now.
        """
        damaged = []
        for part in parts:
            for view in range(self.num_views):
                path = self._file(part, view)
                if path is None:
                    continue
                if self._opened(path) is None:
                    _discard(path)
                    damaged.append(path.name)
        return damaged

    def is_whole(self, parts: Sequence[str]) -> bool:
        """Whether every view of these parts is there and undamaged; where it is so, nothing is locked or written."""
        return not self.drop_damaged(parts) and not self.missing(parts)

    def note_use(self) -> None:
        """Make now the time of the last use."""
        with suppress(OSError):
            (self.place / USED).touch()

    def _opened(self, path: Path) -> Array | None:
        """The array of a file, None where it is damaged; what it holds is read over once."""
        try:
            found = _mapped(path, len(self.rows), checked=path.name in self._checked)
        except (OSError, MemoryError) as error:
            raise DataError(
                f"the teacher's kept answers cannot be read: {getattr(error, 'strerror', None) or 'no memory is left'}",
                where=str(path),
                remedy="the same command again, or --teacher-cache off",
            ) from error
        if found is not None:
            self._checked.add(path.name)
        return found

    def _file(self, part: str, view: int) -> Path | None:
        # Of two that were made by two builders the first is as good as the other.
        return next(iter(sorted(self.place.glob(f"{part}-{view:04d}-????????.npy"))), None)


def _discard(path: Path) -> None:
    """Remove a damaged file, so that it is made anew; where nothing can be written, who makes it anew will say so."""
    with suppress(OSError):
        path.unlink()


def _mapped(path: Path, num_rows: int, *, checked: bool) -> Array | None:
    """The array of a whole file, or None; never through a link, and never what is no file.

    Raises:
        OSError, MemoryError: of the system: that says nothing against the file.
    """
    match = _FILE.fullmatch(path.name)
    try:
        if match is None or not stat.S_ISREG(path.lstat().st_mode):
            return None
        check = int(match[3], 16) if checked else 0
        if not checked:
            with path.open("rb") as file:
                while block := file.read(2**22):
                    check = zlib.crc32(block, check)
        array = np.lib.format.open_memmap(path, mode="r")
    except (FileNotFoundError, EOFError, ValueError, OverflowError):
        return None
    wanted = np.int32 if match[1] == TOP else np.float16
    fits = array.dtype == wanted and array.ndim > 1 and len(array) == num_rows
    return array if check == int(match[3], 16) and fits else None


def open_answers(
    fingerprint: Mapping[str, Any], rows: Rows, *, num_views: int, name: str, folder: Path | None = None
) -> AnswerStore:
    """Open the answers that depend on just this, in a new folder where there are none.

    Those that are there need no lock of their builder and can be read where nothing can be written.

    Args:
        fingerprint: everything that the answers depend on, as JSON.
        rows: ``[n]`` positions of the images in the packed store.
        num_views: V.
        name: of the data, for people.
        folder: where answers are kept; default :func:`answers_folder`.

    Raises:
        RunError: the folder of that mark holds answers that depend on something else.
        DataError: there are none, and the folder cannot be written.
    """
    root = folder if folder is not None else answers_folder()
    ordered, known, mark = _identified(fingerprint, rows, num_views)
    readable = re.sub(r"[^A-Za-z0-9]", "-", name)[:40].strip("-") or "data"
    place = next(root.glob(f"*-{mark}"), root / f"{readable}-{num_views}-{mark}")
    if place.is_symlink():
        raise RunError("a link stands where answers are kept", where=str(place), remedy="remove the link")
    if (handle := hold(place)) is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with locked(lock_file(root, mark), wait=True):
                handle = hold(place)
                if handle is None:
                    _create(place, mark, known, ordered, num_views, name)
                    handle = hold(place)
        except OSError as error:
            raise unwritable(root, error) from error
    try:
        store = _read(place, mark, known, ordered, num_views)
    except BaseException:
        if handle is not None:
            os.close(handle)
        raise
    if handle is not None:
        store._release = weakref.finalize(store, os.close, handle)
    store.note_use()
    return store


def bytes_there(fingerprint: Mapping[str, Any], rows: Rows, *, num_views: int) -> dict[str, int]:
    """What the answers that depend on just this take already, by part; empty where there are none. Nothing is made."""
    place = next(answers_folder().glob(f"*-{_identified(fingerprint, rows, num_views)[2]}"), None)
    found: dict[str, int] = {}
    for path in place.iterdir() if place is not None else ():
        if match := _FILE.fullmatch(path.name):
            found[match[1]] = found.get(match[1], 0) + path.lstat().st_size
    return found


def _identified(fingerprint: Mapping[str, Any], rows: Rows, num_views: int) -> tuple[Rows, dict[str, Any], str]:
    ordered = np.unique(np.asarray(rows, dtype=np.int64))
    known = {**fingerprint, "num_views": num_views, "rows": hashlib.sha256(ordered.tobytes()).hexdigest()}
    return ordered, known, mark_of(known)


def unwritable(root: Path, error: OSError) -> DataError:
    """The error of a cache that is full or closed."""
    reason = "the disk is full" if error.errno in _NO_SPACE else error.strerror or str(error)
    if error.errno in _CLOSED:
        reason += "; some are missing, and complete ones alone can be used where nothing can be written"
    return DataError(
        f"the teacher's answers cannot be kept: {reason}",
        where=str(root),
        remedy="make room (sapling cache list, sapling cache clear), set SAPLING_CACHE to a folder with more space, "
        "or ask the teacher for each batch: --teacher-cache off",
    )


def _create(place: Path, mark: str, known: Mapping[str, Any], rows: Rows, num_views: int, name: str) -> None:
    place.mkdir(exist_ok=True)
    # A folder without a record is one that lost it: nobody can say what its files are.
    for path in place.iterdir():
        if is_part(path.name) and not path.is_dir():
            path.unlink()
    np.save(place / ROWS, rows)
    meta = {"format": FORMAT, "mark": mark, "name": name, "images": len(rows), "num_views": num_views, "of": {**known}}
    # Renamed into its place: where the record is, all of it is.
    write_sealed(place / f"{BUILDING}record", meta)
    (place / f"{BUILDING}record").replace(place / META)


def _read(place: Path, mark: str, known: Mapping[str, Any], rows: Rows, num_views: int) -> AnswerStore:
    meta = read_sealed(place / META)
    if meta is None or meta.get("format") != FORMAT:
        raise RunError(
            "the record of kept answers is damaged, so nobody can say whose answers they are",
            where=str(place),
            remedy=rebuild(place),
        )
    if (before := meta.get("of")) != (now := json.loads(json.dumps(known))):
        other = sorted(k for k in {*(before or {}), *now} if (before or {}).get(k) != now.get(k))
        raise RunError(
            f"these are answers of another teacher, or to other images: {', '.join(other)} differ",
            where=str(place),
            remedy=rebuild(place),
        )
    try:  # mapped, so that a header that lies about its size takes no memory
        kept = np.lib.format.open_memmap(place / ROWS, mode="r")
    except (OSError, EOFError, ValueError, OverflowError):
        kept = None
    if kept is None or kept.shape != rows.shape or not np.array_equal(kept, rows):
        raise RunError("the list of images of kept answers is damaged", where=str(place), remedy=rebuild(place))
    return AnswerStore(place, mark, rows, num_views, meta)


def rebuild(place: Path) -> str:
    """How to have answers made anew."""
    return f"sapling cache clear {place.name}; the same command again makes them anew"


def is_part(name: str) -> bool:
    """Whether Sapling writes a file of that name into a folder of answers."""
    return bool(_FILE.fullmatch(name)) or name in (META, ROWS, USED) or name.startswith(BUILDING)
