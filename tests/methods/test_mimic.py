"""mimic: its formula against loops, and what it does not mind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.losses.regression import standardize_channels
from sapling.types import Outputs, PairInfo, Step
from tests.losses import naive_features as naive
from tests.methods.toys import batch

MIMIC = Step(terms=("mimic",))


def build(student, teacher, **config):
    torch.manual_seed(0)
    return methods.build("mimic", PairInfo(5, 40, {"stage4": student}, {"stage4": teacher}), **config)


def draw(seed, shape, count=9):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def value(method, student, teacher):
    logits = torch.zeros(len(student), 5)
    given = Outputs(logits, {"stage4": student}), Outputs(logits, {"stage4": teacher})
    return method(*given, batch(batch_size=len(student)), MIMIC)["mimic"]


def by_loops(student, teacher, weight):
    """Maps ``[B,C,H,W]`` as arrays; one number at a time."""
    height, width = (min(student.shape[i], teacher.shape[i]) for i in (2, 3))
    student, teacher = (np.stack([naive.pooled(f, height, width) for f in m]) for m in (student, teacher))
    total, count = 0.0, 0
    for c in range(teacher.shape[1]):
        places = [(b, y, x) for b in range(len(teacher)) for y in range(height) for x in range(width)]
        mine = [sum(weight[c, k] * student[b, k, y, x] for k in range(student.shape[1])) for b, y, x in places]
        theirs = [teacher[b, c, y, x] for b, y, x in places]
        for own, goal in zip(standardised(mine, eps=1e-5), standardised(theirs), strict=True):
            total += (own - goal) ** 2
            count += 1
    return total / count


def standardised(values, eps=0.0):
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) + eps)
    return [(v - mean) / deviation for v in values]


@pytest.mark.parametrize(
    ("student", "teacher"), [((3, 4, 4), (5, 4, 4)), ((3, 6, 6), (5, 3, 3)), ((3, 2, 4), (4, 4, 2)), ((6,), (4,))]
)
def test_it_is_the_naive_one(student, teacher):
    method, ours, theirs = build(student, teacher), draw(1, student), 3 + 2 * draw(2, teacher)
    weight = method.projector[0].weight.detach().double().numpy()[:, :, 0, 0]
    maps = (m.double().reshape(len(m), m.shape[1], *(m.shape[2:] or (1, 1))).numpy() for m in (ours, theirs))
    expected = by_loops(*maps, weight)
    assert float(value(method, ours, theirs).detach()) == pytest.approx(expected, rel=1e-5)


def test_tokens_are_the_map_of_their_grid():
    method, ours, tokens = build((3, 4, 4), (16, 7)), draw(1, (3, 4, 4)), draw(2, (16, 7))
    as_map = tokens.transpose(1, 2).reshape(9, 7, 4, 4)
    same = build((3, 4, 4), (7, 4, 4))
    torch.testing.assert_close(value(method, ours, tokens), value(same, ours, as_map))


def test_the_size_of_the_teachers_features_is_no_matter():
    method, ours, theirs = build((3, 4, 4), (5, 4, 4)), draw(1, (3, 4, 4)), draw(2, (5, 4, 4))
    factors = torch.tensor([1e-3, 1.0, 30.0, 1e4, 5.0]).view(1, 5, 1, 1)
    scaled = value(method, ours, factors * (theirs - 7))
    torch.testing.assert_close(scaled, value(method, ours, theirs), rtol=1e-3, atol=0)


def test_a_constant_channel_asks_for_nothing():
    theirs = draw(2, (3, 2, 2))
    theirs[:, 1] = 0.1
    theirs[:, 2] = 0
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        found = standardize_channels(theirs.to(kind))
        assert found.dtype == torch.float32
        assert float(found[:, 1:].abs().max()) == 0
        assert float(found[:, 0].square().mean()) == pytest.approx(1, rel=1e-4)
    noisy = 1 + 1e-4 * draw(4, (1, 4, 4), count=64)  # around a step of bfloat16
    for seed in range(20):
        shifted = (noisy + 0.0039 + 1e-4 * seed).bfloat16()
        assert float(standardize_channels(shifted).abs().max()) == 0
    rare = torch.zeros(64, 1, 8, 8)
    rare[3, 0, 2, 2] = 1e-4  # seldom, but not never
    assert float(standardize_channels(rare).square().mean()) == pytest.approx(1, rel=1e-4)


def test_answers_that_are_no_numbers_stay_none():
    for bad in (float("nan"), float("inf")):
        theirs = draw(2, (3, 2, 2))
        theirs[4, 1, 0, 1] = bad
        assert not torch.isfinite(standardize_channels(theirs)[:, 1]).any()


def test_the_teachers_tap_may_be_another():
    info = PairInfo(5, 40, {"stage3": (3, 4, 4)}, {"a": (5, 4, 4)})
    method = methods.build("mimic", info, tap="stage3", teacher_tap="a")
    logits, ours, theirs = torch.zeros(9, 5), draw(1, (3, 4, 4)), draw(2, (5, 4, 4))
    given = Outputs(logits, {"stage3": ours}), Outputs(logits, {"a": theirs})
    found = method(*given, batch(batch_size=9), MIMIC)["mimic"]
    weight = method.projector[0].weight.detach().double().numpy()[:, :, 0, 0]
    expected = by_loops(ours.double().numpy(), theirs.double().numpy(), weight)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_student_and_the_projector_learn_and_nobody_else():
    method = build((3, 4, 4), (5, 4, 4))
    ours, theirs = draw(1, (3, 4, 4)).requires_grad_(), draw(2, (5, 4, 4)).requires_grad_()
    value(method, ours, theirs).backward()
    assert theirs.grad is None
    assert float(ours.grad.abs().sum()) > 0
    learned = dict(method.named_parameters())
    assert set(learned) == {"projector.0.weight", "projector.1.weight", "projector.1.bias"}
    assert all(p.grad is not None for p in learned.values())


def test_it_can_be_reached_and_then_is_zero():
    theirs = standardize_channels(draw(2, (5, 4, 4)))
    method = build((5, 4, 4), (5, 4, 4))
    with torch.no_grad():
        method.projector[0].weight.copy_(torch.eye(5).view(5, 5, 1, 1))
    assert float(value(method, theirs, 4 * theirs + 2).detach()) == pytest.approx(0, abs=1e-9)


def test_what_it_refuses():
    with pytest.raises(MethodError, match=r"the teacher's stage4 has the shape \[15, 8\]"):
        build((4, 8, 8), (15, 8))
    with pytest.raises(MethodError, match="batch of 7 images"):
        value(build((3, 4, 4), (5, 4, 4)), draw(1, (3, 4, 4), 7), draw(2, (5, 4, 4), 7))


def test_features_stand_beside_any_method():
    shapes = {"stage4": (3, 4, 4)}
    method = methods.build("dist+mimic", PairInfo(5, 40, shapes, {"stage4": (5, 4, 4)}))
    assert method.weights == {"ce": 1, "inter": 2, "intra": 2, "mimic": 20}
    assert np.isfinite(float(value(method.parts["mimic"], draw(1, (3, 4, 4)), draw(2, (5, 4, 4))).detach()))
