"""What lies in the cache folder, and how it is cleared. No torch.

Nothing is removed but what is recognised: folders of stores and of kept answers that Sapling wrote, by their names and
the names of the files inside, never through a link. What a process uses or builds just now is left alone. Each kind of
content has its own folder below :func:`sapling.data.packed.cache_folder` and its own function in ``_KINDS``.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sapling.data.answers import KIND as ANSWERS
from sapling.data.answers import ROWS, USED, is_part
from sapling.data.packed import cache_folder
from sapling.data.packing import BUILDING, lock_file
from sapling.data.storefile import CHECKED, FILES, FOUND, IMAGES, META, lock, locked, read_meta, read_sealed
from sapling.errors import DataError, UsageError, nearest

CLEARING = ".clearing-"
PHASE_FILES = ("card.json", "model.safetensors")
_STORE = re.compile(r"[A-Za-z0-9-]{0,40}-\d+-([0-9a-f]{16})")
_UNFINISHED = re.compile(rf"(?:{re.escape(BUILDING)}|{re.escape(CLEARING)})([0-9a-f]{{16}})-\w+")
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the cache.

    Attributes:
        name: of its folder.
        kind: ``store``, ``old store`` (of another format, which this version does not read), ``damaged store``,
            ``unfinished`` (what a killed process left), ``answers`` (of a teacher), ``damaged answers`` or ``phase``
            (what a phase before the students made).
        data: name of the data set, where it is known.
        images: how many images it holds, or None.
        pixels: side of the images, or None.
        num_bytes: what its files take.
        created: when it was made, ISO text in UTC, or None.
        last_used: when it was last opened, ISO text in UTC, or None.
        source: where the images came from, or None.
        source_exists: whether something is there still; None where that cannot be told.
        place: its folder.
        mark: names the lock of its builder.
    """

    name: str
    kind: str
    data: str | None
    images: int | None
    pixels: int | None
    num_bytes: int
    created: str | None
    last_used: str | None
    source: str | None
    source_exists: bool | None
    place: Path = field(repr=False)
    mark: str = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {**asdict(self), "place": str(self.place)}


@dataclass(frozen=True, slots=True)
class Cleared:
    """What clearing did.

    Attributes:
        removed: what is gone.
        in_use: what is left because a process uses or builds it.
        left: what is left because there are files beside ours in it.
    """

    removed: tuple[Entry, ...]
    in_use: tuple[Entry, ...]
    left: tuple[Entry, ...]

    @property
    def num_bytes(self) -> int:
        """What was freed."""
        return sum(entry.num_bytes for entry in self.removed)


def list_cache(folder: Path | None = None) -> list[Entry]:
    """Everything in the cache that is ours, the last used first.

    Args:
        folder: the cache; default :func:`sapling.data.packed.cache_folder`.
    """
    root = folder if folder is not None else cache_folder()
    found = [entry for kind, recognise in _KINDS.items() for entry in _entries(root / kind, recognise)]
    return sorted(found, key=lambda entry: (entry.last_used or "", entry.name), reverse=True)


def choose(
    entries: Sequence[Entry],
    name: str | None = None,
    *,
    everything: bool = False,
    unused_days: float | None = None,
    now: float | None = None,
) -> list[Entry]:
    """Pick what is to be cleared, in exactly one of three ways.

    Args:
        entries: of :func:`list_cache`.
        name: of an entry, or of a data set (all its stores).
        everything: all of it.
        unused_days: what was not used for so many days; unfinished builds count as never used.
        now: seconds since 1970, for tests.

    Raises:
        UsageError: none or several ways are given, or nothing has that name.
    """
    if sum((name is not None, everything, unused_days is not None)) != 1:
        raise UsageError(
            "what is to be cleared must be said in one way",
            allowed="a name (see sapling cache list), --all, or --unused-days N",
        )
    if unused_days is not None:
        if not 0 <= unused_days < math.inf:
            raise UsageError(f"--unused-days is {unused_days:g}", allowed="0 or more")
        last = _iso((time.time() if now is None else now) - unused_days * _DAY)
        return [entry for entry in entries if (entry.last_used or "") <= last]
    if name is None:
        return list(entries)
    chosen = [entry for entry in entries if name in (entry.name, entry.data)]
    if not chosen:
        known = sorted({entry.name for entry in entries} | {entry.data for entry in entries if entry.data})
        raise UsageError(
            f"nothing in the cache is called {name!r}" + (f": {hint}" if (hint := nearest(name, known)) else ""),
            where=str(cache_folder()),
            remedy="sapling cache list",
        )
    return chosen


def clear_cache(entries: Sequence[Entry]) -> Cleared:
    """Remove entries of :func:`list_cache`, but for those that a process uses or builds just now.

    Raises:
        DataError: a file cannot be removed.
    """
    outcomes: dict[bool | None, list[Entry]] = {True: [], False: [], None: []}
    for entry in entries:
        try:
            outcome = _remove(entry)
        except OSError as error:
            raise DataError(
                f"{entry.name} cannot be removed: {error.strerror or error}", where=str(error.filename or entry.place)
            ) from error
        outcomes[outcome].append(entry)
    return Cleared(tuple(outcomes[True]), tuple(outcomes[False]), tuple(outcomes[None]))


def _remove(entry: Entry) -> bool | None:
    """Remove one entry: True where it is gone, False where it is in use, None where other files stay behind."""
    with ExitStack() as held:
        # Whoever builds this store holds the first lock, whoever reads it shares the second.
        if held.enter_context(locked(lock_file(entry.place.parent, entry.mark), wait=False)) is False:
            return False
        if entry.kind != "unfinished":
            with suppress(OSError):
                handle = os.open(entry.place / META, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
                held.callback(os.close, handle)
                if lock(handle) is False:
                    return False
        if not _is_folder(entry.place):
            return True
        if not all(_is_ours(path, entry.kind) for path in entry.place.iterdir()):
            return None
        # From here on nobody finds it, even if this process is killed before all files are gone.
        gone = entry.place.parent / f"{CLEARING}{entry.mark}-{os.getpid()}"
        entry.place.rename(gone)
        for path in gone.iterdir():
            path.unlink()  # of a link, the link
        gone.rmdir()
    return True


def _is_ours(path: Path, kind: str) -> bool:
    """Whether Sapling writes a file of that name into a folder of that kind."""
    stores, answers, phases = (kind.endswith(word) for word in ("store", "answers", "phase"))
    if kind == "unfinished":  # of any kind: its name is one that only Sapling gives
        stores = answers = phases = True
    name = path.name
    ours = stores and (name in (*FILES, *FOUND) or name.startswith(tuple(f".{n}." for n in (CHECKED, *FOUND))))
    ours = ours or (answers and is_part(name))
    ours = ours or (phases and (name in PHASE_FILES or name.startswith(tuple(f".{n}." for n in PHASE_FILES))))
    return ours and not _is_folder(path)


def _entries(root: Path, recognise: Callable[[Path], Entry | None]) -> Iterator[Entry]:
    with suppress(OSError):
        for place in sorted(root.iterdir()):
            if _is_folder(place) and (entry := recognise(place)) is not None:
                yield entry


def _is_folder(place: Path) -> bool:
    """Whether it is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(place.lstat().st_mode)
    except OSError:
        return False


def _store(place: Path) -> Entry | None:
    """Describe what a build or a killed one left; None for what is not ours."""
    if unfinished := _UNFINISHED.fullmatch(place.name):
        return _entry(place, "unfinished", unfinished[1], {})
    named = _STORE.fullmatch(place.name)
    if named is None:
        return None
    meta = read_meta(place)
    if meta is not None:
        return _entry(place, "store", named[1], meta)
    old = _read_any(place)
    if old is None:
        # Our name, but not what we write: only with a file of pixels is it a store that lost its record.
        return _entry(place, "damaged store", named[1], {}) if (place / IMAGES).is_file() else None
    return _entry(place, "old store" if old.get("format") == 1 else "damaged store", named[1], old)


def _answers(place: Path) -> Entry | None:
    """Describe the kept answers of a teacher; None for what is not ours."""
    if unfinished := _UNFINISHED.fullmatch(place.name):
        return _entry(place, "unfinished", unfinished[1], {})
    named = _STORE.fullmatch(place.name)
    if named is None or not any((place / name).is_file() for name in (META, ROWS)):
        return None
    meta = read_sealed(place / META)
    kind = "damaged answers" if meta is None else "answers"
    return replace(_entry(place, kind, named[1], meta or {}), last_used=_time_of(place / USED))


def _phase(place: Path) -> Entry | None:
    """Describe what a phase before the students made; None for what is not ours."""
    if unfinished := _UNFINISHED.fullmatch(place.name):
        return _entry(place, "unfinished", unfinished[1], {})
    if not re.fullmatch(r"[0-9a-f]{32}", place.name) or not (place / PHASE_FILES[0]).is_file():
        return None
    used = _time_of(place / PHASE_FILES[0])
    return replace(_entry(place, "phase", place.name[:16], {}), created=used, last_used=used)


def _read_any(place: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads((place / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) and "fingerprint" in meta else None


def _entry(place: Path, kind: str, mark: str, meta: dict[str, Any]) -> Entry:
    def known(key: str, wanted: type) -> Any:
        value = meta.get(key)
        return value if isinstance(value, wanted) else None

    location = known("location", str)
    side = (known("recipe", dict) or {}).get("size", known("size", int))
    return Entry(
        name=place.name,
        kind=kind,
        data=known("name", str),
        images=known("images", int),
        pixels=side if isinstance(side, int) else None,
        num_bytes=_size(place),
        created=known("created", str) or _time_of(place / META),
        last_used=None if kind == "unfinished" else _time_of(place / CHECKED) or _time_of(place / IMAGES),
        source=location,
        source_exists=os.path.lexists(location) if location and os.path.isabs(location) else None,  # noqa: PTH117
        place=place,
        mark=mark,
    )


def _size(place: Path) -> int:
    total = 0
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            total += entry.stat(follow_symlinks=False).st_size
    return total


def _time_of(path: Path) -> str | None:
    try:
        return _iso(path.lstat().st_mtime)
    except OSError:
        return None


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(seconds, 0)))


_KINDS: dict[str, Callable[[Path], Entry | None]] = {"stores": _store, ANSWERS: _answers, "phases": _phase}
