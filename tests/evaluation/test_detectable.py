"""What a plan with more seeds can show: each part of it by hand, and the page that prints it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sapling.evaluation.crossed import Parts, make_layout, smallest_shown, standard_errors_to_show, take_apart
from sapling.evaluation.verdict import compare

PARTS = Parts(
    difference=np.asarray(0.01),
    seed_differences=np.zeros(4),
    seeds=np.asarray(3e-4),
    images=np.asarray(5e-5),
    residual=np.asarray(2e-5),
    one=1e-7,
    num_differing=np.asarray(50),
    is_constant=np.asarray(False),
    num_seeds=4,
    num_groups=300,
    effective_groups=300.0,
)


def by_hand(parts: Parts, factor: float) -> float:
    """Variances as the module's docstring divides them, seeds so many times as many."""
    S, G = parts.num_seeds * factor, parts.num_groups
    seeds, images = float(parts.seeds) / factor, float(parts.images)
    freedom = (seeds + images) ** 2 / (seeds**2 / (S - 1) + images**2 / (G - 1))
    found = [standard_errors_to_show(freedom, 0.95) * math.sqrt(seeds + images)]
    if S <= 3:
        found.append(standard_errors_to_show(S - 1, 0.95) * math.sqrt(seeds))
    least = float(parts.residual) / factor + images + parts.one / factor**2
    return max(*found, standard_errors_to_show(G - 1, 0.95) * math.sqrt(least))


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_seeds": 3},  # the plain t over seeds counts with 3, no longer with 6
        {"num_seeds": 2},
        {"seeds": np.asarray(0.0), "images": np.asarray(0.0)},  # seeds that agree by chance: residual alone
        {"seeds": np.asarray(0.0), "images": np.asarray(0.0), "residual": np.asarray(0.0), "one": 1e-4},
        {"images": np.asarray(4e-4)},
    ],
)
def test_a_plan_is_what_its_parts_make(factor: float, changes: dict) -> None:
    parts = replace(PARTS, **changes)
    if not float(parts.seeds):
        G = parts.num_groups - 1
        least = float(parts.residual) / factor + float(parts.images) + parts.one / factor**2
        expected = standard_errors_to_show(G, 0.95) * math.sqrt(least)
    else:
        expected = by_hand(parts, factor)
    assert smallest_shown(parts, 0.95, seed_factor=factor) == pytest.approx(expected)


def test_twice_the_seeds_come_true() -> None:
    """Three seeds promise of six what six say of themselves, on average over many draws."""
    rng = np.random.default_rng(2)
    promised, kept = [], []
    layout = make_layout(400)
    for _ in range(40):
        ease = rng.normal(1, 1.5, 400)
        shifts = rng.normal(0, 0.25, (6, 1))
        method = ease + shifts + rng.normal(0, 1, (6, 400)) > 0
        d = method.astype(int) - (ease + rng.normal(0, 1, (6, 400)) > 0)
        promised.append(smallest_shown(take_apart(d[:3], layout), 0.95, seed_factor=2.0))
        kept.append(smallest_shown(take_apart(d, layout), 0.95))
    assert np.mean(promised) == pytest.approx(np.mean(kept), rel=0.1)


def test_the_statement_rounds_up():
    """0.1 points too few would promise what the test cannot do."""
    rng = np.random.default_rng(0)
    for images in (90, 91, 93, 97, 101, 103):
        control, method = (rng.random((3, images)) < 0.8 for _ in range(2))
        verdict = compare(control, method)
        limit = verdict.detectable["now"]
        if verdict.outcome != "no difference shown":
            continue
        assert f"differences above {math.ceil(1000 * limit) / 10:.1f} points" in verdict.statement


def test_groups_of_one_image_are_no_groups():
    rng = np.random.default_rng(0)
    control, method = (rng.random((3, 90)) < 0.8 for _ in range(2))
    alone = compare(control, method, groups=np.arange(90))
    assert alone == compare(control, method)
    assert "45 groups" in compare(control, method, groups=np.arange(90) // 2).statement
