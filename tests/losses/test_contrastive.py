from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sapling.errors import MethodError
from sapling.losses.contrastive import info_nce, log_partition, noise_contrastive
from tests.losses.test_hierarchical import draw

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


def naive(student, teacher, labels, temperature):
    s, t = ([row / math.sqrt(sum(x * x for x in row)) for row in side.numpy()] for side in (student, teacher))
    total, count = 0.0, len(s)
    for first, second in ((s, t), (t, s)):
        for i in range(count):
            rivals = [j for j in range(count) if j == i or labels is None or labels[j] != labels[i]]
            powers = {j: math.exp(float(np.dot(first[i], second[j])) / temperature) for j in rivals}
            total -= math.log(powers[i] / sum(powers.values())) / count
    return total


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_is_the_naive_one(labels, temperature):
    student, teacher = draw(1, 6, 4), draw(2, 6, 4)
    expected = naive(student, teacher, None if labels is None else labels.tolist(), temperature)
    assert float(info_nce(student, teacher, labels, temperature)) == pytest.approx(expected)


def test_properties():
    student, teacher = draw(1, 6, 4), draw(2, 6, 4)
    usual = info_nce(student, teacher, LABELS)
    torch.testing.assert_close(info_nce(student * 3, teacher / 7, LABELS), usual)
    torch.testing.assert_close(info_nce(teacher, student, LABELS), usual)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(info_nce(student[order], teacher[order], LABELS[order]), usual)
    assert float(info_nce(torch.ones(6, 4), torch.ones(6, 4))) == pytest.approx(2 * math.log(6))
    assert float(info_nce(student, teacher, torch.zeros(6))) == pytest.approx(0)
    basis = torch.eye(6)
    assert float(info_nce(basis, basis)) < 1e-4


def test_gradients_and_wrong_shapes():
    student, teacher = draw(1, 6, 4).requires_grad_(), draw(2, 6, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: info_nce(s, t, LABELS, 0.5), (student, teacher))
    with pytest.raises(MethodError, match=r"\[6, 4\]"):
        info_nce(student, teacher[:, :3])


def test_noise_contrastive_is_a_binary_cross_entropy():
    positive, negative = draw(1, 3).requires_grad_(), (draw(2, 3, 4) * 50).requires_grad_()  # exp(50) must not overflow
    counts = torch.tensor([[2.0, 0, 1, 0], [0, 0, 0, 3], [1, 1, 1, 0]], dtype=torch.float64)
    log_z = log_partition(positive.detach(), negative.detach() / 50, counts, 7)
    powers = [math.exp(p) for p in positive.tolist()]
    for row, times in zip(negative.tolist(), counts.tolist(), strict=True):
        powers += [c * math.exp(s / 50) for s, c in zip(row, times, strict=True)]
    assert float(log_z) == pytest.approx(math.log(7 * sum(powers) / 12))
    total = 0.0
    for p, row, times in zip(positive.tolist(), negative.tolist(), counts.tolist(), strict=True):
        shift = float(log_z) + math.log(3 / 7)
        total += math.log1p(math.exp(shift - p))
        for s, c in zip(row, times, strict=True):
            total += c * (math.log1p(math.exp(s - shift)) if s < 30 else s - shift)
    assert noise_contrastive(positive, negative, counts, log_z, 7).item() == pytest.approx(total / 3)
    assert torch.autograd.gradcheck(lambda p, n: noise_contrastive(p, n, counts, log_z, 7), (positive, negative))
