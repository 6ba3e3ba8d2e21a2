"""Intervals without verdict."""

from __future__ import annotations

import numpy as np
import pytest

from sapling.errors import DataError, UsageError
from sapling.evaluation import Interval, bootstrap_interval, classification_metrics, compare, metric_intervals


def accuracy(values: np.ndarray, labels: np.ndarray) -> float:
    return float((values == labels).mean())


def answers(seed: int, S: int, n: int, K: int = 4, gain: float = 0.0, scatter: float = 0.1) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    ease = rng.normal(1.5, 1.0, n)
    arms = []
    for shift in (0.0, gain):
        logits = rng.normal(size=(S, n, K))
        logits[:, np.arange(n), labels] += ease + shift + rng.normal(0, scatter, (S, 1))
        arms.append(logits)
    return arms[0], arms[1], labels


def test_differences_are_those_of_the_metrics() -> None:
    control, method, labels = answers(0, 3, 200, gain=0.5)
    names = ("macro_f1", "macro_precision", "macro_recall", "nll", "ece", "top1")
    found = metric_intervals(control, method, labels, 4, measures=names, num_draws=20)
    for name in names:
        gains = [
            classification_metrics(m, labels, 4)[name] - classification_metrics(c, labels, 4)[name]
            for c, m in zip(control, method, strict=True)
        ]
        assert found[name].difference == pytest.approx(np.mean(gains))
        assert found[name].low <= found[name].difference <= found[name].high
        assert set(found[name].as_dict()) == {"difference", "low", "high"}


def test_same_seed_same_interval() -> None:
    control, method, labels = answers(1, 2, 100)
    first, again, other = (metric_intervals(control, method, labels, 4, num_draws=50, seed=s)["nll"] for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_both_arms_and_all_seeds_see_the_same_images() -> None:
    """The method is the control with every prediction shifted by one image's worth: the difference never varies."""
    values = np.random.default_rng(0).normal(size=(1, 50)).repeat(3, 0)
    found = bootstrap_interval(lambda x, _: float(x.mean()), values, values + 0.25, np.zeros(50, int), num_draws=100)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))


def test_interval_of_accuracy_is_about_that_of_the_verdict() -> None:
    control, method, labels = answers(2, 5, 800, gain=0.2, scatter=0.3)
    predicted = [x.argmax(2) for x in (control, method)]
    found = bootstrap_interval(accuracy, *predicted, labels, num_draws=1500)
    verdict = compare(predicted[0] == labels, predicted[1] == labels)
    assert found.difference == pytest.approx(verdict.difference)
    assert 0.8 < (found.high - found.low) / (verdict.high - verdict.low) < 1.5


@pytest.mark.parametrize("S", [2, 3, 5])
def test_intervals_hold_the_truth(S: int) -> None:
    """A/A of accuracy with seeds that scatter: a plain bootstrap of two or three seeds errs far more often."""
    missed, runs = 0, 120
    for k in range(runs):
        control, method, labels = answers(100 + k, S, 150, scatter=0.4)
        found = bootstrap_interval(accuracy, control.argmax(2), method.argmax(2), labels, num_draws=150, seed=k)
        missed += not found.low <= 0 <= found.high
    assert missed / runs <= 0.10


def test_groups_are_drawn_whole() -> None:
    control, method, labels = answers(3, 1, 60, gain=1.0)
    arms = [np.tile(x.argmax(2), (1, 10)) for x in (control, method)]
    truth = np.tile(labels, 10)
    alone = bootstrap_interval(accuracy, *arms, truth, num_draws=400)
    whole = bootstrap_interval(
        accuracy, *arms, truth, groups=np.tile([f"tree {k}" for k in range(60)], 10), num_draws=400
    )
    assert (whole.high - whole.low) / (alone.high - alone.low) == pytest.approx(10**0.5, rel=0.2)


def test_equal_arms_have_no_width() -> None:
    control, _, labels = answers(4, 3, 50)
    assert metric_intervals(control, control, labels, 4, num_draws=20)["ece"] == Interval(0.0, 0.0, 0.0)


def test_wrong_calls_are_said() -> None:
    control, method, labels = answers(5, 2, 30)
    with pytest.raises(UsageError, match="macro_f1"):
        metric_intervals(control, method, labels, 4, measures=("macro_f2",))
    with pytest.raises(UsageError, match="no fit"):
        bootstrap_interval(accuracy, control[:1], method, labels)
    with pytest.raises(DataError, match="from 0 to 3"):
        metric_intervals(control, method, labels + 4, 4)
