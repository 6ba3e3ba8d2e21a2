"""Who looked at which test images on this machine: a small record in the cache folder. No torch.

One file for each set of test images, ``openings/<fingerprint>.jsonl``, one line of JSON for each opening, beside the
stores and never cleared with them. It holds names of run folders, no paths. Nothing depends on it but what a report
says: a file that is missing, damaged, foreign or too large, or a folder that cannot be written, stops no run; the count
is then unknown.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sapling.data.packed import cache_folder
from sapling.data.sources import Source

FOLDER = "openings"
MAX_BYTES = 4 * 2**20  # of one file: some 20,000 openings
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Opening:
    """One look at test images.

    Attributes:
        when: ISO text.
        task: ``distill``, ``train`` or ``evaluate``.
        run: name of the run folder, or of what was measured.
        started: when the run began, ISO text; None where every call is a look of its own.
        method: of the run.
        seeds: of the run.
    """

    when: str
    task: str
    run: str
    started: str | None = None
    method: str = "none"
    seeds: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Looks:
    """How often test images were looked at.

    Attributes:
        this_run: by this run, the last one included; more than once where it was killed while it judged.
        before: by how many other runs or calls before that.
    """

    this_run: int
    before: int


def fingerprint_of_test(source: Source, test: npt.NDArray[np.int64]) -> str:
    """Identity of test images: sha256 of their keys and labels, whatever their order, size and the other parts are.

    Args:
        source: all images.
        test: ``[n]`` positions of the test images.
    """
    truth = source.truth
    lines = sorted(f"{source.items[i].key}\0{truth[i].tolist()}" for i in test.tolist())
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def record_opening(fingerprint: str, opening: Opening, folder: Path | None = None) -> Looks | None:
    """Add a line and count; None where that cannot be done.

    Args:
        fingerprint: of :func:`fingerprint_of_test`.
        opening: this one.
        folder: the cache; default :func:`sapling.data.packed.cache_folder`.
    """
    path = (folder if folder is not None else cache_folder()) / FOLDER / f"{fingerprint[:32]}.jsonl"
    kept = asdict(opening) | {"run": _plain(opening.run), "seeds": list(opening.seeds)}
    # in one write at the end of the file: others may write at the same time
    line = json.dumps(kept, ensure_ascii=True, separators=(",", ":")) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # neither a link nor a pipe is written to, or waited for
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(path, flags, 0o644)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size + len(line) > MAX_BYTES:
                return None
            os.write(handle, line.encode("ascii"))
            end = os.lseek(handle, 0, os.SEEK_CUR)  # of our line, whatever others wrote after it
            os.lseek(handle, 0, os.SEEK_SET)
            with os.fdopen(os.dup(handle), "rb") as file:
                text = file.read(end)
        finally:
            os.close(handle)
        openers = [_opener(line, number) for number, line in enumerate(text.splitlines())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    *earlier, own = openers
    return Looks(openers.count(own), len({*earlier} - {own}))


def _plain(name: str) -> str:
    """A name that fits on a line; bytes that are no text become question marks."""
    return name.encode("utf-8", errors="replace").decode("utf-8")[:_MAX_NAME]


def _opener(line: bytes, number: int) -> tuple[str, str]:
    """Who looked: a run is one, however often it did; a call by itself is one each time."""
    entry = json.loads(line)
    return (str(entry["run"]), str(entry["started"])) if entry["started"] is not None else ("", str(number))
