"""VID against numpy, and its learned variances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.types import Step
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of, with_gradient
from tests.methods.test_ofd import halved
from tests.methods.toys import batch

ONLY = Step(progress=0.5, terms=("vid",))


def make(student=CNN, teacher=WIDE, **config):
    torch.manual_seed(0)
    return methods.build("vid", info_of(student, teacher), **config).double()


def test_is_the_naive_one():
    method, student, teacher = make(), outputs_of(CNN, 1), outputs_of(WIDE, 2)
    with torch.no_grad():
        for forecast in method.forecasts:
            forecast.spread.add_(torch.linspace(-3, 3, len(forecast.spread)))
    total = 0.0
    for forecast, (stage, size) in zip(method.forecasts, {"stage2": 6, "stage3": 3, "stage4": 2}.items(), strict=True):
        target = teacher.features[stage].numpy()
        if stage == "stage4":  # 3 by 3 to 2 by 2: cells overlap
            target = np.stack(
                [[target[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in (0, 1)] for i in (0, 1)]
            ).transpose(2, 3, 0, 1)
        else:
            target = halved(target, size)
        x = student.features[stage].numpy()
        for layer in (0, 2, 4):
            x = np.einsum(
                "bchw,oc->bohw", np.maximum(x, 0) if layer else x, forecast.mean[layer].weight.detach()[..., 0, 0]
            )
        variance = np.log1p(np.exp(forecast.spread.detach().numpy())) + 1e-5
        for c, v in enumerate(variance):
            total += (0.5 * ((x[:, c] - target[:, c]) ** 2 / v + np.log(v))).mean() / len(variance)
    assert method(student, teacher, batch(), ONLY)["vid"].item() == pytest.approx(total)


def test_variances_start_as_set_and_learn():
    method = make(start_variance=2.0)
    for forecast in method.forecasts:
        torch.testing.assert_close(forecast.variance, torch.full_like(forecast.spread, 2.0))
    optimizer = torch.optim.SGD([f.spread for f in method.forecasts], lr=1.0)
    student, teacher = outputs_of(CNN, 1), outputs_of(WIDE, 2)
    for _ in range(20):
        optimizer.zero_grad()
        method(student, teacher, batch(), ONLY)["vid"].backward()
        optimizer.step()
    assert all(bool((f.variance < 1.99).all()) for f in method.forecasts)  # the teacher's is 1 or less
    assert all(bool((f.variance > 0).all()) for f in method.forecasts)


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    shapes = PAIRS[pair]
    student = with_gradient(outputs_of(shapes[0], 1))
    make(*shapes)(student, outputs_of(shapes[1], 2), batch(), ONLY)["vid"].backward()
    assert all(student.features[f"stage{i}"].grad.abs().sum() > 0 for i in (2, 3, 4))
