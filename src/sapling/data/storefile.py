"""How a packed store lies on the disk, and how a damaged one is told from a whole one. No torch.

====================  ===========================================================================================
``images.npy``        ``[N,S,S,C]`` uint8, a numpy file
``rows.npy``          ``[N]`` uint32: CRC-32 of each image's pixels
``index.json``        key and content mark of each image: which rows a later store may copy
``meta.json``         what is in it, sealed by its own sha256 and never rewritten: who uses the store locks it
``checked.json``      size and times of ``images.npy`` when all of it was last hashed; its own time is the last use
====================  ===========================================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

FORMAT = 2
"""Raised whenever the layout of the files changes: older stores are not read, but built anew."""

IMAGES, ROWS, INDEX, META, CHECKED = "images.npy", "rows.npy", "index.json", "meta.json", "checked.json"
FILES = (IMAGES, ROWS, INDEX, META, CHECKED)
FOUND = ("matches.json", "name_pattern.json")
"""What searches in the pixels found; see :mod:`sapling.data.similar`."""
_SAMPLE = 16

Shape = tuple[int, int, int, int]
Labels = npt.NDArray[np.int64] | npt.NDArray[np.uint8]


# Writing -------------------------------------------------------------------------------------------------


def write_header(file: BinaryIO, shape: Shape) -> int:
    """Write the header of ``images.npy`` and return its length, which leaves room for any number of images."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def begin_fingerprint(shape: Shape) -> hashlib._Hash:
    """The hash that all pixels, and then all labels (int64), are fed to."""
    return hashlib.sha256(f"sapling pixels {shape}\n".encode())


def row_check(pixels: npt.NDArray[np.uint8]) -> int:
    """CRC-32 of the pixels of one image."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def write_rest(place: Path, meta: dict[str, Any], *, checks: list[int], keys: list[str], marks: list[str]) -> None:
    """Write everything but ``images.npy``, which is there."""
    np.save(place / ROWS, np.array(checks, dtype=np.uint32))
    # ASCII, because names of files that are no UTF-8 have no other spelling.
    (place / INDEX).write_text(json.dumps({"keys": keys, "marks": marks}), encoding="ascii")
    meta = {**meta, "rows_sha256": _sha256(place / ROWS), "index_sha256": _sha256(place / INDEX)}
    write_sealed(place / META, meta)
    _write_checked(place)


def write_sealed(path: Path, meta: dict[str, Any]) -> None:
    """Write a record that :func:`read_sealed` can tell from a changed one."""
    path.write_text(json.dumps({**meta, "seal": _seal(meta)}, indent=1), encoding="ascii")


def _seal(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_checked(place: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{CHECKED}.", dir=place)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(_times(place / IMAGES), file)
        Path(name).replace(place / CHECKED)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


# Reading -------------------------------------------------------------------------------------------------


def read_meta(place: Path) -> dict[str, Any] | None:
    """``meta.json`` of a store of this format; None where there is none, or a damaged one."""
    meta = read_sealed(place / META)
    return meta if meta is not None and meta.get("format") == FORMAT else None


def read_sealed(path: Path) -> dict[str, Any] | None:
    """A record as it was written; None where it is not there, damaged or changed."""
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
        return meta if meta.pop("seal") == _seal(meta) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def map_images(place: Path, shape: Shape) -> npt.NDArray[np.uint8] | None:
    """``images.npy`` as a read-only memory map; None where it is not there or has another shape."""
    try:
        images = np.load(place / IMAGES, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None
    whole = images.shape == shape and images.dtype == np.uint8 and images.flags.c_contiguous
    return images if whole and (place / IMAGES).stat().st_size == images.offset + images.nbytes else None


def read_rows(place: Path, meta: dict[str, Any]) -> npt.NDArray[np.uint32] | None:
    """``rows.npy``; None where it is damaged."""
    try:
        if _sha256(place / ROWS) != meta["rows_sha256"]:
            return None
        checks: npt.NDArray[np.uint32] = np.load(place / ROWS, allow_pickle=False)
    except (OSError, EOFError, ValueError, KeyError):
        return None
    return checks


def read_index(place: Path, meta: dict[str, Any]) -> tuple[list[str], list[str]] | None:
    """Keys and content marks of all rows; None where they are damaged."""
    try:
        if _sha256(place / INDEX) != meta["index_sha256"]:
            return None
        index = json.loads((place / INDEX).read_text(encoding="ascii"))
        return index["keys"], index["marks"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_sound(place: Path, meta: dict[str, Any], images: npt.NDArray[np.uint8], labels: Labels) -> bool:
    """Whether the pixels are those that were written.

    Where size and times of the file are as they were when all of it was hashed, a sample of its rows is
    compared; else (something wrote to it, or the store was copied) all of it is hashed again.
    """
    checks = read_rows(place, meta)
    if checks is None or len(checks) != len(images):
        return False
    try:
        if _checked(place) == _times(place / IMAGES):
            return _sample_is_right(place, images, checks)
        if fingerprint_of(place, images, labels) != meta["fingerprint"]:
            return False
    except OSError:  # a disk error is no crash when the file is read and not mapped
        return False
    with suppress(OSError):  # a cache that may only be read is hashed each time
        _write_checked(place)
    return True


def fingerprint_of(place: Path, images: npt.NDArray[np.uint8], labels: Labels) -> str:
    """sha256 of all pixels, as they lie on the disk, and labels."""
    digest = begin_fingerprint(images.shape)
    with (place / IMAGES).open("rb") as file:
        file.seek(_start(images))
        while block := file.read(2**20):
            digest.update(block)
    digest.update(labels.tobytes())
    return digest.hexdigest()


def _start(images: npt.NDArray[np.uint8]) -> int:
    return int(getattr(images, "offset", 0))


def _sample_is_right(place: Path, images: npt.NDArray[np.uint8], checks: npt.NDArray[np.uint32]) -> bool:
    length = int(np.prod(images.shape[1:]))
    rows = np.unique(np.linspace(0, len(images) - 1, num=_SAMPLE).astype(np.int64)) if len(images) else ()
    with (place / IMAGES).open("rb") as file:
        for row in rows:
            file.seek(_start(images) + int(row) * length)
            if zlib.crc32(file.read(length)) != checks[row]:
                return False
    return True


def _times(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def _checked(place: Path) -> Any:
    try:
        return json.loads((place / CHECKED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


# Locks and use -------------------------------------------------------------------------------------------


def note_use(place: Path) -> None:
    """Make now the time of the last use."""
    with suppress(OSError):
        os.utime(place / CHECKED)


def hold(place: Path) -> int | None:
    """Keep others from removing the store while the returned file descriptor is open.

    None where there is no store, or one that is being removed just now.
    """
    try:
        handle = os.open(place / META, os.O_RDONLY)
    except OSError:
        return None
    if lock(handle, shared=True) is False or os.fstat(handle).st_nlink == 0:
        os.close(handle)
        return None
    return handle


def lock(handle: int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Lock an open file; False where another process holds it, None where the system cannot lock files."""
    try:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True  # the system lets go of it when the file is closed or the process dies


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool | None]:
    """Lock the file ``path``, which is made where it is missing; yields what :func:`lock` returns."""
    with path.open("a") as file:
        yield lock(file.fileno(), wait=wait)
