"""The formulas of the methods, against numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.types import Outputs, Step
from tests.losses import naive
from tests.methods.toys import batch, pair_info

LATE = Step(epoch=9, progress=0.9)


def logits(seed):
    return torch.randn(16, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


STUDENT, TEACHER = logits(1), logits(2)
LABELS = batch().labels.tolist()


def terms(name, step=LATE, data=None, **config):
    method = methods.build(name, pair_info(), **config)
    return {k: float(v) for k, v in method(Outputs(STUDENT), Outputs(TEACHER), data or batch(), step).items()}


def test_none_is_cross_entropy():
    assert terms("none") == pytest.approx({"ce": naive.cross_entropy(STUDENT.tolist(), LABELS)})


@pytest.mark.parametrize("temperature", [1, 4, 7.5])
def test_kd_is_the_naive_one(temperature):
    got = terms("kd", temperature=temperature)
    assert got["ce"] == pytest.approx(naive.cross_entropy(STUDENT.tolist(), LABELS))
    assert got["kd"] == pytest.approx(naive.kl_rows(STUDENT.tolist(), TEACHER.tolist(), temperature).mean())


def test_kd_standardized_is_the_naive_one():
    rows = [naive.standardized(x.numpy()).tolist() for x in (STUDENT, TEACHER)]
    assert terms("kd", temperature=2, standardize=True)["kd"] == pytest.approx(naive.kl_rows(*rows, 2).mean())


@pytest.mark.parametrize("standardize", [False, True])
def test_dkd_is_the_naive_one(standardize):
    rows = [(naive.standardized(x.numpy()) if standardize else x).tolist() for x in (STUDENT, TEACHER)]
    target, non_target = naive.decoupled_rows(*rows, LABELS, 3)
    got = terms("dkd", temperature=3, standardize=standardize)
    assert got["tckd"] == pytest.approx(target.mean())
    assert got["nckd"] == pytest.approx(non_target.mean())


def test_dkd_warms_up():
    full = terms("dkd")
    half = terms("dkd", step=Step(progress=1 / 24))
    assert [half[k] / full[k] for k in ("ce", "tckd", "nckd")] == pytest.approx([1, 0.5, 0.5])
    assert terms("dkd", step=Step(progress=0.0), warmup_share=0) == pytest.approx(full)


def test_dkd_refuses_mixed_images():
    mixed = dataclasses.replace(batch(), targets=torch.full((16, 5), 0.2))
    with pytest.raises(MethodError, match="were mixed"):
        terms("dkd", data=mixed)
    with pytest.raises(MethodError, match="have none"):
        terms("dkd", step=Step(terms=("nckd",)), data=dataclasses.replace(batch(), labels=None))


@pytest.mark.parametrize("temperature", [1, 4])
def test_dist_is_the_naive_one(temperature):
    got = terms("dist", temperature=temperature)
    inter, intra = naive.dist_pair(STUDENT.numpy(), TEACHER.numpy(), temperature)
    assert (got["inter"], got["intra"]) == pytest.approx((inter, intra))


def test_dist_refuses_small_batches():
    method = methods.build("dist", pair_info())
    with pytest.raises(MethodError, match=r"batch of 7 images[\s\S]*8 or more"):
        method(Outputs(STUDENT[:7]), Outputs(TEACHER[:7]), batch(batch_size=7), LATE)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(name):
    method = methods.build(name, pair_info())
    got = method(Outputs(TEACHER), Outputs(TEACHER), batch(), LATE)
    assert all(abs(float(v)) < 1e-6 for k, v in got.items() if k != "ce")


def test_kd_learns_the_teacher():
    """Gradient descent on kd alone brings the student's probabilities to the teacher's."""
    method = methods.build("kd", pair_info(), alpha=0, temperature=4)
    student = STUDENT.clone().requires_grad_()
    data = batch()
    for _ in range(80):
        loss = method(Outputs(student), Outputs(TEACHER), data, Step(terms=("kd",)))["kd"]
        (gradient,) = torch.autograd.grad(loss, student)
        student = (student - 16 * gradient).detach().requires_grad_()
    gap = torch.softmax(student.detach(), 1) - torch.softmax(TEACHER, 1)
    np.testing.assert_allclose(gap, 0, atol=1e-3)
