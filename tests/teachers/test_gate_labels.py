"""Teachers of several labels per image: good ones pass, planted bad ones are stopped by name."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from sapling.errors import GateError
from sapling.teachers.gate import TOO_FEW, stop_if_failed
from sapling.teachers.gate_labels import check_label_answers, mean_precision


def answers(strength, *, num=300, labels=5, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((num, labels)) < np.linspace(0.5, 0.1, labels)).astype(np.int64)
    return (strength * targets + rng.normal(size=targets.shape)).astype(np.float32), targets


def failed(logits, targets):
    return [check.name for check in check_label_answers(logits, targets).checks if not check.passed]


@pytest.mark.parametrize("seed", range(8))
def test_good_teachers_pass(seed):
    assert failed(*answers(0.6 + 0.3 * seed, seed=seed, labels=2 + seed)) == []


@pytest.mark.parametrize("seed", range(8))
def test_random_heads_are_stopped(seed):
    logits, targets = answers(0.0, seed=seed)
    assert failed(logits, targets) == ["above chance"]
    with pytest.raises(GateError, match="random head"):
        stop_if_failed(check_label_answers(logits, targets), accept_weak=False, where="teacher x")


def test_constant_answers_are_stopped_even_where_images_are_sorted():
    _, targets = answers(0.0)
    targets = targets[np.argsort(-targets[:, 0], kind="stable")]
    assert failed(np.zeros(targets.shape, np.float32), targets) == ["above chance"]


@pytest.mark.parametrize("seed", range(5))
def test_permuted_labels_are_stopped(seed):
    logits, targets = answers(2.0, seed=seed)
    assert failed(logits[:, [1, 0, 2, 3, 4]], targets) == ["class order"]
    assert "labels [0, 1] were renamed" in check_label_answers(logits[:, [1, 0, 2, 3, 4]], targets).checks[2].detail


def test_labels_that_come_together_are_not_called_renamed():
    rng = np.random.default_rng(0)
    targets = np.repeat((rng.random((300, 1)) < 0.4).astype(np.int64), 3, axis=1)
    targets[:15, 1] ^= 1
    targets[15:30, 2] ^= 1
    assert failed((targets + rng.normal(size=targets.shape)).astype(np.float32), targets) == []


def test_too_few_images_and_broken_weights():
    assert failed(np.array([[3.0, -3], [-3, 3]], np.float32), np.array([[1, 0], [0, 1]])) == [TOO_FEW]
    logits, targets = answers(2.0)
    logits[3] = np.nan
    assert failed(logits, targets) == ["finite answers"]


def test_precision_is_that_of_the_measure():
    logits, targets = answers(1.0)
    order = np.argsort(-logits, axis=0)
    assert mean_precision(order, targets) == pytest.approx(average_precision_score(targets, logits, average="macro"))
