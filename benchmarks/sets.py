"""The real sets that methods are developed on, each with one fixed split: choices are made on dev, never on test.

    python benchmarks/sets.py            check that files and splits are those of splits.json
    python benchmarks/sets.py --write    after a set was added: write splits.json anew

Splits are cut as ``sapling distill`` cuts them: what shows one picture, and what shows one thing from several sides,
stays in one part, and a set of which anything crosses is refused.

``splits.json`` fixes train, dev and test of every set by the hash of the file and the fingerprint of the split. In the
benchmarks ``dev`` is what the library calls ``val``. Only ``final_*.py`` may ask for test images, through
:func:`open_test`, which writes each opening into ``results/test_openings.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sklearn.datasets import load_digits

from sapling.data.leaks import check_leaks
from sapling.data.loader import Dataset, load_data
from sapling.data.sources import Source, open_source
from sapling.data.splits import Split, make_split
from sapling.record import now, write_json
from sapling.workflows.gate import some

Most = tuple[int | None, int | None]
HERE = Path(__file__).parent
SPLITS, OPENINGS = HERE / "splits.json", HERE / "results" / "test_openings.jsonl"
SETS: dict[str, dict[str, Any]] = {
    "digits": {"file": "digits"},
    "aid": {"file": "aid_100.zip", "img_size": 64, "views": "aerial", "val_share": 0.2, "test_share": 0.2},
    "eurosat": {"file": "eurosat_rgb.zip", "img_size": 64, "views": "aerial"},
    "trees": {
        "file": "street_trees_lidar.zip",
        "img_size": 64,
        "views": "light",
        "group_pattern": "(.+)_view",
        "keeps_parts": False,
    },
}
"""Settings of ``load_data``; ``keeps_parts`` is False where the parts of the file itself show the same trees."""
SUBSETS: dict[str, Most] = {"eurosat": (3000, 1500)}
"""Images to train and for dev, where all of them would take hours on two cores."""


def place_of(name: str) -> Path:
    """The file of a set; digits come with scikit-learn."""
    if SETS[name]["file"] == "digits":
        return Path("digits")
    root = os.environ.get("SAPLING_TEST_DATA")
    if not root:
        sys.exit(f"SAPLING_TEST_DATA does not name the folder of {SETS[name]['file']}")
    return Path(root) / SETS[name]["file"]


def open_dev(name: str, *, most: Most | None = None, **changes: Any) -> Dataset:
    """A set whose test images cannot be reached: its test part is empty.

    Args:
        name: of the set.
        most: images to train and for dev, where it has more; None in its place is all of a part. Default `SUBSETS`.
        **changes: of the images' size or views; not of the split.
    """
    data = subset(name, _opened(name, **changes), most)
    return replace(data, split=replace(data.split, test=data.split.test[:0]))


def subset(name: str, data: Dataset, most: Most | None = None) -> Dataset:
    """At most so many images to train and for dev; test is left whole.

    Args:
        name: of the set.
        data: the set.
        most: as of :func:`open_dev`.
    """
    for part, count in zip(("train", "val"), most or SUBSETS.get(name, (None, None)), strict=True):
        data = data if count is None else some(data, part, count)  # type: ignore[arg-type]
    return data


def open_test(name: str, *, reason: str, **changes: Any) -> Dataset:
    """A set whole; the opening is written down.

    Args:
        name: of the set.
        reason: what is claimed, and by which script.
        **changes: as of :func:`open_dev`.
    """
    note_opening(name, reason)
    return _opened(name, **changes)


def note_opening(name: str, reason: str) -> None:
    """Write down that test images are looked at now; ends a script that may not.

    Args:
        name: of the set.
        reason: as of :func:`open_test`.
    """
    if not Path(sys.argv[0]).name.startswith("final_"):
        sys.exit(f"{sys.argv[0]} asks for the test images of {name}: only benchmarks/final_*.py may")
    OPENINGS.parent.mkdir(exist_ok=True)
    with OPENINGS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"set": name, "when": now(), "script": Path(sys.argv[0]).name, "reason": reason}) + "\n")


def described(name: str, split: Split) -> dict[str, Any]:
    """What ``splits.json`` holds of a set."""
    if (place := place_of(name)).exists():
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        digits = load_digits()
        digest = hashlib.sha256(
            digits.images.astype("<f8").tobytes() + digits.target.astype("<i8").tobytes()
        ).hexdigest()
    parts = {part: len(split.part(part)) for part in ("train", "val", "test")}
    return {"file": SETS[name]["file"], "sha256": digest, "split": split.fingerprint, **parts}


def _opened(name: str, **changes: Any) -> Dataset:
    """The set as its own settings cut it, after the check for what crosses; ``changes`` do not change the split."""
    settings = {k: v for k, v in SETS[name].items() if k not in ("file", "keeps_parts")}
    source = open_source(str(place_of(name)))
    if not SETS[name].get("keeps_parts", True):
        source = replace(source, items=tuple(replace(item, split=None) for item in source.items))
    data = load_data(source, **settings)
    shares = {k: settings[k] for k in ("val_share", "test_share") if k in settings}

    def recut(source: Source) -> Split:
        return make_split(source, **shares)

    checked = check_leaks(data.source, data.split, data.store, recut=recut)
    checked.stop_unless_allowed()
    data = replace(data, source=checked.source, split=checked.split, leaks=checked.leaks)
    known = json.loads(SPLITS.read_text(encoding="utf-8")).get(name) if SPLITS.exists() else None
    if known != (found := described(name, data.split)) and "--write" not in sys.argv:
        sys.exit(f"{name} is not the set that splits.json fixes:\n  known {known}\n  found {found}")
    if changes:
        kept = data
        again = load_data(kept.source, **{**settings, "group_pattern": None, **changes}, split=lambda _: kept.split)
        data = replace(again, leaks=kept.leaks)
    return data


def main() -> None:
    """Check, or write."""
    found = {name: described(name, _opened(name).split) for name in SETS}
    if "--write" in sys.argv:
        write_json(SPLITS, found)
    for name, card in found.items():
        print(name, card)


if __name__ == "__main__":
    main()
