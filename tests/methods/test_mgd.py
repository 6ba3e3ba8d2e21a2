"""MGD against numpy loops; its mask strikes out whole channels of single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.types import Step
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

ONLY = Step(progress=0.5, terms=("mgd",))


def make(student=CNN, teacher=WIDE, **config):
    torch.manual_seed(0)
    return methods.build("mgd", info_of(student, teacher), **config).double()


def conv3x3(maps, layer):
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    height, width = maps.shape[1:]
    out = np.zeros((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            for u in range(max(i - 1, 0), min(i + 2, height)):
                for v in range(max(j - 1, 0), min(j + 2, width)):
                    out[:, i, j] += weight[:, :, u - i + 1, v - j + 1] @ maps[:, u, v]
    return out + bias[:, None, None]


def test_is_the_naive_one():
    """The student's 2 x 2 map is the smaller: the teacher's 3 x 3 is averaged to it."""
    method, student, teacher = make(), outputs_of(CNN, 1), outputs_of(WIDE, 2)
    mask = (torch.rand(6, 16, 1, 1) > 0.3).double()
    method.mask = lambda maps: mask
    weight, bias = method.align.weight.detach().numpy()[:, :, 0, 0], method.align.bias.detach().numpy()
    total = 0.0
    for b in range(6):
        aligned = np.einsum("oc,chw->ohw", weight, student.features["stage4"][b].numpy()) + bias[:, None, None]
        made = conv3x3(np.maximum(conv3x3(aligned * mask[b].numpy(), method.generator[0]), 0), method.generator[2])
        theirs = teacher.features["stage4"][b].numpy()
        for i in range(2):
            for j in range(2):
                total += ((made[:, i, j] - theirs[:, i : i + 2, j : j + 2].mean((1, 2))) ** 2).sum() / 6
    got = method(student, teacher, batch(batch_size=6), ONLY)["mgd"]
    assert float(got.detach()) == pytest.approx(total, rel=1e-9)


def test_the_sum_is_over_values_and_the_mean_over_images():
    method, student, teacher = make(masked_share=0), outputs_of(CNN, 1), outputs_of(WIDE, 2)
    usual = method(student, teacher, batch(), ONLY)["mgd"]
    twice = [type(o)(o.logits, {k: torch.cat([v, v]) for k, v in o.features.items()}) for o in (student, teacher)]
    twice = [type(o)(torch.cat([o.logits, o.logits]), o.features) for o in twice]
    torch.testing.assert_close(method(*twice, batch(), ONLY)["mgd"], usual)


def test_mask_strikes_out_channels_of_single_images():
    torch.manual_seed(1)
    mask = make().mask(torch.zeros(200, 50, 2, 2))
    assert mask.shape == (200, 50, 1, 1)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert 0.13 < 1 - float(mask.mean()) < 0.17
    assert len({tuple(row) for row in mask.flatten(1).tolist()}) > 190
    assert bool((make(masked_share=0).mask(torch.zeros(9, 9, 1, 1)) == 1).all())


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    shapes = PAIRS[pair]
    method, student = make(*shapes), with_gradient(outputs_of(shapes[0], 1))
    method(student, outputs_of(shapes[1], 2), batch(), ONLY)["mgd"].backward()
    assert student.features["stage4"].grad.abs().sum() > 0
    assert (len(list(method.align.parameters())) == 0) == (method._student.channels == method._teacher.channels)
