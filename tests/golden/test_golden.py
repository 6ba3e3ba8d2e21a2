"""Our losses give the numbers of the reference implementations, to 1e-5."""

from __future__ import annotations

import pytest

from tests.golden.rows import GOLDEN, PURE, ROWS, Y


def test_the_labels_are_those_of_the_recipe():
    assert Y.tolist() == [8, 9, 3, 8, 8, 0, 5, 3]


@pytest.mark.parametrize("name", ROWS)
def test_row(name):
    assert float(ROWS[name]()) == pytest.approx(GOLDEN[name], rel=1e-5)


@pytest.mark.parametrize("name", PURE)
def test_pure_function(name):
    assert float(PURE[name]()) == pytest.approx(GOLDEN[name], rel=1e-5)
