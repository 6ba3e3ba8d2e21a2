from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling.errors import MethodError
from sapling.losses.embeddings import mean_gap, normalized_smooth_l1
from tests.losses.test_hierarchical import draw


def test_mean_gap_is_the_naive_one():
    student, teacher = draw(1, 3, 4, 5, 5), draw(2, 3, 4, 2, 2)
    total = 0.0
    for b in range(3):
        for c in range(4):
            gap = sum(student[b, c].flatten().tolist()) / 25 - sum(teacher[b, c].flatten().tolist()) / 4
            total += gap**2 / 12
    assert float(mean_gap(student, teacher)) == pytest.approx(total)
    assert float(mean_gap(student, teacher.mean((2, 3)))) == pytest.approx(total)


def test_mean_gap_looks_at_means_only():
    student, teacher = draw(1, 3, 4, 5, 5), draw(2, 3, 4, 2, 2)
    mixed = student.flatten(2)[:, :, torch.randperm(25)]
    torch.testing.assert_close(mean_gap(mixed, teacher), mean_gap(student, teacher))


def test_smooth_l1_is_the_naive_one():
    student, teacher = draw(1, 6, 7) * 2, draw(2, 6, 7) * 3 + 1
    found = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        target = (t - t.mean()) / np.sqrt(t.var() + 1e-5)
        found += [0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in s - target]
    assert any(x > 0.5 for x in found)
    assert any(x < 0.5 for x in found)
    assert float(normalized_smooth_l1(student, teacher)) == pytest.approx(np.mean(found))


def test_the_teachers_scale_and_shift_do_not_matter_but_the_students_do():
    student, teacher = draw(1, 6, 7), draw(2, 6, 7) * 3
    usual = normalized_smooth_l1(student, teacher)
    torch.testing.assert_close(normalized_smooth_l1(student, teacher * 5 + 2), usual, rtol=1e-4, atol=0)
    assert abs(float(normalized_smooth_l1(student * 5, teacher)) - float(usual)) > 0.1


@pytest.mark.parametrize("loss", [mean_gap, normalized_smooth_l1])
def test_gradients_and_wrong_shapes(loss):
    student, teacher = draw(1, 3, 4).requires_grad_(), draw(2, 3, 4)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))
    with pytest.raises(MethodError, match=r"\[3, 4\]"):
        loss(student, teacher[:, :3])
