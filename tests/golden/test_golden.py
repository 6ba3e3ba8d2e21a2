"""Our losses give the numbers of the reference implementations, to 1e-5."""

from __future__ import annotations

import pytest

from sapling.methods.registry import built_in
from tests.golden.rows import ABOUT, GOLDEN, PAGE, PURE, ROWS, Y, measured, method_of


def test_the_labels_are_those_of_the_recipe():
    assert Y.tolist() == [8, 9, 3, 8, 8, 0, 5, 3]


@pytest.mark.parametrize("name", ROWS)
def test_row(name):
    assert float(ROWS[name]()) == pytest.approx(GOLDEN[name], rel=1e-5)


@pytest.mark.parametrize("name", PURE)
def test_pure_function(name):
    assert float(PURE[name]()) == pytest.approx(GOLDEN[name], rel=1e-5)


def test_the_page_is_current():
    """But for the last digits of ours, which are the machine's."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(ABOUT), "run: python -m tests.golden.rows --write-docs"
    shown = [row.replace(r"\|", "!").strip("| ").split(" | ") for row in text.removeprefix(ABOUT).splitlines()]
    expected = [[f"`{method}`", name.replace("|", "!"), f"{theirs:.8g}"] for name, method, theirs, _ in measured()]
    assert [row[:3] for row in shown] == expected, "run: python -m tests.golden.rows --write-docs"
    for row, (*_, ours) in zip(shown, measured(), strict=True):
        assert float(row[3]) == pytest.approx(ours, rel=1e-5)
        assert float(row[4]) < 1e-5


def test_every_row_is_of_a_method():
    assert {method_of(name) for name in ROWS} <= set(built_in())
