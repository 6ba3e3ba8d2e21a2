"""Ranks of several students, against loops that draw the same images and seeds and measure from the answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.errors import UsageError
from sapling.evaluation.multilabel import average_precision
from sapling.evaluation.ranks import image_scores, rank_students
from sapling.evaluation.verdict import layout_of


def naive_ranks(answers, truth, groups, measure, num_draws, seed, alike):
    """Mean rank and P(best) of each student, with loops; ``alike``: groups of a class count alike."""
    rng = np.random.default_rng(seed)
    num_students, num_seeds = answers.shape[:2]
    names = sorted(set(groups))
    sums, best = np.zeros(num_students), np.zeros(num_students)
    for _ in range(num_draws):
        drawn = rng.integers(0, len(names), len(names))
        seeds = rng.integers(0, num_seeds, max(num_seeds - 1, 1))
        images = [i for g in drawn for i in range(len(truth)) if groups[i] == names[g]]
        scores = []
        for r in range(num_students):
            by_seed = []
            for s in seeds:
                right = [answers[r, s, i] == truth[i] for i in images]
                classes = [0 if measure == "top1" else int(truth[i]) for i in images]
                recalls = []
                for k in sorted(set(classes)):
                    own = [n for n, c in enumerate(classes) if c == k]
                    sizes = [
                        sum(groups[images[n]] == groups[j] and (measure == "top1" or truth[j] == k)
                            for j in range(len(truth))) if alike else 1
                        for n in own
                    ]  # fmt: skip
                    recalls.append(np.average([right[n] for n in own], weights=1 / np.array(sizes)))
                by_seed.append(np.mean(recalls))
            scores.append(round(float(np.mean(by_seed)), 12))
        for r in range(num_students):
            above = sum(s > scores[r] for s in scores)
            tied = sum(s == scores[r] for s in scores)
            sums[r] += above + (tied + 1) / 2
            best[r] += (above == 0) / tied
    return sums / num_draws, best / num_draws


@pytest.mark.parametrize("measure", ["top1", "macro_recall"])
@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("alike", [False, True])
def test_ranks_are_those_of_loops(measure, num_seeds, alike):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 24)
    groups = rng.integers(0, 9, 24)
    answers = np.where(rng.random((3, num_seeds, 24)) < 0.6, truth, rng.integers(0, 3, (3, num_seeds, 24)))
    parts = [image_scores(a, truth, measure) for a in answers]
    weights = layout_of(24, measure, truth, groups).weights if alike else None
    how = {"groups": groups, "weights": weights, "num_draws": 40, "seed": 5}
    found = rank_students(np.stack([v for v, _ in parts]), parts[0][1], **how)
    mean_rank, best = naive_ranks(answers, truth, groups, measure, 40, 5, alike)
    assert [s.mean_rank for s in found] == pytest.approx(mean_rank)
    assert [s.best for s in found] == pytest.approx(best)


def test_scores_of_images_make_up_the_measure():
    rng = np.random.default_rng(0)
    targets = (rng.random((40, 3)) < 0.4).astype(np.int64)
    logits = rng.normal(size=(2, 40, 3))
    values, strata = image_scores(logits, targets, "map")
    assert not strata.any()
    assert values.mean(1) == pytest.approx([np.nanmean(average_precision(x, targets)) for x in logits])
    truth = np.array([0] * 9 + [1])
    answers = np.array([[0] * 9 + [0], [1] * 9 + [1]])
    values, strata = image_scores(answers, truth, "macro_recall")
    assert [np.mean([v[strata == k].mean() for k in (0, 1)]) for v in values] == [0.5, 0.5]


@settings(max_examples=25)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(2, 12), st.integers(0, 2**16))
def test_ranks_and_best_share_what_there_is(num_students, num_seeds, num_images, seed):
    values = np.random.default_rng(seed).integers(0, 2, (num_students, num_seeds, num_images)).astype(float)
    found = rank_students(values, np.zeros(num_images, int), num_draws=25, seed=seed)
    assert sum(s.best for s in found) == pytest.approx(1)
    assert sum(s.mean_rank for s in found) == pytest.approx(num_students * (num_students + 1) / 2)
    assert all(1 <= s.low <= s.high <= num_students for s in found)
    turned = rank_students(values[::-1], np.zeros(num_images, int), num_draws=25, seed=seed)
    assert [s.as_dict() for s in turned[::-1]] == [s.as_dict() for s in found]


def test_the_same_students_tie_and_a_better_one_is_first():
    values = np.random.default_rng(1).integers(0, 2, (1, 3, 50)).astype(float)
    tied = rank_students(np.repeat(values, 2, axis=0), np.zeros(50, int), num_draws=50)
    assert [(s.rank, s.mean_rank, s.best) for s in tied] == [(1.5, 1.5, 0.5)] * 2
    best = rank_students(np.concatenate([0 * values, 0 * values + 1]), np.zeros(50, int), num_draws=50)
    assert [(s.rank, s.best) for s in best] == [(2.0, 0.0), (1.0, 1.0)]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="shape"):
        rank_students(np.zeros((2, 3, 4)), np.zeros(5, int))
