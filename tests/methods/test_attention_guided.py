"""Maps weighted by attention and answers masked by confidence, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.losses.attention import region_weights, relative_attention
from sapling.types import Outputs, Step
from tests.losses import naive
from tests.losses.test_hierarchical import draw, pooled
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

STUDENT, TEACHER = outputs_of(CNN, 1), outputs_of(WIDE, 2)
FEATURE = Step(progress=0.5, terms=("feature",))


def make(student=CNN, teacher=WIDE, **config):
    torch.manual_seed(0)
    return methods.build("attention_guided", info_of(student, teacher), **config).double()


def projected(projector, maps):
    maps = np.einsum("bchw,oc->bohw", maps, projector[0].weight.detach().numpy()[..., 0, 0])
    return (maps - maps.mean((0, 2, 3), keepdims=True)) / np.sqrt(maps.var((0, 2, 3), keepdims=True) + 1e-5)


def shares(maps):
    """Attention of each pixel of one image, over its mean."""
    values = [np.mean([abs(x) for x in pixel]) for pixel in maps.reshape(len(maps), -1).T]
    return [v / np.mean(values) for v in values]


def weights(important, sharpness):
    powers = [math.exp(v / sharpness) for v in important]
    return [len(powers) * p / sum(powers) for p in powers]


@pytest.mark.parametrize("regions", ["teacher", "difference", "both"])
def test_is_the_naive_one(regions):
    method = make(regions=regions, sharpness=0.3)
    total = 0.0
    for stage, projector in zip(("stage3", "stage4"), method.projectors, strict=True):
        given = STUDENT.features[stage].numpy()
        maps = projected(projector, given)
        target = pooled(TEACHER.features[stage].numpy(), given.shape[2])
        for b in range(len(given)):
            ours, theirs = shares(given[b]), shares(target[b])
            kinds = {
                "teacher": weights(theirs, 0.3),
                "difference": weights([abs(o - t) for o, t in zip(ours, theirs, strict=True)], 0.3),
            }
            kinds["both"] = [(x + y) / 2 for x, y in zip(*kinds.values(), strict=True)]
            gaps = ((maps[b] - target[b]) ** 2).mean(0).flatten()
            total += np.mean([w * g for w, g in zip(kinds[regions], gaps, strict=True)]) / len(given)
    assert method(STUDENT, TEACHER, batch(), FEATURE)["feature"].item() == pytest.approx(total)


def test_doubtful_answers_are_left_out():
    method = make(temperature=3.0, min_confidence=0.4)
    rows = naive.kl_rows(STUDENT.logits.tolist(), TEACHER.logits.tolist(), 3.0)
    sure = [max(naive.softmax(z, 1)) >= 0.4 for z in TEACHER.logits.tolist()]
    assert 0 < sum(sure) < len(sure)
    got = method(STUDENT, TEACHER, batch(), Step(terms=("kd",)))["kd"].item()
    assert got == pytest.approx(sum(r for r, s in zip(rows, sure, strict=True) if s) / len(rows))
    assert float(method.observations()["kept"]) == pytest.approx(sum(sure) / len(sure))
    everything = make(temperature=3.0, min_confidence=0)(STUDENT, TEACHER, batch(), Step(terms=("kd",)))["kd"].item()
    assert everything == pytest.approx(rows.mean())


def test_weights_have_mean_1_and_do_not_know_the_scale():
    maps = draw(1, 3, 4, 2, 5)
    torch.testing.assert_close(relative_attention(7 * maps), relative_attention(maps))
    found = region_weights(relative_attention(maps), 0.5)
    torch.testing.assert_close(found.mean((1, 2)), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(region_weights(maps[:, 0], 1e9), torch.ones(3, 2, 5, dtype=torch.float64))
    assert bool((relative_attention(torch.zeros(2, 3, 4, 4)) == 0).all())


@pytest.mark.parametrize("regions", ["teacher", "both"])
def test_gradients_are_right(regions):
    """The weights are constants: the gradient is that of a plain weighted error."""
    method = make(regions=regions, stages=["stage3"])
    student = with_gradient(STUDENT)
    method(student, TEACHER, batch(), FEATURE)["feature"].backward()
    free = STUDENT.features["stage3"].clone().requires_grad_()
    target = torch.from_numpy(pooled(TEACHER.features["stage3"].numpy(), 3))
    weight = method._weights_of(free.detach(), target)
    (((method.projectors[0](free) - target) ** 2).mean(1) * weight).mean().backward()
    torch.testing.assert_close(student.features["stage3"].grad, free.grad)
    if regions == "teacher":

        def value(feature):
            given = Outputs(STUDENT.logits, {**STUDENT.features, "stage3": feature})
            return method(given, TEACHER, batch(), FEATURE)["feature"]

        assert torch.autograd.gradcheck(value, free, fast_mode=True)


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    shapes = PAIRS[pair]
    student = with_gradient(outputs_of(shapes[0], 1))
    make(*shapes)(student, outputs_of(shapes[1], 2), batch(), FEATURE)["feature"].backward()
    assert all(student.features[stage].grad.abs().sum() > 0 for stage in ("stage3", "stage4"))


def test_several_labels_are_refused():
    with pytest.raises(MethodError, match="one class per image"):
        methods.build("attention_guided", info_of(CNN, WIDE, multi_label=True))
