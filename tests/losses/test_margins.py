from __future__ import annotations

import pytest
import torch

from sapling.errors import MethodError
from sapling.losses.margins import negative_means, partial_distance
from tests.losses.test_hierarchical import draw

MARGIN = torch.tensor([-0.5, -0.1, 0.0], dtype=torch.float64)


def naive(student, teacher, margin):
    total = 0.0
    for b in range(len(student)):
        for c in range(student.shape[1]):
            for s, t in zip(student[b, c].flatten().tolist(), teacher[b, c].flatten().tolist(), strict=True):
                target = max(t, float(margin[c]))
                if not s <= target <= 0:
                    total += (s - target) ** 2
    return total / len(student)


def test_is_the_naive_one():
    student, teacher = draw(1, 4, 3, 5, 5), draw(2, 4, 3, 5, 5)
    assert float(partial_distance(student, teacher, MARGIN)) == pytest.approx(naive(student, teacher, MARGIN))


def test_a_student_below_a_negative_target_is_forgiven():
    teacher = -draw(2, 4, 3, 5, 5).abs()
    assert float(partial_distance(torch.maximum(teacher, MARGIN[:, None, None]) - 3, teacher, MARGIN)) == 0
    assert float(partial_distance(torch.zeros_like(teacher), teacher, MARGIN)) > 0
    above = teacher.abs() + 0.1
    assert float(partial_distance(above - 3, above, MARGIN)) == pytest.approx(9 * 75)


def test_gradients_and_wrong_shapes():
    student, teacher = draw(1, 2, 3, 2, 2).requires_grad_(), draw(2, 2, 3, 2, 2)
    assert torch.autograd.gradcheck(lambda s: partial_distance(s, teacher, MARGIN), (student,))
    with pytest.raises(MethodError, match=r"margin \[2\]"):
        partial_distance(student, teacher, MARGIN[:2])


def test_negative_means_are_the_naive_ones():
    maps = draw(1, 4, 3, 5, 5)
    maps[:, 2] = maps[:, 2].abs()
    means, counts = negative_means(maps)
    for c in range(3):
        below = [x for x in maps[:, c].flatten().tolist() if x < 0]
        assert int(counts[c]) == len(below)
        assert float(means[c]) == pytest.approx(sum(below) / len(below) if below else 0)
