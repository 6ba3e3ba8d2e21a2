from __future__ import annotations

import math

import pytest
import torch

from sapling.errors import MethodError
from sapling.losses.gaussian import gaussian_nll
from tests.losses.test_hierarchical import draw

VARIANCE = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)


def test_is_torchs_density_up_to_a_constant():
    mean, teacher = draw(1, 4, 3, 5, 5), draw(2, 4, 3, 5, 5)
    law = torch.distributions.Normal(mean, VARIANCE.sqrt()[:, None, None])
    expected = -law.log_prob(teacher).mean() - 0.5 * math.log(2 * math.pi)
    assert float(gaussian_nll(mean, teacher, VARIANCE)) == pytest.approx(float(expected))


def test_the_best_variance_is_the_mean_squared_gap():
    mean, teacher = draw(1, 4, 3, 5, 5), draw(2, 4, 3, 5, 5)
    best = (mean - teacher).square().mean((0, 2, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_nll(mean, teacher, best), best)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_gradients_and_wrong_shapes():
    mean, teacher, variance = draw(1, 2, 3).requires_grad_(), draw(2, 2, 3), VARIANCE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: gaussian_nll(m, teacher, v), (mean, variance))
    with pytest.raises(MethodError, match=r"variance \[2\]"):
        gaussian_nll(mean, teacher, VARIANCE[:2])
