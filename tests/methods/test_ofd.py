"""OFD against loops over its parts; its margins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.methods.ofd import HORIZON, RunningNegativeMean
from sapling.types import Outputs, Step
from tests.losses import test_margins
from tests.losses.test_hierarchical import draw
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

ONLY = Step(progress=0.5, terms=("ofd",))


def make(student=CNN, teacher=WIDE, **config):
    torch.manual_seed(0)
    return methods.build("ofd", info_of(student, teacher), **config).double()


def halved(maps, size):
    """Means over cells of equal size."""
    step = maps.shape[2] // size
    return maps.reshape(*maps.shape[:2], size, step, size, step).mean((3, 5))


def test_is_the_naive_one():
    method, student, teacher = make(CNN, CNN), outputs_of(CNN, 1), outputs_of(CNN, 2)
    total = 0.0
    for number, stage in enumerate(("stage2.pre", "stage3.pre", "stage4.pre")):
        weight = method.connectors[number][0].weight.detach().numpy()[:, :, 0, 0]
        maps = np.einsum("bchw,oc->bohw", student.features[stage].numpy(), weight)
        maps = (maps - maps.mean((0, 2, 3), keepdims=True)) / np.sqrt(maps.var((0, 2, 3), keepdims=True) + 1e-5)
        target = teacher.features[stage]
        margin = [float(x[x < 0].mean()) for x in target.transpose(0, 1)]
        total += test_margins.naive(torch.from_numpy(maps), target, margin) / 2 ** (2 - number)
    assert method(student, teacher, batch(), ONLY)["ofd"].item() == pytest.approx(total, rel=1e-6)
    assert method.weights["ofd"] == 0.001


def test_the_larger_map_is_averaged():
    method, student, teacher = make(stages=["stage3"]), outputs_of(CNN, 1), outputs_of(WIDE, 2)
    pooled = {"stage3.pre": halved(teacher.features["stage3.pre"], 3)}
    again = make(teacher={**WIDE, "stage3": (12, 3, 3)}, stages=["stage3"])
    expected = again(student, Outputs(teacher.logits, pooled), batch(), ONLY)["ofd"]
    torch.testing.assert_close(method(student, teacher, batch(), ONLY)["ofd"], expected)


def test_margins_are_running_means_of_negative_values():
    margins = RunningNegativeMean(3).double()
    seen = []
    for seed in range(4):
        maps = draw(seed, 5, 3, 2, 2) - 1
        maps[:, 2] = maps[:, 2].abs()
        seen.append([float(x[x < 0].mean()) for x in maps[:, :2].transpose(0, 1)])
        found = margins(maps)
    np.testing.assert_allclose(found[:2], np.mean(seen, axis=0))
    assert found[2] == 0  # nothing below 0 was seen
    before = found.clone()
    margins.eval()(maps - 5)
    assert torch.equal(margins.mean, before)


def test_margins_forget_after_the_horizon():
    margins = RunningNegativeMean(1)
    margins.num_batches.fill_(10 * HORIZON)
    margins(torch.full((1, 1, 1, 1), -1.0))
    assert float(margins.mean) == pytest.approx(-1 / HORIZON)


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    shapes = PAIRS[pair]
    student = with_gradient(outputs_of(shapes[0], 1))
    make(*shapes)(student, outputs_of(shapes[1], 2), batch(), ONLY)["ofd"].backward()
    assert all(student.features[f"stage{i}.pre"].grad.abs().sum() > 0 for i in (2, 3, 4))


def test_a_teacher_without_activation_is_refused():
    info = dataclasses.replace(info_of(CNN, WIDE), teacher_without_activation=("stage1.pre", "stage4.pre"))
    with pytest.raises(MethodError, match=r"teacher's stage4.pre \[16, 3, 3\][\s\S]*=\[stage2,stage3\], or a .*vid"):
        methods.build("ofd", info)
    assert methods.build("ofd", info, stages=["stage3"])
