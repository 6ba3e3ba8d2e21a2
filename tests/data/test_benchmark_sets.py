"""The sets that methods are developed on: nothing crosses their splits, which are those that are written down."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from sapling.data.leaks import torn_groups
from sapling.data.pairs import parts_of
from sapling.data.similar import find_duplicates
from tests.data.pictures import real

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def sets():
    """``benchmarks/sets.py``, which is no package."""
    spec = importlib.util.spec_from_file_location("benchmark_sets", BENCHMARKS / "sets.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sets.py"])  # or else --write of the caller would let any split pass
        spec.loader.exec_module(module)
        yield module


def test_every_set_is_written_down(sets):
    known = json.loads((BENCHMARKS / "splits.json").read_text())
    assert known.keys() == sets.SETS.keys()
    assert all(entry["train"] > entry["val"] > 0 and entry["test"] > 0 for entry in known.values())


@pytest.mark.parametrize("name", ["aid", "trees"])
def test_nothing_crosses_the_split_of_a_set(sets, name):
    """Searched for anew in the pixels: no pair of alike pictures, no group of pictures of one thing.

    Among all of EuroSAT this takes too long for a test; ``benchmarks/sets.py`` searches there.
    """
    real(sets.SETS[name]["file"])
    data = sets._opened(name)  # ends the process where the split is not the one of splits.json
    homes = parts_of(len(data.source.items), data.split)
    assert sorted(set(homes)) == ["test", "train", "val"]
    matches = find_duplicates(data.store)
    assert matches, "each of these sets has alike pictures: the search found none"
    assert [m for m in matches if homes[m.first] != homes[m.second]] == []
    assert torn_groups(data.source.items, data.split) == ()
    if name == "trees":
        trees: dict[str, set[str]] = {}
        for item, home in zip(data.source.items, homes, strict=True):
            trees.setdefault(item.key.rpartition("/")[2].partition("_view")[0], set()).add(home)
        assert len(trees) > 800
        assert all(len(parts) == 1 for parts in trees.values())


def test_dev_never_shows_test_images_and_other_sizes_keep_the_split(sets):
    data = sets.open_dev("digits", img_size=16)
    whole = sets._opened("digits")
    assert (data.img_size, len(data.split.test)) == (16, 0)
    assert data.split.train.tolist() == whole.split.train.tolist()
    assert data.split.val.tolist() == whole.split.val.tolist()
    few = sets.open_dev("digits", most=(20, None))
    assert [len(few.split.part(part)) for part in ("train", "val", "test")] == [20, len(whole.split.val), 0]
    assert set(few.split.train) < set(whole.split.train)
    with pytest.raises(SystemExit, match="only benchmarks/final_"):
        sets.open_test("digits", reason="none")


def test_every_opening_of_test_images_is_written_down(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "OPENINGS", tmp_path / "results" / "openings.jsonl")
    monkeypatch.setattr(sys, "argv", ["benchmarks/final_try.py"])
    for reason in ("one claim", "another"):
        data = sets.open_test("digits", reason=reason)
    assert len(data.split.test) == json.loads((BENCHMARKS / "splits.json").read_text())["digits"]["test"]
    lines = [json.loads(line) for line in sets.OPENINGS.read_text().splitlines()]
    assert [(e["set"], e["script"], e["reason"]) for e in lines] == [
        ("digits", "final_try.py", "one claim"),
        ("digits", "final_try.py", "another"),
    ]
    assert all(e["when"] for e in lines)


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_only_final_scripts_reach_test_images(script):
    """Neither by the function that opens them nor by a whole run of the library on a set."""
    text = script.read_text(encoding="utf-8")
    if script.name.startswith("final_"):
        assert "open_test(" in text or "note_opening(" in text
    elif script.name != "sets.py":
        # several_labels.py makes a set of its own, of train and dev images: its "test" part is dev
        runs = () if script.name == "several_labels.py" and "open_dev(" in text else ("sapling.distill(",)
        assert not [word for word in ("open_test", '_opened("', *runs) if word in text]
