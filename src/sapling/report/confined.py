"""Reading and writing in a run folder that may come from anyone: no link is followed, no size is trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from sapling.errors import RunError

MAX_JSON, MAX_SETTINGS = 2**29, 2**20  # bytes
MAX_DEPTH = 64  # of nested lists and mappings; a run writes about ten


def is_within(path: Path, place: Path) -> bool:
    """Whether a path that can exist stays in a folder when all links are followed."""
    try:
        path.exists()  # says so if a name is too long or no text
        return path.resolve().is_relative_to(place.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a ring
        return False


def read_confined(place: Path, *names: str, limit: int = MAX_JSON) -> bytes | None:
    """The bytes of a file in a run folder, or None if there is none.

    Raises:
        RunError: it is reached by a link, is no regular file, is larger than ``limit`` or cannot be read.
    """
    path = place.joinpath(*names)
    _refuse_links(place, names)
    # A link that is put there meanwhile is not followed; a pipe that nobody writes to does not block.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}", "repeat the command of the run") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "is no regular file", "delete it, or put the run's own file there")
        if status.st_size > limit:
            raise _refused(path, f"is larger than {limit >> 20} MB", "delete it, or repeat the command of the run")
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(limit)
    finally:
        os.close(handle)


def refuse_output(place: Path, *names: str) -> None:
    """Refuse to write where a link leads, or over anything but a regular file.

    Raises:
        RunError: names what is in the way.
    """
    _refuse_links(place, names)
    path = place.joinpath(*names)
    for folder in (place.joinpath(*names[:k]) for k in range(1, len(names))):
        if folder.exists() and not folder.is_dir():
            raise _refused(folder, "is no folder", "delete it: the report makes its own")
    if path.exists() and not path.is_file():
        raise _refused(path, "is no regular file", "delete it: the report makes its own")


def is_deep(content: Any) -> bool:
    """Whether lists and mappings are nested deeper than any run nests them, or in a ring."""
    level = {id(content): content}
    for _ in range(MAX_DEPTH):
        inner = (v for c in level.values() for v in (c.values() if isinstance(c, dict) else c))
        level = {id(v): v for v in inner if isinstance(v, dict | list)}
        if not level:
            return False
    return True


def _refuse_links(place: Path, names: tuple[str, ...]) -> None:
    """The run folder itself may be a link: the caller named it. Nothing below it may."""
    for path in (place.joinpath(*names[: k + 1]) for k in range(len(names))):
        if path.is_symlink() or not is_within(path, place):
            remedy = "delete the link, or put what it leads to in its place if you trust it"
            raise _refused(path, "is a link, and a run folder is used only as far as it holds no links", remedy)


def _refused(path: Path, what: str, remedy: str) -> RunError:
    return RunError(f"{path.name} {what}", where=str(path), remedy=remedy)
