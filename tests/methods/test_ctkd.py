"""CTKD: plain KD at a temperature that climbs the loss."""

from __future__ import annotations

import math

import pytest
import torch

from sapling import methods
from sapling.types import Step
from tests.losses import naive
from tests.methods.hidden import CNN, WIDE, info_of, outputs_of
from tests.methods.toys import batch

STUDENT, TEACHER = outputs_of(CNN, 1), outputs_of(WIDE, 2)


def make(**config):
    return methods.build("ctkd", info_of(CNN, WIDE), **config).double()


def kd(method, progress=0.5):
    return method(STUDENT, TEACHER, batch(), Step(progress=progress, terms=("kd",)))["kd"]


def test_is_the_naive_one():
    method = make()
    temperature = 1 + 20 / (1 + math.exp(-1))
    assert method.temperature.item() == pytest.approx(temperature)
    expected = naive.kl_rows(STUDENT.logits.tolist(), TEACHER.logits.tolist(), temperature).mean()
    assert kd(method).item() == pytest.approx(expected)
    assert method.weights == pytest.approx({"ce": 0.1, "kd": 0.9})


@pytest.mark.parametrize(("progress", "factor"), [(0, 0), (1 / 48, -0.5), (1 / 24, -1), (0.9, -1)])
def test_gradient_is_turned_round_by_and_by(progress, factor):
    method = make(min_temperature=0.5, temperature_range=4)
    raw = method.raw.detach().clone().requires_grad_()

    def plain(raw):
        temperature = 0.5 + 4 * torch.sigmoid(raw)
        p, q = (torch.softmax(x.logits / temperature, 1) for x in (TEACHER, STUDENT))
        return temperature**2 * (p * (p / q).log()).sum(1).mean()

    (usual,) = torch.autograd.grad(plain(raw), raw)
    (got,) = torch.autograd.grad(kd(method, progress), method.raw)
    assert got.item() == pytest.approx(factor * usual.item(), abs=1e-12)


def test_the_temperature_climbs_the_loss():
    method = make()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = kd(method)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values == sorted(values)
    assert values[-1] > values[0]
    assert 1 < method.temperature.item() < 21
