"""Fidelity against loops; what it must not depend on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.special import kl_div

from sapling.errors import UsageError
from sapling.evaluation.fidelity import agreement, fidelity, kl_to_teacher, linear_cka

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 30, 5)) * [[[1.0]], [[3.0]]]


def softmax(row: np.ndarray) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def test_divergence_is_that_of_loops() -> None:
    total = 0.0
    for s, t in zip(STUDENT, TEACHER, strict=True):
        total += sum(q * math.log(q / p) for p, q in zip(softmax(s), softmax(t), strict=True))
    assert kl_to_teacher(STUDENT, TEACHER) == pytest.approx(total / 30)
    assert kl_to_teacher(STUDENT, TEACHER) != pytest.approx(kl_to_teacher(TEACHER, STUDENT), rel=0.02)
    assert kl_to_teacher(TEACHER + 3.0, TEACHER) == pytest.approx(0.0, abs=1e-12)


def test_divergence_of_several_labels_is_the_mean_over_labels() -> None:
    p, q = (1 / (1 + np.exp(-x)) for x in (STUDENT, TEACHER))
    expected = (kl_div(q, p) + kl_div(1 - q, 1 - p)).mean()
    assert kl_to_teacher(STUDENT, TEACHER, multi_label=True) == pytest.approx(expected)
    assert np.isfinite(kl_to_teacher(np.array([[-1e4, 90.0]]), np.array([[90.0, -1e4]]), multi_label=True))


def test_agreement_counts_images() -> None:
    same = sum(int(np.argmax(s) == np.argmax(t)) for s, t in zip(STUDENT, TEACHER, strict=True))
    assert agreement(STUDENT, TEACHER) == same / 30
    labels = sum(
        all((a >= 0) == (b >= 0) for a, b in zip(s, t, strict=True)) for s, t in zip(STUDENT, TEACHER, strict=True)
    )
    assert agreement(STUDENT, TEACHER, multi_label=True) == labels / 30
    assert fidelity(STUDENT, TEACHER) == {"agreement": same / 30, "kl": kl_to_teacher(STUDENT, TEACHER)}


def naive_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The U-statistic over all ordered quadruples of different images (Song et al. 2012, equation 3)."""
    total, count = 0.0, 0
    for i, j, q, r in itertools.permutations(range(len(k)), 4):
        total += k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
        count += 1
    return total / count


def test_alignment_is_the_u_statistic_of_loops() -> None:
    first, second = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 4))
    second[:, :3] += first
    k, l = first @ first.T, second @ second.T  # noqa: E741
    expected = naive_hsic(k, l) / math.sqrt(naive_hsic(k, k) * naive_hsic(l, l))
    assert linear_cka(first, second) == pytest.approx(expected)


def test_the_biased_estimate_is_the_papers() -> None:
    first, second = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 6))
    x, y = first - first.mean(0), second - second.mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(first, second, debiased=False) == pytest.approx(expected)


def test_alignment_knows_no_rotation_scale_or_shift() -> None:
    first = RNG.normal(size=(60, 8))
    turned = 1e-6 * first @ np.linalg.qr(RNG.normal(size=(8, 8)))[0] + 5e-6
    assert linear_cka(first, turned) == pytest.approx(1.0)
    assert linear_cka(first, 1e6 * first) == pytest.approx(1.0)
    assert linear_cka(first, first[RNG.permutation(60)]) == pytest.approx(0.0, abs=0.1)


def test_unrelated_embeddings_of_many_dimensions_have_none() -> None:
    """The biased estimate says 0.8 here, which is the reason not to use it."""
    first, second = RNG.normal(size=(2, 40, 200))
    assert abs(linear_cka(first, second)) < 0.05
    assert linear_cka(first, second, debiased=False) > 0.7


def test_what_cannot_be_told_is_none() -> None:
    some = RNG.normal(size=(10, 3))
    assert linear_cka(np.full((10, 4), 0.1), some) is None
    assert linear_cka(some[:3], some[:3]) is None
    assert linear_cka(np.where(some > 9, np.nan, np.inf), some) is None


def test_wrong_calls_are_said() -> None:
    with pytest.raises(UsageError, match="do not fit"):
        linear_cka(np.ones((4, 2)), np.ones((5, 2)))
    with pytest.raises(UsageError, match="do not fit"):
        kl_to_teacher(STUDENT, TEACHER[:, :4])
    with pytest.raises(UsageError, match="do not fit"):
        agreement(STUDENT[:0], TEACHER[:0])
