"""Content marks: cheap texts that change when the content of an image's file does. No torch.

Of a file: size, time of the last change of its content, and of its status (``st_ctime``, which no program can set
back). Files that share all three (copied in one tick of the clock, of one size, as uncompressed pictures are) get
their inode number beside them: without it two folders that change places would not be noticed. The inode is left out
elsewhere because network file systems give new ones with every mount. Of an entry of a zip: checksum and size.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sapling.data.sources import Source

_KINDS_WITH_CONTENT_MARKS = ("folder", "csv", "zip")


def file_mark(status: os.stat_result) -> str:
    """Mark of one file."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def file_marks(files: Mapping[str, os.stat_result]) -> dict[str, str]:
    """Mark of every file of a data set, by its name."""
    marks = {name: file_mark(status) for name, status in files.items()}
    shared = {mark for mark, count in Counter(marks.values()).items() if count > 1}
    return {name: f"{mark} {files[name].st_ino}" if mark in shared else mark for name, mark in marks.items()}


def is_content(source: Source) -> bool:
    """Whether equal marks mean equal files, whatever their folders are called."""
    return source.kind in _KINDS_WITH_CONTENT_MARKS
