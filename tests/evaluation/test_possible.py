"""Intervals of two or three seeds are wide, but none promises more than there is."""

from __future__ import annotations

import numpy as np
import pytest

from sapling.evaluation import metric_intervals
from sapling.evaluation.classes import class_gains
from sapling.evaluation.levels import measure_levels
from sapling.evaluation.ranked import label_intervals


def unlike_seeds(num_seeds: int, several: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seeds that scatter widely near the upper end: t intervals with one or two degrees of freedom run far out."""
    rng = np.random.default_rng(3)
    labels = np.arange(240) % 6
    truth = (rng.random((240, 6)) < 0.4).astype(np.int64) if several else labels
    arms = []
    for gain in (3.0, 4.0):
        table = rng.normal(size=(num_seeds, 240, 6))
        for s in range(num_seeds):
            table[s] += (2 * truth - 1 if several else np.eye(6)[labels]) * gain * (1 + 0.6 * s)
        arms.append(table.astype(np.float32))
    return arms[0], arms[1], truth


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_levels_and_differences_are_possible(num_seeds: int, several: bool) -> None:
    control, method, truth = unlike_seeds(num_seeds, several)
    arms = {"control": control, "kd": method}
    found = measure_levels(arms, truth, compared=("control", "kd"), num_draws=60)
    for name, gain in found.differences.items():
        own, other = found.arms["control"][name], found.arms["kd"][name]
        for level in (own, other):
            assert level.low is not None
            assert 0 <= level.low <= level.value <= level.high, name
            assert name in ("nll", "bce") or level.high <= 1, name
        assert gain.low <= gain.difference <= gain.high, name
        assert gain.low >= -own.high
        assert gain.high <= other.high
        if name not in ("nll", "bce"):
            assert other.low - 1 <= gain.low
            assert gain.high <= 1 - own.low
    assert {"worst_class_recall", "top5"} <= set(found.differences) or several


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_gains_of_classes_are_possible(num_seeds: int, grouped: bool) -> None:
    control, method, labels = unlike_seeds(num_seeds)
    groups = np.arange(240) // 12 if grouped else None
    for k, gain in enumerate(class_gains(control, method, labels, groups=groups)):
        recalls = (control[:, labels == k].argmax(2) == k).mean(), (method[:, labels == k].argmax(2) == k).mean()
        assert gain.difference == pytest.approx(recalls[1] - recalls[0])
        assert gain.low <= gain.difference <= gain.high
        assert gain.low >= -1
        assert gain.high <= 1
    sure = np.repeat(np.eye(6)[labels][None], 2, 0).astype(np.float32) * 9
    weak = sure.copy()
    weak[0, ::6] = weak[0, ::6][:, [1, 0, 2, 3, 4, 5]]  # all of class 0 lost, by one of two seeds
    (lost, *_), (gained, *_) = class_gains(sure, weak, labels), class_gains(weak, sure, labels)
    # with certainty 1 on one side nothing is left above it
    assert (gained.low, gained.high) == pytest.approx((-lost.high, -lost.low))
    assert lost.low >= -1
    assert lost.high <= 0.2, "a recall of 1 can hardly rise"


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_intervals_of_shares_stay_within_one(num_seeds: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 6
    control = rng.normal(size=(num_seeds, 60, 6))
    method = control.copy()
    method[0, np.arange(60), labels] += 9  # one seed does it all
    for name, gain in metric_intervals(control, method, labels, 6, measures=("top1", "macro_f1"), num_draws=60).items():
        assert -1 <= gain.low <= gain.difference <= gain.high <= 1, name
    targets = np.eye(6, dtype=np.int64)[labels]
    control, method = control - 4, method - 4
    gain = label_intervals(control, method, targets, num_draws=60)["macro_f1"]
    assert -1 <= gain.low <= gain.difference <= gain.high <= 1
