"""Holm's adjustment against its definition in words, and what must hold for any p-values."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.evaluation import holm

P_VALUES = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=12)


def naive_holm(p_values):
    """Step down: the k-th smallest is multiplied by how many are left, and is no smaller than those before it."""
    adjusted = [0.0] * len(p_values)
    before = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        before = max(before, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = before
    return adjusted


@given(P_VALUES)
def test_holm_is_its_definition(p_values):
    assert holm(p_values) == pytest.approx(naive_holm(p_values))


@given(P_VALUES)
def test_holm_lies_between_the_raw_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for raw, p in zip(p_values, adjusted, strict=True):
        assert raw <= p <= min(1.0, raw * len(p_values)) + 1e-12
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


@given(P_VALUES, st.randoms())
def test_holm_does_not_ask_in_which_order_methods_are_named(p_values, random):
    order = list(range(len(p_values)))
    random.shuffle(order)
    turned = holm([p_values[i] for i in order])
    assert turned == pytest.approx([holm(p_values)[i] for i in order])
