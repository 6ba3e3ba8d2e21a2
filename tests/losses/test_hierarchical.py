from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling.errors import MethodError
from sapling.losses.hierarchical import hierarchical_context


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pooled(maps, size):
    """Means of equal cells, with loops."""
    b, c, h, w = maps.shape
    out = np.zeros((b, c, size, size))
    for i in range(size):
        for j in range(size):
            cell = maps[:, :, i * h // size : -(-(i + 1) * h // size), j * w // size : -(-(j + 1) * w // size)]
            out[:, :, i, j] = cell.mean(axis=(2, 3))
    return out


def naive(student, teacher):
    errors, weights = [((student - teacher) ** 2).mean()], [1.0]
    for size in (4, 2, 1):
        if size < student.shape[2]:
            errors.append(((pooled(student, size) - pooled(teacher, size)) ** 2).mean())
            weights.append(0.5 ** len(weights))
    return np.dot(errors, weights) / sum(weights)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_is_the_naive_one(size):
    student, teacher = draw(1, 3, 4, size, size), draw(2, 3, 4, size, size)
    assert float(hierarchical_context(student, teacher)) == pytest.approx(naive(student.numpy(), teacher.numpy()))


def test_pooled_sizes_count_less_and_less():
    """A shift of all cells is seen at every size alike; a checkerboard, whose cells cancel, only at full size."""
    zero = torch.zeros(1, 1, 8, 8)
    board = torch.ones(8, 8).cumsum(0) + torch.ones(8, 8).cumsum(1)
    board = ((board % 2) * 2 - 1)[None, None]
    assert float(hierarchical_context(zero + 1, zero)) == pytest.approx(1)
    assert float(hierarchical_context(board, zero)) == pytest.approx(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8))


def test_gradients_and_properties():
    student, teacher = draw(1, 2, 3, 5, 5).requires_grad_(), draw(2, 2, 3, 5, 5)
    assert torch.autograd.gradcheck(lambda s: hierarchical_context(s, teacher), (student,))
    assert float(hierarchical_context(teacher, teacher)) == 0
    assert hierarchical_context(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32
    with pytest.raises(MethodError, match=r"\[2, 3, 5, 5\], teacher map \[2, 3, 4, 4\]"):
        hierarchical_context(student, teacher[:, :, :4, :4])
