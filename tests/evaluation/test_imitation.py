"""Entropy and renaming against loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.evaluation.imitation import answers, entropy, most_entropy, z_scores

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(0, 2, (2, 40, 5))
LABELS = RNG.integers(0, 5, 40)
TRUTH = RNG.integers(0, 2, (40, 5))


def softmax(row, temperature=1.0):
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_entropy_is_what_loops_say(temperature):
    rows = [-sum(p * math.log(p) for p in softmax(row, temperature)) for row in TEACHER]
    assert entropy(TEACHER, temperature) == pytest.approx(np.mean(rows))
    single = [sigmoid(z / temperature) for z in TEACHER.ravel()]
    expected = np.mean([-p * math.log(p) - (1 - p) * math.log(1 - p) for p in single])
    assert entropy(TEACHER, temperature, multi_label=True) == pytest.approx(expected)


@given(st.floats(-50, 50), st.floats(1, 1000))
def test_entropy_ignores_a_shift_and_stays_within_its_bounds(shift, temperature):
    found = entropy(TEACHER, temperature)
    assert 0 <= found <= most_entropy(5) + 1e-12
    assert entropy(TEACHER + shift, temperature) == pytest.approx(found)


def test_answers_of_one_class_per_image():
    found = answers(TEACHER, LABELS, temperature=3.0)
    assert found.right == pytest.approx((TEACHER.argmax(1) == LABELS).mean())
    assert found.confidence == pytest.approx(np.mean([max(softmax(row)) for row in TEACHER]))
    assert (found.entropy, found.entropy_at_temperature) == (entropy(TEACHER), entropy(TEACHER, 3.0))
    best = max(
        np.mean([order[row.argmax()] == label for row, label in zip(TEACHER, LABELS, strict=True)])
        for order in itertools.permutations(range(5))
    )
    assert found.renamed == pytest.approx(best)
    assert answers(TEACHER[:24], LABELS[:24]).renamed is None, "some order fits a few images by chance"


def test_standardised_answers_forget_their_scale():
    assert answers(100 * TEACHER, LABELS, standardized=True).entropy_at_temperature == pytest.approx(
        answers(TEACHER, LABELS, standardized=True).entropy_at_temperature
    )
    assert z_scores(TEACHER).std(axis=1, ddof=1) == pytest.approx(np.ones(40))


def test_answers_of_several_labels():
    found = answers(TEACHER, TRUTH, temperature=2.0)
    assert found.right == pytest.approx(np.mean((TEACHER >= 0) == (TRUTH == 1)))
    assert found.confidence == pytest.approx(np.mean([max(sigmoid(z), 1 - sigmoid(z)) for z in TEACHER.ravel()]))
    assert found.entropy_at_temperature == entropy(TEACHER, 2.0, multi_label=True)
    assert found.renamed is None
