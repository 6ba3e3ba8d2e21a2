"""The crossed model against loops, against what it should estimate, and against simulated truth."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from sapling.evaluation import compare
from sapling.evaluation.crossed import (
    make_layout,
    mean_squares,
    read,
    smallest_shown,
    standard_errors_to_show,
    take_apart,
)

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "verdict_aa.py"


def naive_mean_squares(table: list[list[float]]) -> tuple[float, float, float]:
    """Textbook two-way analysis of variance without replication, cell by cell."""
    S, n = len(table), len(table[0])
    grand = sum(sum(row) for row in table) / (S * n)
    rows = [sum(row) / n for row in table]
    columns = [sum(table[s][i] for s in range(S)) / S for i in range(n)]
    seed = sum(n * (r - grand) ** 2 for r in rows) / (S - 1)
    image = sum(S * (c - grand) ** 2 for c in columns) / (n - 1)
    residual = 0.0
    for s in range(S):
        for i in range(n):
            residual += (table[s][i] - rows[s] - columns[i] + grand) ** 2
    return seed, image, residual / ((S - 1) * (n - 1))


def naive_half_width(table: list[list[float]], confidence: float) -> float:
    """The procedure of shared/evidence.md and the bound "seeds have no effect", number by number."""
    S, n = len(table), len(table[0])
    ms_seed, ms_image, ms_res = naive_mean_squares(table)
    extra = max(ms_image - ms_res, 0.0)
    tail = 1 - (1 - confidence) / 2

    variance = (ms_seed + extra) / (S * n)
    freedom = (ms_seed + extra) ** 2 / (ms_seed**2 / (S - 1) + extra**2 / (n - 1))
    widths = [stats.t.ppf(tail, freedom) * math.sqrt(variance)]
    if S <= 3:
        means = [sum(row) / n for row in table]
        centre = sum(means) / S
        spread = math.sqrt(sum((m - centre) ** 2 for m in means) / (S - 1))
        widths.append(stats.t.ppf(tail, S - 1) * spread / math.sqrt(S))
    widths.append(stats.t.ppf(tail, n - 1) * math.sqrt((ms_res + extra) / (S * n) + 1 / (S * n) ** 2))
    return max(widths)


def noisy_pair(seed: int, S: int, n: int, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ease = rng.normal(1.5, 1.5, n)
    arms = [
        ease + shift + rng.normal(0, 0.15, (S, 1)) + rng.normal(0, 0.5, n) + rng.normal(0, 1, (S, n)) > 0
        for shift in (0.0, gain)
    ]
    return arms[0], arms[1]


@pytest.mark.parametrize("seeds", [2, 3, 4, 7])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_interval_matches_loops(seeds: int, confidence: float) -> None:
    for k in range(8):
        control, method = noisy_pair(k, seeds, 60, gain=0.2 * (k % 3))
        d = method.astype(int) - control.astype(int)
        verdict = compare(control, method, confidence=confidence)
        half = naive_half_width(d.tolist(), confidence)
        assert verdict.difference == pytest.approx(d.mean())
        assert verdict.high == pytest.approx(min(d.mean() + half, 1))
        assert verdict.low == pytest.approx(max(d.mean() - half, -1))
        critical = stats.t.isf((1 - confidence) / 2, verdict.degrees_of_freedom)
        assert verdict.standard_error * critical == pytest.approx(half)


def test_mean_squares_match_loops_with_leading_axes() -> None:
    tables = np.random.default_rng(0).normal(size=(2, 3, 4, 11))
    found = mean_squares(tables)
    for a in range(2):
        for b in range(3):
            naive = naive_mean_squares(tables[a, b].tolist())
            assert [x[a, b] for x in found] == pytest.approx(naive)


def test_parts_estimate_the_variance_they_are_meant_to() -> None:
    """Normal effects of known size: the parts are unbiased, and their sum is the variance of the mean."""
    rng = np.random.default_rng(1)
    R, S, n, A, B, E = 4000, 4, 30, 0.02, 0.5, 0.3
    table = rng.normal(0, A**0.5, (R, S, 1)) + rng.normal(0, B**0.5, (R, 1, n)) + rng.normal(0, E**0.5, (R, S, n))
    parts = take_apart(table, make_layout(n))
    assert parts.seeds.mean() == pytest.approx(A / S + E / (S * n), rel=0.05)
    assert parts.images.mean() == pytest.approx(B / n, rel=0.03)
    assert parts.residual.mean() == pytest.approx(E / (S * n), rel=0.02)
    assert (parts.seeds + parts.images).mean() == pytest.approx(parts.difference.var(), rel=0.07)


def test_more_test_images_do_not_stand_in_for_seeds() -> None:
    """Showing every image a hundred times leaves the part of the seeds as it is."""
    control, method = noisy_pair(3, 4, 80)
    d = method.astype(int) - control.astype(int)
    once, often = (take_apart(x, make_layout(x.shape[1])) for x in (d, np.tile(d, 100)))
    assert often.seeds == pytest.approx(float(once.seeds))


def test_macro_recall_is_the_mean_of_class_means() -> None:
    control, method = noisy_pair(4, 3, 90, gain=0.4)
    labels = np.random.default_rng(0).choice(5, 90, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    verdict = compare(control, method, measure="macro_recall", labels=labels)
    for s in range(3):
        by_class = [method[s, labels == k].mean() - control[s, labels == k].mean() for k in np.unique(labels)]
        assert verdict.seed_differences[s] == pytest.approx(np.mean(by_class))


def test_macro_recall_image_part_is_the_stratified_variance() -> None:
    """With one seed: the sum over classes of the variance of their means, divided by K squared."""
    control, method = noisy_pair(5, 1, 400, gain=0.3)
    labels = np.repeat([0, 1, 2], [250, 130, 20])
    d = (method.astype(int) - control.astype(int))[0]
    expected = sum(d[labels == k].var(ddof=1) / (labels == k).sum() for k in range(3)) / 9
    layout = make_layout(400, measure="macro_recall", labels=labels)
    assert take_apart(d[None], layout).images == pytest.approx(expected, rel=0.01)


def test_macro_recall_of_balanced_classes_is_close_to_top1() -> None:
    control, method = noisy_pair(6, 3, 500, gain=0.3)
    labels = np.random.default_rng(0).permutation(np.arange(500) % 5)
    plain, macro = compare(control, method), compare(control, method, measure="macro_recall", labels=labels)
    assert macro.difference == pytest.approx(plain.difference)
    assert macro.standard_error == pytest.approx(plain.standard_error, rel=0.05)


def test_equal_groups_are_images_with_the_mean_of_the_group() -> None:
    control, method = noisy_pair(7, 4, 120, gain=0.3)
    d = method.astype(int) - control.astype(int)
    mixed = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 3))
    means = np.stack([d[:, mixed == g].mean(1) for g in range(40)], 1)
    grouped = take_apart(d, make_layout(120, groups=mixed))
    alone = take_apart(means, make_layout(40))
    for name in ("difference", "seeds", "images", "residual"):
        assert getattr(grouped, name) == pytest.approx(getattr(alone, name))
    assert grouped.num_groups == 40


def naive_group_means(d: np.ndarray, groups: np.ndarray) -> list[list[float]]:
    """d[s, g] of shared/evidence.md: the mean over the images of a group, image by image."""
    return [
        [sum(row[i] for i in range(len(row)) if groups[i] == g) / sum(groups == g) for g in sorted(set(groups))]
        for row in d.tolist()
    ]


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_unequal_groups_count_alike(seeds: int) -> None:
    control, method = noisy_pair(8, seeds, 90, gain=0.3)
    groups = np.random.default_rng(0).choice(14, 90, p=[0.4, 0.2] + 12 * [0.4 / 12])
    verdict = compare(control, method, groups=groups)
    means = naive_group_means(method.astype(int) - control.astype(int), groups)
    assert verdict.seed_differences == pytest.approx([sum(row) / len(row) for row in means])
    assert verdict.difference != pytest.approx(method.mean() - control.mean(), abs=1e-3)
    assert ", groups counted alike (" in verdict.statement
    if seeds > 1:
        half = naive_half_width(means, 0.95)
        assert (verdict.low, verdict.high) == pytest.approx((verdict.difference - half, verdict.difference + half))
    plain = compare(control, method, groups=np.arange(90) // 3)
    assert plain.difference == pytest.approx(method.mean() - control.mean())
    assert "counted alike" not in plain.statement


def test_macro_recall_counts_groups_of_a_class_alike() -> None:
    """The mean over classes of the mean over a class's groups of the mean over their images, in loops."""
    control, method = noisy_pair(12, 3, 120, gain=0.3)
    rng = np.random.default_rng(1)
    groups, labels = rng.integers(0, 25, 120), np.empty(120, int)
    labels[:] = np.array([0, 0, 0, 1, 2])[groups % 5]
    labels[::17] = 1  # a group may show more than one class
    verdict = compare(control, method, measure="macro_recall", labels=labels, groups=groups)
    d = method.astype(int) - control.astype(int)
    for s in range(3):
        by_class = []
        for k in range(3):
            own = labels == k
            (row,) = naive_group_means(d[s : s + 1, own], groups[own])
            by_class.append(sum(row) / len(row))
        assert verdict.seed_differences[s] == pytest.approx(sum(by_class) / 3)
    layout = make_layout(120, measure="macro_recall", labels=labels, groups=groups)
    assert layout.weights.sum() == pytest.approx(1)
    assert layout.is_uneven
    assert not make_layout(120, measure="macro_recall", labels=labels).is_uneven


def test_a_class_of_one_group_has_no_spread_of_its_own() -> None:
    """Three views of one tree are the whole class: they are one answer, and not three that agree."""
    control, method = noisy_pair(13, 3, 63)
    labels, groups = np.repeat([0, 1, 1], 21), np.arange(63) // 3
    labels[:3], labels[3:21] = 2, 0
    method[:, :3], control[:, :3] = True, False
    views = compare(control, method, measure="macro_recall", labels=labels, groups=groups)
    kept = np.r_[0, 3:63]
    alone = compare(control[:, kept], method[:, kept], measure="macro_recall", labels=labels[kept], groups=groups[kept])
    assert (views.low, views.high) == pytest.approx((alone.low, alone.high))


def test_unequal_groups_hold_the_error(benchmark: ModuleType) -> None:
    """One to nine views of a tree, all alike: A/A."""
    rng = np.random.default_rng(6)
    sizes = 1 + np.arange(200) % 9
    groups = np.repeat(np.arange(200), sizes)
    layout = make_layout(len(groups), groups=groups)
    for seeds in (3, 5):
        d = benchmark.draw(rng, (400, seeds, 200), benchmark.Noise(0.85, seed=0.05, image=0.7))
        parts = take_apart(np.repeat(d, sizes, axis=-1), layout)
        assert np.mean(np.abs(parts.difference) > read(parts, 0.95).half_width) <= 0.08


def test_copies_of_images_in_groups_add_nothing() -> None:
    """Ten copies of each image, told as groups, give the interval of the single images."""
    control, method = noisy_pair(9, 4, 100, gain=0.3)
    alone = compare(control, method)
    copies = compare(np.tile(control, 10), np.tile(method, 10), groups=np.tile(np.arange(100), 10))
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high))
    d = method.astype(int) - control.astype(int)
    careless = take_apart(np.tile(d, 10), make_layout(1000))
    assert float(careless.images) < 0.2 * float(take_apart(d, make_layout(100)).images)


@settings(max_examples=150, deadline=None)
@given(
    data=st.tuples(st.integers(1, 4), st.integers(1, 12)).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(bool, shape),
            hnp.arrays(bool, shape),
            hnp.arrays(np.int64, shape[1], elements=st.integers(0, 2)),
            hnp.arrays(np.int64, shape[1], elements=st.integers(0, 4)),
        )
    ),
    confidence=st.sampled_from([0.8, 0.95, 0.99]),
    macro=st.booleans(),
    grouped=st.booleans(),
)
def test_any_table_gives_a_sound_verdict(data, confidence: float, macro: bool, grouped: bool) -> None:
    control, method, labels, groups = data
    options = {
        "measure": "macro_recall" if macro else "top1",
        "labels": labels,
        "groups": groups if grouped else None,
        "confidence": confidence,
    }
    verdict = compare(control, method, **options)
    numbers = [verdict.difference, verdict.low, verdict.high, verdict.p_value, verdict.standard_error]
    assert np.isfinite(numbers).all()
    assert -1 <= verdict.low <= verdict.difference <= verdict.high <= 1
    assert verdict.high > verdict.low
    assert 0 <= verdict.p_value <= 1
    is_shown = verdict.low > 0 or verdict.high < 0
    assert is_shown == (verdict.outcome != "no difference shown")
    # Interval and p-value say the same, but for ties of rounding.
    if abs(verdict.p_value - (1 - confidence)) > 1e-9:
        assert is_shown == (verdict.p_value < 1 - confidence)
    turned = compare(method, control, **options)
    assert (turned.low, turned.high) == pytest.approx((-verdict.high, -verdict.low))
    assert turned.p_value == pytest.approx(verdict.p_value)


def test_seeds_and_images_may_come_in_any_order() -> None:
    control, method = noisy_pair(10, 5, 70, gain=0.3)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(5), rng.permutation(70)
    a, b = compare(control, method), compare(control[rows][:, columns], method[rows][:, columns])
    assert (a.low, a.high, a.p_value) == pytest.approx((b.low, b.high, b.p_value))


def test_pairing_of_seeds_matters() -> None:
    """Control and method share their noise: breaking the pairs must widen the interval."""
    rng = np.random.default_rng(0)
    quality = np.linspace(-0.8, 0.8, 5)[:, None]
    ease = rng.normal(1, 1, 3000)
    control = ease + quality + rng.normal(0, 0.3, (5, 3000)) > 0
    method = ease + quality + 0.1 + rng.normal(0, 0.3, (5, 3000)) > 0
    paired, broken = compare(control, method), compare(control, method[::-1])
    assert paired.outcome == "better"
    assert broken.outcome == "no difference shown"


@pytest.mark.parametrize("freedom", [1.0, 2.0, 4.0, 30.0, 4000.0])
def test_standard_errors_to_show_match_the_noncentral_t(freedom: float) -> None:
    errors = standard_errors_to_show(freedom, 0.95)
    critical = stats.t.isf(0.025, freedom)
    assert stats.nct.sf(critical, freedom, errors) == pytest.approx(0.8, abs=0.005)


def test_detectable_shrinks_with_seeds_and_stops_at_the_images() -> None:
    control, method = noisy_pair(11, 3, 2000)
    parts = take_apart(method.astype(int) - control.astype(int), make_layout(2000))
    now, twice, endless = (smallest_shown(parts, 0.95, seed_factor=f) for f in (1.0, 2.0, math.inf))
    assert now > twice > endless > 0
    assert endless >= float(np.sqrt(parts.images)) * 2.8 - 1e-12


def test_twice_the_seeds_halve_the_variance_that_comes_from_them() -> None:
    """Forty seeds that scatter, no effect of images: degrees of freedom hardly matter."""
    rng = np.random.default_rng(0)
    d = np.where(rng.random((40, 500)) < np.linspace(0.1, 0.5, 40)[:, None], 1, 0)
    parts = take_apart(d, make_layout(500))
    now, twice = (smallest_shown(parts, 0.95, seed_factor=f) for f in (1.0, 2.0))
    assert now / twice == pytest.approx(2**0.5, rel=0.03)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    if not BENCHMARK.exists():
        pytest.skip(f"{BENCHMARK} is not here (tests run from a copy)")
    spec = importlib.util.spec_from_file_location("verdict_aa", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["verdict_aa"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_no_difference_is_seldom_taken_for_one(benchmark: ModuleType, seeds: int) -> None:
    """A/A over all scenarios; the whole table is benchmarks/results/verdict_aa.json."""
    rng = np.random.default_rng(seeds)
    errors = [
        benchmark.rates(rng, 300, seeds, make_layout(n), noise)["error"]
        for noise in benchmark.SCENARIOS.values()
        for n in (200, 900)
    ]
    # 4200 comparisons: one standard error is 0.3 %.
    assert np.mean(errors) <= 0.06
    assert max(errors) <= 0.10


def test_no_difference_of_one_pair_is_seldom_taken_for_one(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(1)
    for accuracy in (0.6, 0.97):
        noise = benchmark.Noise(accuracy, seed=0.0)
        assert benchmark.rates(rng, 2000, 1, make_layout(200), noise)["error"] <= 0.07


@pytest.mark.parametrize(("seeds", "images"), [(3, 900), (5, 900), (3, 4000), (5, 4000)])
def test_planted_gains_are_found(benchmark: ModuleType, seeds: int, images: int) -> None:
    rng = np.random.default_rng(seeds)
    found = benchmark.rates(rng, 300, seeds, make_layout(images), benchmark.PLANTED, 0.02)
    stated = benchmark.STATED_POWER[seeds, images]
    # 300 comparisons: two standard errors are 6 %.
    assert found["better"] >= stated - 0.06
    assert found["worse"] == 0.0


def test_groups_taken_for_single_images_would_err(benchmark: ModuleType) -> None:
    """Views of one tree are alike: the groups are needed, and they hold the error."""
    rng = np.random.default_rng(2)
    trees = benchmark.Noise(0.85, seed=0.02, image=1.5, group_size=6)
    told = benchmark.rates(rng, 1000, 5, make_layout(600, groups=np.arange(600) // 6), trees)
    untold = benchmark.rates(rng, 1000, 5, make_layout(600), trees)
    assert told["error"] <= 0.07
    assert untold["error"] > 0.15


def test_reading_takes_leading_axes() -> None:
    tables = np.random.default_rng(0).integers(-1, 2, (6, 3, 20))
    layout = make_layout(20)
    together = read(take_apart(tables, layout), 0.95)
    for k in range(6):
        alone = read(take_apart(tables[k], layout), 0.95)
        assert together.half_width[k] == pytest.approx(float(alone.half_width))
        assert together.p_value[k] == pytest.approx(float(alone.p_value))
