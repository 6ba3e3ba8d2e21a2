"""What two classes leave of methods on answers: no term that can teach nothing, and no setting that makes all so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError
from sapling.types import Outputs, Step
from tests.methods.toys import batch, pair_info

LATE = Step(epoch=9, progress=0.9)
TWO = dataclasses.replace(pair_info(), num_classes=2)


def two_class(name, **config):
    student = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    teacher = torch.randn(16, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    data = batch()
    data = dataclasses.replace(data, labels=data.labels % 2)
    method = methods.build(name, TWO, **config)
    wanted = dataclasses.replace(LATE, terms=method.active_terms(method.phases()[-1]))
    return student, method(Outputs(student), Outputs(teacher), data, wanted), method


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "function_matching", "dist+kd"])
def test_every_term_of_two_classes_teaches_something(name):
    student, terms, method = two_class(name)
    assert set(terms) == {term for term, weight in method.weights.items() if weight}
    for term, value in terms.items():
        (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
        assert float(gradient.abs().max()) > 1e-4, term


@pytest.mark.parametrize(("name", "term"), [("dkd", "nckd"), ("dist", "inter")])
def test_a_term_of_two_classes_that_is_left_out_cannot_be_asked_for(name, term):
    assert methods.build(name, TWO).weights[term] == 0
    assert methods.build(name, pair_info()).weights[term] > 0
    with pytest.raises(ConfigError, match=rf"'{name}': weights.{term} can do nothing"):
        methods.build(name, TWO, weights={term: 2})


@pytest.mark.parametrize("name", ["kd", "dkd", "function_matching"])
def test_two_classes_cannot_be_standardised(name):
    with pytest.raises(ConfigError, match=f"'{name}': of two classes"):
        methods.build(name, TWO, standardize=True)
    with pytest.raises(ConfigError, match="'diffkd': of two classes"):
        methods.build("diffkd", TWO, normalise=True)
    methods.build("diffkd", TWO, normalise=True, branches=["feat"])


def test_norm_takes_two_classes_but_no_kd_of_them():
    methods.build("norm", TWO)
    with pytest.raises(ConfigError, match="'norm': of two classes"):
        methods.build("norm", TWO, weights={"kd": 1})
    methods.build("norm", pair_info(), weights={"kd": 1})


def test_dist_without_centring_is_the_cosine():
    student, terms, _ = two_class("dist", center=False)
    teacher = torch.randn(16, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (student.detach().numpy(), teacher.numpy()))
    for term, axis in (("inter", 1), ("intra", 0)):
        cosine = (p * q).sum(axis) / np.sqrt((p**2).sum(axis) * (q**2).sum(axis))
        assert float(terms[term].detach()) == pytest.approx(1 - cosine.mean(), rel=1e-6)


def test_kd_by_the_mean_over_classes_is_k_times_smaller():
    values = []
    for reduction in ("batchmean", "mean"):
        _, terms, _ = two_class("kd", reduction=reduction)
        values.append(float(terms["kd"].detach()))
    assert values[0] == pytest.approx(2 * values[1])
