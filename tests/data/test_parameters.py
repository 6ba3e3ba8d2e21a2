from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sapling.data.parameters import (
    DRAWS,
    Draws,
    hash_number,
    operation_amounts,
    sine_and_cosine,
    splitmix64,
    view_parameters,
)
from sapling.data.viewspec import OPERATIONS, PRESETS, ViewSpec

specs = st.builds(ViewSpec, st.sampled_from([0.0, 0.1, 0.125, 0.3, 0.5]), st.booleans(), st.booleans())
numbers = st.integers(-(2**63), 2**63 - 1)


def test_splitmix64_gives_the_published_numbers():
    # First outputs of the reference implementation for the seeds 0 and 1234567.
    golden = 0x9E3779B97F4A7C15
    states = np.array([0, golden, 1234567, (1234567 + golden) % 2**64], dtype=np.uint64)
    assert splitmix64(states).tolist() == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        6457827717110365317,
        3203168211198807973,
    ]


@given(st.integers(-(2**70), 2**70))
def test_any_seed_can_be_hashed(number):
    assert 0 <= hash_number(number) < 2**64
    assert hash_number(number) == hash_number(number % 2**64)


@settings(max_examples=30)
@given(numbers, specs)
def test_parameters_are_drawn_one_by_one_as_together(seed, spec):
    rng = np.random.default_rng(0)
    indices, views = rng.integers(0, 2**40, 50), rng.integers(0, 2**40, 50)
    together = view_parameters(indices, views, seed, spec, 64)
    for k in range(50):
        alone = view_parameters(indices[k : k + 1], views[k : k + 1], seed, spec, 64)
        assert (alone.down[0], alone.right[0], alone.orientation[0]) == (
            together.down[k],
            together.right[k],
            together.orientation[k],
        )


def test_parameters_are_spread_evenly_and_do_not_depend_on_each_other():
    indices, views = (grid.ravel() for grid in np.meshgrid(np.arange(1000), np.arange(60)))
    drawn = view_parameters(indices, views, 0, ViewSpec(shift=0.125, dihedral=True), 64)
    for values, count in ((drawn.down + 8, 17), (drawn.right + 8, 17), (drawn.orientation, 8)):
        assert stats.chisquare(np.bincount(values, minlength=count)).pvalue > 1e-3
        assert values.min() == 0
        assert values.max() == count - 1
    for one, other in ((drawn.down, drawn.right), (drawn.down, drawn.orientation), (drawn.right, drawn.orientation)):
        assert stats.chi2_contingency(stats.contingency.crosstab(one, other).count).pvalue > 1e-3
    # Neighbours in index, view and seed have nothing to do with each other.
    grid = drawn.down.reshape(60, 1000)
    assert abs(np.corrcoef(grid[:, 1:].ravel(), grid[:, :-1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(grid[1:].ravel(), grid[:-1].ravel())[0, 1]) < 0.02
    other_seed = view_parameters(indices, views, 1, ViewSpec(shift=0.125, dihedral=True), 64)
    assert abs(np.corrcoef(drawn.down, other_seed.down)[0, 1]) < 0.02


def test_index_view_and_seed_are_not_mixed_up():
    spec = PRESETS["aerial"]
    one, other = np.arange(1, 200), np.arange(0, 199)
    straight, swapped = view_parameters(one, other, 0, spec, 64), view_parameters(other, one, 0, spec, 64)
    assert (straight.down == swapped.down).mean() < 0.2
    by_index, by_seed = view_parameters(one, one * 0, 7, spec, 64), view_parameters(one * 0 + 7, one, 0, spec, 64)
    assert (by_index.down == by_seed.down).mean() < 0.2


# Draws --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def columns():
    """Every draw, for 100 images and 60 views each: [draws,60,100]."""
    indices, views = (grid.ravel() for grid in np.meshgrid(np.arange(100), np.arange(60)))
    draws = Draws(indices, views, 0)
    return np.stack([draws.uniform(name).reshape(60, 100) for name in DRAWS])


def test_every_draw_is_even(columns):
    for name, column in zip(DRAWS, columns, strict=True):
        assert 0 <= column.min() < 0.01 < 0.99 < column.max() < 1
        assert stats.kstest(column.ravel(), "uniform").pvalue > 1e-4, name


def test_draws_do_not_depend_on_each_other_nor_on_the_neighbours(columns):
    flat = columns.reshape(len(DRAWS), -1)
    # 6,000 pairs: five standard errors
    assert abs(np.corrcoef(flat) - np.eye(len(DRAWS))).max() < 5 / math.sqrt(6000)
    for near, far in ((columns[:, 1:], columns[:, :-1]), (columns[..., 1:], columns[..., :-1])):
        for one, other in zip(near, far, strict=True):
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / math.sqrt(5900)
    # not even in more than a straight line
    for k in range(len(DRAWS) - 1):
        table = np.histogram2d(flat[k], flat[k + 1], bins=6)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-4, DRAWS[k]


def test_a_draw_of_the_whole_batch_is_that_of_each_image():
    spec = PRESETS["strong"]
    index = np.arange(70)
    together = Draws(index, index * 3, 5)
    amounts = operation_amounts(together, spec)
    for k in (0, 1, 31, 69):
        alone = Draws(index[k : k + 1], index[k : k + 1] * 3, 5)
        assert alone.uniform("area")[0] == together.uniform("area")[k]
        assert alone.on_log("aspect", 0.75, 4 / 3)[0] == together.on_log("aspect", 0.75, 4 / 3)[k]
        assert alone.around("hue", 0.0, 0.1)[0] == together.around("hue", 0.0, 0.1)[k]
        assert {n: v[0] for n, v in operation_amounts(alone, spec).items()} == {n: v[k] for n, v in amounts.items()}


def test_the_logarithm_is_even_and_keeps_its_range():
    drawn = Draws(np.arange(20_000), np.zeros(20_000, int), 0).on_log("aspect", 0.5, 2.0)
    assert 0.5 < drawn.min() < 0.501
    assert 1.997 < drawn.max() < 2
    assert stats.kstest(np.log2(drawn) / 2 + 0.5, "uniform").pvalue > 1e-4


def test_what_happens_has_its_probability_and_never_happens_to_the_centre():
    views = np.arange(20_000) % 2 - 1
    happened = Draws(np.arange(20_000), views, 0).happens("erase", 0.3)
    assert not happened[views < 0].any()
    assert stats.binomtest(int(happened.sum()), 10_000, 0.3).pvalue > 1e-4


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=9))
def test_sines_are_those_of_the_angle(turns):
    sine, cosine = sine_and_cosine(np.array(turns))
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * np.array(turns)), atol=1e-4)
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * np.array(turns)), atol=1e-4)
    assert [column[0] for column in sine_and_cosine(np.zeros(1))] == [0, 1]


# Operations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "omit"), [(0, ()), (1, ()), (2, ()), (3, ("equalize", "rotate")), (14, ())])
def test_so_many_different_operations_are_chosen_evenly(count, omit):
    spec = ViewSpec(operations=count, omit=omit, strength=0.4)
    amounts = operation_amounts(Draws(np.arange(6000), np.zeros(6000, int), 0), spec)
    chosen = np.stack([amounts[name] != 0 for name in OPERATIONS])
    assert (chosen.sum(0) == count).all()
    for name, each in zip(OPERATIONS, chosen, strict=True):
        share = 0 if name in omit else count / (14 - len(omit))
        assert stats.binomtest(int(each.sum()), 6000, share).pvalue > 1e-4, name
        values = amounts[name][each]
        assert set(np.abs(values)) <= ({1.0} if name in ("autocontrast", "equalize") else {0.4})
        assert len(values) == 0 or stats.binomtest(int((values > 0).sum()), len(values)).pvalue > 1e-4
    if count == 2:  # given one operation, the others are equally likely: pairs, too
        pairs = (chosen.astype(int) @ chosen.T.astype(int))[np.triu_indices(14, 1)]
        assert stats.chisquare(pairs).pvalue > 1e-4


def test_nothing_is_applied_to_the_centre():
    amounts = operation_amounts(Draws(np.arange(50), np.full(50, -1), 0), PRESETS["strong"])
    assert not any(values.any() for values in amounts.values())


def test_no_setting_changes_what_another_draws():
    draws = Draws(np.arange(500), np.arange(500), 0)
    few, many = (operation_amounts(draws, ViewSpec(operations=n)) for n in (2, 3))
    assert all((many[name][few[name] != 0] != 0).all() for name in OPERATIONS)
