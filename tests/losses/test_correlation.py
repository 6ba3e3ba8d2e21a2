from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.errors import MethodError
from sapling.losses import inter_class, intra_class, pearson
from tests.losses import naive
from tests.losses.test_divergence import draw

LOSSES = [inter_class, intra_class]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 8), st.floats(0.5, 10))
def test_both_are_the_naive_ones(seed, b, k, temperature):
    student, teacher = draw(seed, b, k), draw(seed + 1, b, k)
    inter, intra = naive.dist_pair(student.numpy(), teacher.numpy(), temperature)
    assert float(inter_class(student, teacher, temperature)) == pytest.approx(inter, rel=1e-8, abs=1e-9)
    assert float(intra_class(student, teacher, temperature)) == pytest.approx(intra, rel=1e-8, abs=1e-9)


def test_pearson_is_numpys():
    first, second = draw(1, 5, 9), draw(2, 5, 9)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    np.testing.assert_allclose(pearson(first, second, dim=1), expected, rtol=1e-6)
    np.testing.assert_allclose(pearson(first.T, second.T, dim=0), expected, rtol=1e-6)


def test_pearson_ignores_scale_and_shift():
    first, second = draw(1, 5, 9), draw(2, 5, 9)
    shift, scale = draw(3, 5, 1), draw(4, 5, 1).abs() + 0.5
    torch.testing.assert_close(
        pearson(first * scale + shift, second, 1), pearson(first, second, 1), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_properties(loss):
    student, teacher = draw(1, 9, 6), draw(2, 9, 6)
    assert float(loss(teacher, teacher, 4.0)) == pytest.approx(0, abs=1e-5)
    assert 0 < float(loss(student, teacher, 4.0)) <= 2 * 16
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(student[order], teacher[order], 4.0), loss(student, teacher, 4.0))
    swapped = torch.tensor([5, 3, 1, 0, 2, 4])
    torch.testing.assert_close(loss(student[:, swapped], teacher[:, swapped], 4.0), loss(student, teacher, 4.0))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_right(loss):
    student, teacher = draw(1, 5, 4).requires_grad_(), draw(2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, 2.0), (student, teacher))


@pytest.mark.parametrize("loss", LOSSES)
def test_constant_answers_stay_finite(loss):
    student = torch.zeros(8, 5, requires_grad=True)
    value = loss(student, torch.randn(8, 5), 2.0)
    value.backward()
    assert float(value.detach()) == pytest.approx(4.0, abs=0.1)  # uncorrelated: T^2
    assert torch.isfinite(student.grad).all()


def test_inter_and_intra_look_along_different_axes():
    """One class is raised for all images: within an image much changes, within a class little."""
    teacher = draw(1, 12, 5, scale=0.01)
    raised = teacher + torch.tensor([3.0, 0, 0, 0, 0], dtype=torch.float64)
    assert float(inter_class(raised, teacher)) > 0.3
    assert float(intra_class(raised, teacher)) < 0.2


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_raised_and_wrong_input_refused(loss):
    student, teacher = draw(1, 8, 6).bfloat16(), draw(2, 8, 6).bfloat16()
    assert loss(student, teacher).dtype == torch.float32
    with pytest.raises(MethodError, match="shape"):
        loss(torch.zeros(8, 3), torch.zeros(8, 4))
    with pytest.raises(MethodError, match="above 0"):
        loss(student, teacher, 0.0)
