"""A folder in which nothing can be written, whoever runs the tests: rights do not bind root."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_closed: list[str] = []
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.utime", "os.chmod", "os.link", "os.symlink"}


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let every call of Python that would write below ``folder`` fail as on a disk that is mounted read-only."""
    if not _closed:
        sys.addaudithook(_watch)  # it can never be taken away again, but looks at nothing while nothing is closed
    _closed.append(os.fspath(folder) + os.sep)
    try:
        yield
    finally:
        _closed[-1] = ""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not any(_closed) or (event not in _CHANGES and (event != "open" or not arguments[2] & _WRITES)):
        return
    for path in arguments[:2]:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if any(place and text.startswith(place) for place in _closed):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), text)
