"""Which images are shown, on a table that can be read by eye."""

from __future__ import annotations

import numpy as np
import pytest

from sapling.evaluation.examples import answers_of, choose_examples


def sure(classes: list[int], shares: list[float]) -> np.ndarray:
    """Logits of one seed whose softmax gives ``shares`` to ``classes``, of three."""
    rows = np.full((len(classes), 3), np.nan)
    for row, k, share in zip(rows, classes, shares, strict=True):
        row[:] = np.log((1 - share) / 2)
        row[k] = np.log(share)
    return rows


TRUTH = np.array([0, 1, 2, 0, 1, 2])
TEACHER = sure([0, 1, 2, 0, 1, 0], [0.9] * 6)[None]
CONTROL = np.stack([sure([0, 0, 2, 0, 1, 1], [0.5] * 6), sure([0, 0, 2, 1, 1, 1], [0.5] * 6)])
STUDENT = np.stack([sure([0, 1, 1, 0, 0, 1], [0.6, 0.6, 0.7, 0.6, 0.95, 0.8])] * 2)


def test_the_table_read_by_eye() -> None:
    arms = [answers_of(x, TRUTH) for x in (STUDENT, CONTROL, TEACHER)]
    found = choose_examples(arms[0], TRUTH, control=arms[1], teacher=arms[2])
    assert found == {
        "gained": [1, 3],  # two seeds, then one
        "lost": [4, 2],  # both under two seeds; the truth of 4 lost more
        "mistakes": [4, 5, 2],  # 0.95, 0.8, 0.7
        "disagreements": [4, 5, 2],  # the less sure: 0.9, 0.8, 0.7
    }
    assert choose_examples(arms[0], TRUTH, control=arms[1], teacher=arms[2], most=1)["mistakes"] == [4]
    assert choose_examples(arms[2], TRUTH) == {"mistakes": [5]}
    assert choose_examples(arms[2], np.array([0, 1, 2, 0, 1, 0])) == {}


def test_certainty_is_the_mean_over_seeds_and_so_is_the_answer() -> None:
    two = np.stack([sure([0], [0.9]), sure([1], [0.6])])
    found = answers_of(two, np.array([1]))
    assert found.probabilities[0] == pytest.approx([0.55, 0.325, 0.125])
    assert found.chosen[0].tolist() == [True, False, False]
    assert found.right.tolist() == [[0.0], [1.0]]


def test_labels_count_one_by_one() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 1]])
    student = np.array([[[2.0, -2.0], [-1.0, 3.0], [1.0, -0.5]]])
    control = np.array([[[2.0, 2.0], [-1.0, -1.0], [1.0, -0.5]]])
    teacher = np.array([[[2.0, -2.0], [-1.0, 3.0], [1.0, 4.0]]])
    arms = [answers_of(x, truth) for x in (student, control, teacher)]
    found = choose_examples(arms[0], truth, control=arms[1], teacher=arms[2])
    assert found == {"gained": [0], "lost": [1], "mistakes": [1, 2], "disagreements": [2]}
    assert arms[0].right.tolist() == [[1.0, 0.5, 0.5]]
