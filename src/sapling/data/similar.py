"""The searches for duplicates and for groups in names: what they found is kept beside the store. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from sapling.data.duplicates import Match, find_matches
from sapling.data.namegroups import NamePattern, propose_group_pattern
from sapling.data.packed import PackedStore
from sapling.data.sources import Source
from sapling.data.storefile import FOUND

VERSION = 1
"""Raised whenever a search changes: what older versions found is then searched anew."""

MATCHES_FILE, PATTERN_FILE = FOUND


def find_duplicates(store: PackedStore, *, progress: Callable[[int, int], None] | None = None) -> tuple[Match, ...]:
    """Find the pairs of images of a store that show the same picture, or read what was found before.

    Args:
        store: the pixels.
        progress: is called with (done, in all) while searching.
    """
    path, total = store.folder / MATCHES_FILE, len(store.images)
    kept = _read(path, store.fingerprint)
    with suppress(TypeError, ValueError):
        if kept is not None:
            found = tuple(Match(int(a), int(b), str(k), str(t), float(d)) for a, b, k, t, d in kept)
            if all(0 <= m.first < total and 0 <= m.second < total for m in found):
                return found
    found = tuple(find_matches(store.shown, progress=progress))
    _write(path, store.fingerprint, [astuple(match) for match in found])
    return found


def find_pattern(source: Source, store: PackedStore) -> NamePattern | None:
    """Find the group pattern that names and pictures ask for, or read what was found before.

    Args:
        source: the images, in the order of the store.
        store: their pixels.
    """
    names = "\n".join(store.keys).encode(errors="surrogateescape")
    path, mark = store.folder / PATTERN_FILE, f"{store.fingerprint} {hashlib.sha256(names).hexdigest()}"
    kept = _read(path, mark)
    with suppress(TypeError, ValueError, KeyError):
        if kept is not None:
            return NamePattern(**{**kept[0], "examples": tuple(kept[0]["examples"])}) if kept else None
    # Of several labels none is the class of an image; see with_groups.
    labels = np.zeros_like(source.labels) if source.multi_label else source.labels
    found = propose_group_pattern(store.keys, labels, store.shown)
    slots = ("pattern", "num_groups", "num_images", "examples", "likeness", "p_value")
    _write(path, mark, [{name: getattr(found, name) for name in slots}] if found else [])
    return found


def _read(path: Path, mark: str) -> list[Any] | None:
    """What was found, or None where nothing is kept that belongs to these pixels."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] == VERSION and content["mark"] == mark and isinstance(content["found"], list):
            found: list[Any] = content["found"]
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, mark: str, found: list[Any]) -> None:
    """Keep what was found; a cache that cannot be written costs time and nothing else."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "mark": mark, "found": found}, file, ensure_ascii=True)
        Path(temporary).replace(path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
