"""Measures and verdict on several labels per image, against scikit-learn and against leaving images out one by one."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from sapling.errors import DataError, UsageError
from sapling.evaluation.metrics import classification_metrics, roc_points
from sapling.evaluation.multilabel import average_precision, influence_on_map
from sapling.evaluation.ranked import compare_rankings, label_intervals, take_rankings_apart
from sapling.evaluation.soft_targets import soft_targets


def drawn(seed, num=40, labels=3, *, ties=False, prevalence=(0.5, 0.3, 0.1)):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num, labels)) < prevalence).astype(np.int64)
    logits = 1.5 * targets + rng.normal(size=(num, labels))
    return (np.round(logits) if ties else logits), targets


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(5, 40), st.booleans())
def test_measures_are_those_of_scikit_learn(seed, num, ties):
    logits, targets = drawn(seed, num, ties=ties)
    assume(((targets.sum(0) > 0) & (targets.sum(0) < num)).all())
    found = classification_metrics(logits, targets, 3)
    given_labels, probabilities = logits >= 0, sigmoid(logits)
    for key, value in {
        "map": sklearn_metrics.average_precision_score(targets, logits, average="macro"),
        "auc": sklearn_metrics.roc_auc_score(targets, logits, average="macro"),
        "micro_f1": sklearn_metrics.f1_score(targets, given_labels, average="micro", zero_division=0),
        "macro_f1": sklearn_metrics.f1_score(targets, given_labels, average="macro", zero_division=0),
        "same_labels": sklearn_metrics.accuracy_score(targets, given_labels),
        "bce": -np.mean(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)),
    }.items():
        assert found[key] == pytest.approx(value), key
    assert found["per_label_ap"] == pytest.approx(
        [sklearn_metrics.average_precision_score(targets[:, k], logits[:, k]) for k in range(3)]
    )
    assert found["num_images"] == num
    json.dumps(found, allow_nan=False)


def test_calibration_by_hand():
    # all probabilities are 0.5 in one bin, and a quarter of the labels are there
    assert classification_metrics(np.zeros((2, 2)), [[1, 0], [0, 0]], 2)["ece"] == pytest.approx(0.25)


def test_a_label_that_no_image_has_is_in_no_mean():
    logits, targets = drawn(0)
    targets[:, 2] = 0
    found = classification_metrics(logits, targets, 3)
    assert found["map"] == pytest.approx(np.mean(found["per_label_ap"][:2]))
    assert found["per_label_ap"][2] is found["per_label_auc"][2] is None
    targets[:, 1] = 1  # every image has it: nothing to rank
    assert classification_metrics(logits, targets, 3)["per_label_auc"][1] is None


@given(st.integers(0, 10_000), st.integers(3, 25), st.booleans())
def test_influence_is_that_of_leaving_an_image_out(seed, num, ties):
    logits, targets = drawn(seed, num, ties=ties)
    assume(targets.any())
    whole = np.nanmean(average_precision(logits, targets))
    found = influence_on_map(logits, targets)
    for image in range(num):
        rest = np.arange(num) != image
        if targets[rest].any():
            without = np.nanmean(average_precision(logits[rest], targets[rest]))
            assert found[image] == pytest.approx((num - 1) * (whole - without), abs=1e-9)


def pair(seed, *, seeds=5, num=300, gain=0.0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num, 3)) < (0.5, 0.3, 0.1)).astype(np.int64)
    shared = rng.normal(size=(num, 3))
    control, method = (
        (1.5 + extra + 0.05 * rng.normal(size=(seeds, 1, 3))) * targets + shared + rng.normal(size=(seeds, num, 3))
        for extra in (0.0, gain)
    )
    return control, method, targets


def test_a_clear_gain_is_found_and_its_mirror_image_is_a_loss():
    control, method, targets = pair(0, gain=1.5)
    verdict = compare_rankings(control, method, targets)
    assert verdict.outcome == "better"
    assert "percentage points of mean average precision" in verdict.statement
    assert (verdict.num_seeds, verdict.num_images, verdict.measure) == (5, 300, "map")
    back = compare_rankings(method, control, targets)
    assert back.outcome == "worse"
    assert (back.low, back.high) == pytest.approx((-verdict.high, -verdict.low))
    differences = [
        np.mean(average_precision(m, targets)) - np.mean(average_precision(c, targets))
        for c, m in zip(control, method, strict=True)
    ]
    assert verdict.seed_differences == pytest.approx(differences)
    assert verdict.difference == pytest.approx(np.mean(differences))


def test_equal_methods_are_rarely_told_apart():
    outcomes = [compare_rankings(*pair(seed, seeds=3, num=150)).outcome for seed in range(30)]
    assert outcomes.count("no difference shown") >= 27


def test_the_interval_has_about_the_width_of_the_bootstrap():
    """An other way to the same width: images drawn anew, the seeds being as they are."""
    control, method, targets = pair(3, seeds=1, num=400)
    verdict = compare_rankings(control, method, targets)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(300):
        chosen = rng.integers(0, 400, 400)
        part = targets[chosen]
        draws.append(
            np.mean(average_precision(method[0][chosen], part)) - np.mean(average_precision(control[0][chosen], part))
        )
    assert verdict.standard_error == pytest.approx(np.std(draws), rel=0.15)


def test_copies_in_one_group_tell_no_more_than_one():
    control, method, targets = pair(1, seeds=1, num=150)
    twice = [np.concatenate([part, part], axis=-2) for part in (control, method, targets)]
    grouped = compare_rankings(*twice, groups=[*range(150), *range(150)])
    alone, naive = compare_rankings(control, method, targets), compare_rankings(*twice)
    assert grouped.num_groups == 150
    assert grouped.standard_error == pytest.approx(alone.standard_error, rel=0.1)
    assert naive.standard_error < 0.8 * grouped.standard_error


def test_the_same_answers_show_nothing():
    control, _, targets = pair(2)
    verdict = compare_rankings(control, control, targets)
    assert verdict.outcome == "no difference shown"
    assert verdict.difference == 0
    assert verdict.high > 0
    parts = take_rankings_apart(control, control, targets)
    assert bool(parts.is_constant)


def test_rare_labels_make_few_images_count():
    control, method, targets = pair(4)
    targets[:, 2] = 0
    targets[:2, 2] = 1
    parts = take_rankings_apart(control, method, targets)
    assert parts.effective_groups < 30  # a third of the measure rests on two images


def test_intervals_hold_their_difference():
    control, method, targets = pair(5, seeds=2, num=100, gain=1.0)
    found = label_intervals(control, method, targets, num_draws=100)
    for name, interval in found.items():
        arms = [np.mean([classification_metrics(x, targets, 3)[name] for x in arm]) for arm in (control, method)]
        assert interval.difference == pytest.approx(arms[1] - arms[0]), name
        assert interval.low < interval.difference < interval.high
    assert set(found) == {"macro_f1", "bce", "ece"}


def test_soft_targets():
    logits, targets = drawn(1)
    found = soft_targets(logits, targets)
    p = sigmoid(logits)
    assert found.as_dict().keys() == {"map", "ece", "entropy", "num_images"}
    assert found.top1 == classification_metrics(logits, targets, 3)["map"]
    assert found.entropy == pytest.approx(-np.mean(p * np.log(p) + (1 - p) * np.log(1 - p)))


def test_what_cannot_be_measured():
    logits, targets = drawn(0)
    with pytest.raises(UsageError, match="do not fit"):
        classification_metrics(logits[:, :2], targets, 3)
    with pytest.raises(UsageError, match="other than 0 and 1"):
        classification_metrics(logits, targets * 2, 3)
    with pytest.raises(DataError, match="no image of the split has a label"):
        classification_metrics(logits, targets * 0, 3)
    broken = logits.copy()
    broken[3, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        compare_rankings(logits[None], broken[None], targets)
    with pytest.raises(UsageError, match="the same seeds"):
        compare_rankings(logits[None], np.stack([logits, logits]), targets)
    with pytest.raises(UsageError, match="confidence"):
        compare_rankings(logits, logits, targets, confidence=0.4)


def test_the_roc_curve_of_several_labels_is_the_mean_of_those_that_have_one():
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, (80, 3))
    targets[:, 1] = 0
    logits = targets + rng.normal(0, 1, (80, 3))
    curves = [roc_points(logits[:, k], targets[:, k]) for k in (0, 2)]
    found = classification_metrics(logits, targets, 3)
    np.testing.assert_allclose(found["roc"], np.mean(curves, 0), atol=1e-4)
    assert np.mean(found["roc"]) == pytest.approx(found["auc"], abs=0.02)
