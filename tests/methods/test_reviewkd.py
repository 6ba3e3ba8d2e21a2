"""ReviewKD against a second writing of it in numpy, and on pairs of networks that have nothing in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.types import Outputs, Step
from tests.losses.test_hierarchical import naive
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of
from tests.methods.toys import batch

LATE = Step(progress=0.9, terms=("review",))


def make(student=CNN, teacher=WIDE, **config):
    torch.manual_seed(0)
    return methods.build("reviewkd", info_of(student, teacher), **config).double()


def norm(x):
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5)


def conv3x3(x, weight):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = x.shape[2:]
    return sum(
        np.einsum("bchw,oc->bohw", padded[:, :, i : i + h, j : j + w], weight[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )


def repeated(x, h, w):
    rows, columns = [i * x.shape[2] // h for i in range(h)], [j * x.shape[3] // w for j in range(w)]
    return x[:, :, rows][:, :, :, columns]


def as_map(feature):
    return feature.numpy() if feature.dim() == 4 else feature.numpy()[:, :, None, None]


def review(method, student, teacher):
    """The sum over levels, deepest first; only for maps that grow or stay."""
    total, carried = 0.0, None
    names = [("embedding", "embedding"), *((f"stage{i}", f"stage{i}.pre") for i in (4, 3, 2))]
    for level, (own, theirs) in zip(method.levels, names, strict=True):
        parts = {k: v.detach().numpy() for k, v in level.state_dict().items()}
        x = norm(np.einsum("bchw,oc->bohw", as_map(student.features[own]), parts["enter.0.weight"][:, :, 0, 0]))
        if carried is not None:
            deeper = repeated(carried, *x.shape[2:])
            both = np.concatenate([x, deeper], axis=1)
            scores = np.einsum("bchw,oc->bohw", both, parts["attention.weight"][:, :, 0, 0])
            share = 1 / (1 + np.exp(-scores - parts["attention.bias"][:, None, None]))
            x = x * share[:, [0]] + deeper * share[:, [1]]
        target = as_map(teacher.features[theirs])
        answer = norm(conv3x3(repeated(x, *target.shape[2:]), parts["leave.0.weight"]))
        total, carried = total + naive(answer, target), x
    return total


def test_is_the_naive_one():
    method, student, teacher = make(), outputs_of(CNN, 1), outputs_of(WIDE, 2)
    got = method(student, teacher, batch(batch_size=6), LATE)["review"]
    assert float(got.detach()) == pytest.approx(review(method, student, teacher), rel=1e-9)


def test_review_warms_up():
    method, student, teacher = make(), outputs_of(CNN, 1), outputs_of(WIDE, 2)

    def at(progress):
        return float(method(student, teacher, batch(), Step(progress=progress, terms=("review",)))["review"].detach())

    assert [at(0), at(1 / 24) / at(0.9), at(1 / 12) / at(0.9)] == pytest.approx([0, 0.5, 1])
    assert make(warmup_share=0)(student, teacher, batch(), Step(terms=("review",)))["review"] > 0


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    student_shapes, teacher_shapes = PAIRS[pair]
    method = make(student_shapes, teacher_shapes)
    student, teacher = outputs_of(student_shapes, 1), outputs_of(teacher_shapes, 2)
    for name in ("stage2", "stage3", "stage4", "embedding"):
        student.features[name].requires_grad_()
    method(student, teacher, batch(), LATE)["review"].backward()
    assert all(student.features[t].grad.abs().sum() > 0 for t in ("stage2", "stage3", "stage4", "embedding"))
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())


def test_shallow_answers_hear_deep_maps_and_not_the_other_way_round():
    """Only the deepest level may do without attention, and what is deep must reach the shallow."""
    method, teacher = make().eval(), outputs_of(WIDE, 2)
    student = outputs_of(CNN, 1)

    def answers(features):
        kept = []
        hooks = [x.leave.register_forward_hook(lambda _, __, y: kept.append(y.detach())) for x in method.levels]
        method(Outputs(student.logits, features), teacher, batch(), LATE)
        for hook in hooks:
            hook.remove()
        return kept

    usual = answers(student.features)
    deep = answers({**student.features, "embedding": student.features["embedding"] + 1})
    shallow = answers({**student.features, "stage2": student.features["stage2"] + 1})
    assert [torch.equal(a, b) for a, b in zip(usual, deep, strict=True)] == [False] * 4
    assert [torch.equal(a, b) for a, b in zip(usual, shallow, strict=True)] == [True, True, True, False]


def test_taps_are_the_maps_behind_and_before_the_activation():
    taps = methods.taps("reviewkd", stages=["stage1", "stage4"], embedding=False)
    assert (taps.student, taps.teacher) == (("stage1", "stage4"), ("stage1.pre", "stage4.pre"))
    assert methods.taps("reviewkd").teacher == ("stage2.pre", "stage3.pre", "stage4.pre", "embedding")


def test_carried_width_is_that_of_the_deepest_map_and_512_at_most():
    assert make().levels[0].enter[0].out_channels == 10
    assert make({**CNN, "embedding": (600,)}).levels[2].enter[0].out_channels == 512
    assert make(max_channels=3).levels[3].leave[0].in_channels == 3


def test_wrong_settings_and_shapes():
    with pytest.raises(ConfigError, match="stages: has 0 values; allowed: 1 or more"):
        make(stages=[])
    with pytest.raises(MethodError, match=r"cannot place teacher's stage3.pre of shape \[15, 12\]"):
        make(teacher={**WIDE, "stage3": (15, 12)})
