"""The lists of planted faults fit the source. Planting them is ``python tests/plant_faults.py``: it takes minutes."""

from __future__ import annotations

from tests.plant_faults import load_faults


def test_every_fault_can_still_be_planted():
    wrong = [f"{f.area}/{f.name}: {problem}" for f in load_faults() if (problem := f.problem())]
    assert not wrong, "\n".join(wrong)


def test_names_are_told_apart():
    names = [f"{f.area}/{f.name}" for f in load_faults()]
    assert len(set(names)) == len(names)
    assert len(names) > 20
