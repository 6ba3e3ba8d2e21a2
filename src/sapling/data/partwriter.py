"""Writes the files of kept answers: whole or not at all. No torch."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sapling.data.answers import BUILDING, AnswerStore, Array
from sapling.errors import RunError


class CannotHoldError(RunError):
    """The answers have values that cannot be kept."""


class PartWriter:
    """Writes the files of one view; they get their names together, when all of it is there.

    Args:
        store: where they go; its lock is held by the caller.
        view: number of the view.
        shapes: part to shape of one image's row.
        dtypes: part to type; float16 where none is given.
    """

    def __init__(
        self,
        store: AnswerStore,
        view: int,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, type[np.generic]] | None = None,
    ) -> None:
        self._store, self._view, self._stack = store, view, ExitStack()
        self._files: dict[str, tuple[BinaryIO, Path]] = {}
        self._dtypes = {part: np.dtype((dtypes or {}).get(part, np.float16)) for part in shapes}
        self._checks = dict.fromkeys(shapes, 0)
        self._written = dict.fromkeys(shapes, 0)
        for part, shape in shapes.items():
            handle, name = tempfile.mkstemp(prefix=BUILDING, dir=store.place)
            file: BinaryIO = self._stack.enter_context(os.fdopen(handle, "wb+"))
            self._files[part] = file, Path(name)
            header = {
                "descr": np.lib.format.dtype_to_descr(self._dtypes[part]),
                "fortran_order": False,
                "shape": (len(store.rows), *shape),
            }
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            file.seek(0)
            self._checks[part] = zlib.crc32(file.read())

    def append(self, part: str, values: Array) -> None:
        """Add the rows of the next images.

        Raises:
            RunError: a value is too large for float16, or not finite.
        """
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(values, dtype=self._dtypes[part])
        if kept.dtype.kind == "f" and not np.isfinite(kept).all():
            raise CannotHoldError(
                f"the teacher's {part} has values that float16 cannot hold, so its answers cannot be kept",
                remedy="ask the teacher for each batch: --teacher-cache off",
            )
        data = kept.tobytes()
        self._files[part][0].write(data)
        self._checks[part] = zlib.crc32(data, self._checks[part])
        self._written[part] += len(kept)

    def finish(self) -> None:
        """Give the files their names."""
        if set(self._written.values()) != {len(self._store.rows)}:
            raise RunError("answers to some images are missing", where=str(self._store.place))
        for file, _ in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._stack.close()
        for part, (_, path) in self._files.items():
            path.chmod(0o644)
            path.rename(self._store.place / f"{part}-{self._view:04d}-{self._checks[part]:08x}.npy")

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        for opened in self._files.values():
            opened[1].unlink(missing_ok=True)


def sweep_parts(place: Path) -> None:
    """Remove what a killed build left half written; the caller holds the lock."""
    for left in place.glob(f"{BUILDING}*"):
        left.unlink(missing_ok=True)
