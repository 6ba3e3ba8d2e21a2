from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sapling.errors import MethodError
from sapling.losses.labels import (
    adjusted_cross_entropy,
    inverse_frequency,
    log_prior,
    weighted_cross_entropy,
)

LABELS = torch.tensor([0] * 6 + [1] * 3 + [2])


def probabilities(logits):
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def naive(logits, targets, *, weights=None, prior=None):
    """Cross-entropy image by image and class by class."""
    total = 0.0
    for z, t in zip(logits.numpy().astype(float), targets.numpy().astype(float), strict=True):
        p = probabilities(z if prior is None else z + prior)
        total += sum(-(1 if weights is None else weights[k]) * t[k] * math.log(p[k]) for k in range(len(p)))
    return total / len(logits)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(5, 3, generator=generator)
    labels = torch.tensor([0, 2, 2, 1, 0])
    mixed = torch.rand(5, 3, generator=generator)
    return logits, labels, mixed / mixed.sum(1, keepdim=True)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_weights_of_classes(power):
    weights = inverse_frequency(LABELS, 3, power).tolist()
    raw = [6**-power, 3**-power, 1]
    mean = (6 * raw[0] + 3 * raw[1] + raw[2]) / 10
    assert weights == pytest.approx([value / mean for value in raw])
    assert weights[0] < weights[1] < weights[2]
    assert float(inverse_frequency(LABELS, 3, power)[LABELS].mean()) == pytest.approx(1)


def test_with_power_one_every_class_weighs_the_same_in_all():
    shares = inverse_frequency(LABELS, 3) * torch.bincount(LABELS)
    assert shares.tolist() == pytest.approx([10 / 3] * 3)


def test_the_prior():
    assert log_prior(LABELS, 3).tolist() == pytest.approx([math.log(0.6), math.log(0.3), math.log(0.1)])
    assert log_prior(LABELS, 3, 2.0).tolist() == pytest.approx([2 * math.log(n) for n in (0.6, 0.3, 0.1)])


def test_a_class_without_images_is_finite():
    assert torch.isfinite(inverse_frequency(LABELS, 4)).all()
    assert torch.isfinite(log_prior(LABELS, 4)).all()


def test_labels_out_of_range_are_refused():
    for labels in (torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(MethodError):
            log_prior(labels, 3)


@pytest.mark.parametrize("is_mixed", [False, True])
def test_both_losses_are_the_naive_ones(case, is_mixed):
    logits, labels, mixed = case
    target = mixed if is_mixed else labels
    shares = mixed if is_mixed else torch.nn.functional.one_hot(labels, 3)
    weights, prior = inverse_frequency(LABELS, 3), log_prior(LABELS, 3)
    found = float(weighted_cross_entropy(logits, target, weights))
    assert found == pytest.approx(naive(logits, shares, weights=weights.tolist()), rel=1e-5)
    found = float(adjusted_cross_entropy(logits, target, prior))
    assert found == pytest.approx(naive(logits, shares, prior=prior.numpy()), rel=1e-5)


def test_a_batch_of_rare_classes_weighs_more():
    # torch's weighted mean would divide the weight out again.
    logits, target = torch.zeros(4, 3), torch.full((4,), 2)
    weights = inverse_frequency(LABELS, 3)
    assert float(weighted_cross_entropy(logits, target, weights)) == pytest.approx(math.log(3) * float(weights[2]))


def test_adjustment_moves_the_boundary_towards_the_frequent_class():
    # Where training is satisfied with equal adjusted logits, the plain logit of the rare class is the larger one.
    logits = torch.zeros(1, 3, requires_grad=True)
    adjusted_cross_entropy(logits, torch.tensor([2]), log_prior(LABELS, 3)).backward()
    assert logits.grad[0].tolist() == pytest.approx([0.6, 0.3, 0.1 - 1])


def test_half_precision_is_computed_in_single():
    logits = torch.randn(4, 3).to(torch.bfloat16)
    assert (
        adjusted_cross_entropy(logits, torch.zeros(4, dtype=torch.int64), log_prior(LABELS, 3)).dtype == torch.float32
    )
    loss = weighted_cross_entropy(logits, torch.zeros(4, dtype=torch.int64), inverse_frequency(LABELS, 3))
    assert loss.dtype == torch.float32
