"""The learning rate is a pure function of the step; weight decay spares biases and norms."""

import math

import pytest
import torch
from torch import nn

from sapling.engine.optim import OptimSettings, default_lr, learning_rate, make_optimizer


def settings(**changes):
    base = {
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup_steps": 10,
        "total_steps": 110,
    }
    return OptimSettings(**{**base, **changes})


def test_warm_up_is_linear_and_reaches_the_rate():
    rates = [learning_rate(settings(), s) for s in range(10)]
    assert rates == pytest.approx([0.01 * (s + 1) for s in range(10)])


def test_cosine_equals_torch_s():
    schedule = settings(warmup_steps=0, total_steps=50)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for step in range(50):
        assert learning_rate(schedule, step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


def test_step_drops_as_the_paper_s():
    schedule = settings(schedule="step", warmup_steps=0, total_steps=100, drop_steps=30, drop_factor=0.1)
    assert [round(math.log10(learning_rate(schedule, s) / 0.1)) for s in (0, 29, 30, 59, 60, 90)] == [
        0,
        0,
        -1,
        -1,
        -2,
        -3,
    ]


def test_warm_up_longer_than_the_run_still_rises():
    short = settings(warmup_steps=1000, total_steps=4)
    assert [learning_rate(short, s) for s in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])


def test_default_rate_follows_the_batch():
    assert default_lr("sgd", 64, pretrained=False) == 0.05
    assert default_lr("sgd", 128, pretrained=False) == pytest.approx(0.1)
    assert default_lr("adamw", 64, pretrained=True) == pytest.approx(2e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_spares_biases_and_norms(optimizer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    made = make_optimizer([model], settings(optimizer=optimizer))
    decayed = {id(p) for g in made.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(model[0].weight), id(model[3].weight)}
    assert sum(len(g["params"]) for g in made.param_groups) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    made = make_optimizer([model], settings())
    assert [id(p) for g in made.param_groups for p in g["params"]] == [id(model.bias)]
