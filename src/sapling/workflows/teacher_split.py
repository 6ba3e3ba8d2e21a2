"""Which images a given teacher was trained on, where it lies in a run folder, and how many of them are tested here.

A run keeps its split as ``split.csv``; of a teacher that was given to it, the teacher's own split lies beside the
network. Such a folder may come from anyone: no link in it is followed, and a file that is missing, damaged or far too
large says nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from sapling.config import RunConfig
from sapling.data.layout import SPLIT_NAMES, many, printable
from sapling.data.leaks import Leak, refusal
from sapling.data.loader import Dataset
from sapling.data.reuse import source_location
from sapling.data.splitfile import split_text
from sapling.data.splits import PARTS
from sapling.data.table import Faults, read_table
from sapling.errors import SaplingError
from sapling.models.load import weights_alone
from sapling.models.save import WEIGHTS
from sapling.record import SPLIT_FILE, atomic_file
from sapling.report.confined import is_deep, read_confined

NEARLY_ALL = 0.9  # of a teacher's images: a folder to which some were added, or from which a few were taken
MAX_CARD = 2**24  # bytes
MIN_LIMIT = 2**22  # bytes of a split that are read whatever the data here is
_ABOVE = 3  # folders: runs/x/members/y/model.safetensors
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class TeacherSplit:
    """The split of the run that trained a network.

    Attributes:
        model: the network, as it was given.
        path: of the file.
        text: what it holds.
        parts: key of an image to ``train``, ``val`` or ``test``.
        location: where the images were, as an absolute path where it is one; None where that is not recorded.
        classes: their names; None where they are not recorded.
    """

    model: str
    path: Path
    text: bytes
    parts: Mapping[str, str]
    location: str | None = None
    classes: frozenset[str] | None = None

    def is_of(self, data: Dataset) -> bool:
        """Whether it is a split of these images, whatever their size and their format are.

        They have the same classes and the same keys; or they lie in the same place, and nearly all keys are here. Two
        sets that merely number their files in the same way rarely agree in that.
        """
        if self.classes is not None and self.classes != set(data.classes):
            return False
        here = {data.source.items[int(i)].key for part in PARTS for i in data.split.part(part)}
        shared = len(here & self.parts.keys())
        is_all = shared == len(here) == len(self.parts)
        return is_all or (self.location == source_location(data.source) and shared >= NEARLY_ALL * len(self.parts))

    def seen(self, data: Dataset) -> dict[str, Any]:
        """How many validation and test images of ``data`` it was trained on, as JSON."""
        items = data.source.items
        of = {part: [items[int(i)].key for i in data.split.part(part)] for part in ("val", "test")}
        known = {part: [key for key in keys if self.parts.get(key) == "train"] for part, keys in of.items()}
        return {
            "model": self.model,
            "split": os.path.relpath(self.path) if self.path.is_relative_to(Path.cwd()) else str(self.path),
            "seen": {part: len(keys) for part, keys in known.items()},
            "of": {part: len(keys) for part, keys in of.items()},
            "examples": [printable(key) for key in (known["test"] or known["val"])[:_EXAMPLES]],
        }


def split_of(model: str, data: Dataset) -> TeacherSplit | None:
    """The split on which a given network was trained, or None where nothing is known of it.

    Args:
        model: a run folder, a network's folder in one, or a file of weights there.
        data: the images here: a file that is far larger than their split is not read.
    """
    limit = max(MIN_LIMIT, 2 * len(split_text(data.source, data.split)))
    if model.startswith("hf-hub:"):
        return None
    try:
        alone = weights_alone(model)
        given = (alone[1] if alone else Path(model.removeprefix("local-dir:"))).resolve()
        for place in (given, *given.parents[:_ABOVE]):
            card = _json(place, "data.json")
            if (card or (place / WEIGHTS).is_file()) and (text := read_confined(place, SPLIT_FILE, limit=limit)):
                return _read(model, place / SPLIT_FILE, text, card)
            if _json(place, "card.json").get("origin") == "given":
                return None  # the split of that run is not the one that it was trained on
    except (SaplingError, OSError, ValueError, RecursionError):
        pass
    return None


def _json(place: Path, name: str) -> dict[str, Any]:
    found = json.loads(read_confined(place, name, limit=MAX_CARD) or b"{}")
    return found if isinstance(found, dict) and not is_deep(found) else {}


def _read(model: str, path: Path, text: bytes, card: Mapping[str, Any]) -> TeacherSplit | None:
    faults = Faults(path)
    rows, _ = read_table(path, faults, needed=("key", "split"), any_bytes=True, content=text)
    parts = {row.cells["key"]: SPLIT_NAMES.get(row.cells["split"].lower(), "") for row in rows}
    if faults.found or len(parts) < len(rows) or not set(parts.values()) <= set(PARTS):
        return None
    # older runs know the place only as it was typed
    location, classes = card.get("place", card.get("source")), card.get("classes")
    if isinstance(location, str) and "place" not in card and Path(location).exists():
        location = str(Path(location).resolve())
    return TeacherSplit(
        model,
        path,
        text,
        parts,
        location if isinstance(location, str) else None,
        frozenset(map(str, classes)) if isinstance(classes, list) else None,
    )


def check_teacher_splits(
    splits: Sequence[TeacherSplit | None], data: Dataset, config: RunConfig
) -> list[dict[str, Any]]:
    """Stop where validation or test images were training images of a given teacher.

    Args:
        splits: of all that are given.
        data: of the run.
        config: of the run.

    Returns:
        Of each teacher that was trained on some of the images of ``data``: ``model``, ``split`` (its path), and by part
        ``seen`` and ``of``; ``seen`` is 0 where it fits. For the teacher's card.

    Raises:
        DataError: there are such images, and ``data.allow_leaks`` is not set.
    """
    ours = [split for split in splits if split is not None and split.is_of(data)]
    found = [split.seen(data) for split in ours]
    leaks = [(split, entry) for split, entry in zip(ours, found, strict=True) if any(entry["seen"].values())]
    if leaks and not config.data.allow_leaks:
        same = all(split.parts == ours[0].parts for split in ours)
        remedy = _remedy(found[0]["split"] if same else None, config)
        told = [Leak(leak_text(entry), remedy, tuple(entry["examples"])) for _, entry in leaks]
        raise refusal(data.source, told, by_data=False)
    return found


def leak_text(entry: Mapping[str, Any]) -> str:
    """One clause on what a teacher was trained on."""
    seen, of = entry["seen"], entry["of"]
    shares = [
        f"{seen[part]:,} of the {many(of[part], f'{name} image')}"
        for part, name in (("test", "test"), ("val", "validation"))
        if seen[part]
    ]
    return f"the teacher {printable(entry['model'])} was trained on {' and '.join(shares)} of this run"


def leak_notes(card: Mapping[str, Any]) -> list[str]:
    """Warnings of a run that went on all the same, from the card of its teacher."""
    entries = [entry for entry in card.get("trained_on") or () if any(entry["seen"].values())]
    return [f"Leak, and the run was told to go on: {leak_text(entry)}." for entry in entries]


def _remedy(split: str | None, config: RunConfig) -> str:
    """What keeps the images that the teacher knows out of validation and test."""
    anew = "give --teacher the name of a network, which is then trained here, on the training images of this run"
    if split is None:
        return anew
    data, fields = config.data, type(config.data).model_fields
    own = [k for k in ("split_seed", "val_share", "test_share") if getattr(data, k) != fields[k].default]
    instead = f" in place of {' and '.join(f'data.{k}' for k in own)}" if own else ""
    return f"--split {quote(split)}{instead} uses the split that the teacher was trained on\n  or:      {anew}"


def keep_split(home: Path, split: TeacherSplit | None) -> None:
    """Keep the split of a given teacher beside the run's copy of it: that of the run is another."""
    path = home / SPLIT_FILE
    if split is None:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path, "wb") as file:
        file.write(split.text)
