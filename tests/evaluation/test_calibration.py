"""Reliability bins against loops, and their tie to the calibration error; the area under the ROC curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.errors import UsageError
from sapling.evaluation.calibration import reliability
from sapling.evaluation.metrics import binary_auc, classification_metrics, expected_calibration_error


def naive(confidence: list[float], correct: list[bool], num_bins: int) -> list[tuple[int, float, float]]:
    """Count and sums of every bin (b / B, (b + 1) / B]; exact edges by whole numbers of thousandths."""
    found = []
    for b in range(num_bins):
        own = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if (round(1000 * c) * num_bins > 1000 * b or b == 0) and round(1000 * c) * num_bins <= 1000 * (b + 1)
        ]
        found.append((len(own), sum(c for c, _ in own), sum(r for _, r in own)))
    return found


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=60),
    st.sampled_from([1, 5, 10, 15]),
)
def test_bins_are_those_of_loops(answers: list[tuple[int, bool]], num_bins: int) -> None:
    # no thousandth but the whole multiples lies on an edge, where floats may err
    confidence = [k / 1000 for k, _ in answers if (k * num_bins) % 1000 or k in (0, 1000)]
    correct = [r for k, r in answers if (k * num_bins) % 1000 or k in (0, 1000)]
    if not confidence:
        return
    found = reliability(np.array(confidence), np.array(correct), num_bins)
    for b, (count, certainty, right) in enumerate(naive(confidence, correct, num_bins)):
        assert found["count"][b] == count
        if count:
            assert found["confidence"][b] == pytest.approx(certainty / count)
            assert found["accuracy"][b] == pytest.approx(right / count)
        else:
            assert found["confidence"][b] is found["accuracy"][b] is None


def test_a_value_on_an_edge_belongs_to_the_lower_bin() -> None:
    assert reliability(np.array([0.0, 0.5, 0.75, 1.0]), np.array([True] * 4), 4)["count"] == [1, 1, 1, 1]


def test_the_calibration_error_is_read_off_the_bins() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(500), rng.random(500) < 0.7
    bins = reliability(confidence, correct, 15)
    gaps = [
        n * abs(c - r)
        for n, c, r in zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
        if c is not None
    ]
    assert sum(gaps) / 500 == pytest.approx(expected_calibration_error(confidence, correct))


def test_metrics_hold_the_bins_and_the_worst_class() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(80, 4)), rng.integers(0, 3, 80)
    found = classification_metrics(logits, labels, 4)
    assert sum(found["calibration"]["count"]) == 80
    assert found["worst_class_recall"] == min(r for r in found["per_class_recall"] if r is not None)
    assert found["auc"] is None


def test_wrong_calls_are_said() -> None:
    for confidence, correct, bins in (([], [], 3), ([0.5], [True, False], 3), ([0.5], [True], 0)):
        with pytest.raises(UsageError, match="cannot be used"):
            reliability(np.array(confidence), np.array(correct, dtype=bool), bins)


def test_the_area_counts_pairs() -> None:
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 40), rng.integers(0, 6, 40).astype(float)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert binary_auc(scores, labels) == pytest.approx(np.mean(wins))
    # adding one number to both logits of an image changes no probability
    logits = np.stack([np.zeros(40), scores], 1) + rng.normal(size=(40, 1))
    assert classification_metrics(logits, labels, 2)["auc"] == pytest.approx(np.mean(wins), abs=0.02)
    assert classification_metrics(np.eye(2)[[0, 0]], np.array([1, 1]), 2)["auc"] is None
