"""Levels and differences of many measures from one set of draws: against loops and against the older functions."""

from __future__ import annotations

import numpy as np
import pytest

from sapling.errors import UsageError
from sapling.evaluation import classification_metrics, compare, metric_intervals
from sapling.evaluation.classes import class_gains
from sapling.evaluation.levels import measure_levels
from sapling.evaluation.ranked import compare_rankings, label_intervals

RNG = np.random.default_rng(0)


def logits(labels: np.ndarray, num_seeds: int, num_classes: int, gain: float) -> np.ndarray:
    found = RNG.normal(size=(num_seeds, len(labels), num_classes))
    found[:, np.arange(len(labels)), labels] += gain
    return found


LABELS = RNG.integers(0, 6, 90)
CONTROL, METHOD, TEACHER = logits(LABELS, 3, 6, 1.0), logits(LABELS, 3, 6, 1.6), logits(LABELS, 1, 6, 2.0)
ARMS = {"teacher": TEACHER, "control": CONTROL, "kd": METHOD}


def levels(**more):
    return measure_levels(ARMS, LABELS, compared=("control", "kd"), num_draws=60, **more)


def test_values_are_means_over_seeds_of_the_metrics() -> None:
    found = levels()
    for arm, table in ARMS.items():
        by_seed = [classification_metrics(x, LABELS, 6) for x in table]
        assert set(found.arms[arm]) == {
            "top1", "top5", "macro_f1", "macro_precision", "macro_recall", "worst_class_recall", "nll", "ece",
        }  # fmt: skip
        for name, level in found.arms[arm].items():
            assert level.value == pytest.approx(np.mean([m[name] for m in by_seed])), (arm, name)
            assert level.low <= level.value <= level.high
            assert name == "nll" or 0 <= level.low <= level.high <= 1


def test_differences_are_those_of_the_bootstrap_measure_by_measure() -> None:
    names = ("top1", "macro_f1", "macro_precision", "macro_recall", "nll", "ece")
    alone = metric_intervals(CONTROL, METHOD, LABELS, 6, measures=names, num_draws=60)
    found = levels().differences
    for name in names:
        assert found[name].as_dict() == pytest.approx(alone[name].as_dict()), name


def test_draws_are_those_of_loops() -> None:
    """One seed: quantiles of the measure over drawn images, the same draws for every arm."""
    found = measure_levels(
        {"control": CONTROL[:1], "kd": METHOD[:1]}, LABELS, compared=("control", "kd"), num_draws=40, seed=5
    )
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(40):
        chosen = rng.integers(0, 90, 90)
        rng.integers(0, 1, 1)
        worst = []
        for table in (CONTROL, METHOD):
            recalls = []
            for k in range(6):
                own = [i for i in chosen if LABELS[i] == k]
                if own:
                    recalls.append(np.mean([table[0, i].argmax() == k for i in own]))
            worst.append(min(recalls))
        drawn.append(worst)
    low, high = np.quantile([w[0] for w in drawn], [0.025, 0.975])
    level = found.arms["control"]["worst_class_recall"]
    assert (level.low, level.high) == pytest.approx((min(low, level.value), max(high, level.value)))
    low, high = np.quantile([w[1] - w[0] for w in drawn], [0.025, 0.975])
    gain = found.differences["worst_class_recall"]
    assert (gain.low, gain.high) == pytest.approx((min(low, gain.difference), max(high, gain.difference)))


def test_groups_are_drawn_whole() -> None:
    tenfold = {"control": np.tile(CONTROL[:1], (1, 10, 1))}  # one seed: images alone vary
    names = np.tile([f"tree {k}" for k in range(90)], 10)
    truth = np.tile(LABELS, 10)
    spans = []
    for groups in (None, names):
        level = measure_levels(tenfold, truth, groups=groups, num_draws=150).arms["control"]["nll"]
        spans.append(level.high - level.low)
    assert spans[1] > 1.5 * spans[0]


def test_two_classes_have_an_area_and_no_top5() -> None:
    labels = RNG.integers(0, 2, 60)
    table = logits(labels, 2, 2, 1.0)
    found = measure_levels({"control": table}, labels, num_draws=30).arms["control"]
    assert "top5" not in found
    assert found["auc"].value == pytest.approx(np.mean([classification_metrics(x, labels, 2)["auc"] for x in table]))
    # one image of the second class: more than a third of the draws have none, an interval is still told; without any
    # such image there is nothing to tell
    alone = measure_levels({"control": table}, np.zeros(60, int), num_draws=30).arms["control"]
    assert "auc" not in alone


def test_several_labels_have_the_intervals_of_the_older_function() -> None:
    targets = (RNG.random((50, 4)) < 0.4).astype(int)
    targets[0] = 1
    control, method = RNG.normal(size=(2, 2, 50, 4)) + targets
    found = measure_levels({"control": control, "kd": method}, targets, compared=("control", "kd"), num_draws=40)
    alone = label_intervals(control, method, targets, num_draws=40)
    for name in ("macro_f1", "bce", "ece"):
        assert found.differences[name].as_dict() == pytest.approx(alone[name].as_dict()), name
    for name, level in found.arms["kd"].items():
        assert level.value == pytest.approx(np.mean([classification_metrics(x, targets, 4)[name] for x in method]))


def test_wrong_calls_are_said() -> None:
    with pytest.raises(UsageError, match="the logits of control"):
        measure_levels({"control": CONTROL[0]}, LABELS)
    with pytest.raises(UsageError, match="the same seeds"):
        measure_levels({"a": CONTROL, "b": METHOD[:2]}, LABELS, compared=("a", "b"))


def test_the_gain_of_a_class_is_a_verdict_on_its_images() -> None:
    found = class_gains(CONTROL, METHOD, LABELS, groups=[f"g{i // 2}" for i in range(90)])
    for k, gain in enumerate(found):
        own = np.flatnonzero(k == LABELS)
        correct = [np.array([[x[s, i].argmax() == k for i in own] for s in range(3)]) for x in (CONTROL, METHOD)]
        pairs = [f"g{i // 2}" for i in own]
        alone = compare(*correct, groups=pairs)
        # a recall is its own difference to nothing right
        recalls = [compare(np.zeros_like(arm), arm, groups=pairs) for arm in correct]
        lowest, highest = max(-min(recalls[0].high, 1), recalls[1].low - 1), 1 - max(recalls[0].low, 0)
        highest = min(highest, recalls[1].high)
        assert gain.difference == alone.difference
        assert (gain.low, gain.high) == pytest.approx((max(alone.low, lowest), min(alone.high, highest)))
        d = correct[1].mean(0) - correct[0].mean(0)
        by_pair = [np.mean([x for x, other in zip(d, pairs, strict=True) if other == pair]) for pair in set(pairs)]
        assert gain.difference == pytest.approx(np.mean(by_pair))


def test_a_class_of_one_image_says_nothing_and_one_of_none_is_left_out() -> None:
    labels = np.array([0] * 20 + [1])
    table = logits(labels, 2, 3, 3.0)
    first, second, third = class_gains(table, table, labels)
    # no answer differs, but 20 images leave room
    assert first.low < 0 < first.high < 0.5
    assert (second.low, second.high) == (-1, 1)
    assert third.as_dict() == {"difference": None, "low": None, "high": None}


def test_the_gain_of_a_label_is_that_of_its_average_precision() -> None:
    targets = np.zeros((40, 3), dtype=int)
    targets[:, :2] = RNG.random((40, 2)) < 0.4
    control, method = RNG.normal(size=(2, 2, 40, 3)) + targets
    found = class_gains(control, method, targets)
    alone = compare_rankings(control[..., :1], method[..., :1], targets[:, :1])
    assert (found[0].difference, found[0].low, found[0].high) == (alone.difference, alone.low, alone.high)
    assert found[2].difference is None
    with pytest.raises(UsageError, match="do not fit"):
        class_gains(control, method[:1], targets)


def test_a_class_that_was_not_drawn_is_not_the_worst() -> None:
    """Everyone is right, and one class has a single image: a third of the draws lack it."""
    labels = np.array([0] * 9 + [1])
    right = np.where(np.eye(2)[labels] > 0, 4.0, -4.0)[None]
    found = measure_levels({"control": right, "kd": right}, labels, compared=("control", "kd"), num_draws=60, seed=1)
    level = found.arms["control"]["worst_class_recall"]
    assert (level.value, level.low, level.high) == (1, 1, 1)
