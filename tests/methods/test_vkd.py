"""VkD: the projector only turns, whatever the optimiser does to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.types import Outputs, Step
from tests.losses.test_hierarchical import draw
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

ONLY = Step(progress=0.5, terms=("vkd",))
WIDTHS = {"wider teacher": (10, 20), "wider student": (20, 10), "same": (12, 12)}


def make(d_s=10, d_t=20, seed=0, **config):
    torch.manual_seed(seed)
    return methods.build("vkd", info_of({**CNN, "embedding": (d_s,)}, {**WIDE, "embedding": (d_t,)}), **config)


def pair_of(d_s, d_t):
    embeddings = [draw(i, 6, d).float() for i, d in ((1, d_s), (2, d_t))]
    return [Outputs(torch.zeros(6, 5), {"embedding": e}) for e in embeddings]


def distance_to_orthonormal(matrix):
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return float((tall.T @ tall - torch.eye(tall.shape[1])).abs().max().detach())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_projector_stays_orthonormal(widths, optimizer):
    """With weight decay, under which torch's own parametrisation becomes 0 in one step."""
    method, (student, teacher) = make(*widths), pair_of(*widths)
    before = method.projector.weight.detach().clone()
    assert distance_to_orthonormal(before) < 1e-5
    settings = {"weight_decay": 0.1} if optimizer == "adamw" else {"momentum": 0.9, "weight_decay": 5e-4}
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    steps = kind(method.parameters(), lr=0.05, **settings)
    losses = []
    for _ in range(100):
        steps.zero_grad()
        loss = method(student, teacher, batch(), ONLY)["vkd"]
        loss.backward()
        steps.step()
        losses.append(loss.item())
    after = method.projector.weight
    assert distance_to_orthonormal(after) < 1e-5
    assert (after - before).abs().max() > 0.05
    assert losses[-1] < losses[0]


def test_distances_between_students_are_kept():
    method, (student, _) = make(10, 20), pair_of(10, 20)
    e = student.features["embedding"]
    torch.testing.assert_close(torch.cdist(method.projector(e), method.projector(e)), torch.cdist(e, e))


def test_an_orthonormal_matrix_can_be_given():
    matrix = torch.linalg.qr(torch.randn(20, 10)).Q
    method = make(10, 20)
    method.projector.weight = matrix
    torch.testing.assert_close(method.projector.weight, matrix)


def test_weight_decay_alone_turns_nothing():
    method = make(10, 20)
    before = method.projector.weight.detach().clone()
    free = method.projector.parametrizations.weight.original
    with torch.no_grad():
        free.mul_(0.01)
    torch.testing.assert_close(method.projector.weight, before)


def test_is_the_naive_one():
    method, (student, teacher) = make(10, 20), pair_of(10, 20)
    weight = method.projector.weight.detach().double().numpy()
    found = []
    for s, t in zip(student.features["embedding"].numpy(), teacher.features["embedding"].numpy(), strict=True):
        target = (t - t.mean()) / np.sqrt(t.var() + 1e-5)
        for i in range(20):
            gap = abs(sum(weight[i, j] * s[j] for j in range(10)) - target[i])
            found.append(0.5 * gap**2 if gap < 1 else gap - 0.5)
    assert float(method(student, teacher, batch(), ONLY)["vkd"].detach()) == pytest.approx(np.mean(found), rel=1e-5)


@pytest.mark.parametrize("tap", ["embedding", "stage4"])
@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair, tap):
    shapes = PAIRS[pair]
    method = methods.build("vkd", info_of(*shapes), student_tap=tap, teacher_tap=tap).double()
    student = with_gradient(outputs_of(shapes[0], 1))
    method(student, outputs_of(shapes[1], 2), batch(), ONLY)["vkd"].backward()
    assert student.features[tap].grad.abs().sum() > 0


def test_tokens_count_by_their_mean():
    shapes = PAIRS["vit"]
    method = methods.build("vkd", info_of(*shapes), student_tap="stage4").double()
    student, teacher = outputs_of(shapes[0], 1), outputs_of(shapes[1], 2)
    usual = method(student, teacher, batch(), ONLY)["vkd"]
    student.features["stage4"].copy_(student.features["stage4"].mean(1, keepdim=True).expand(-1, 16, -1))
    torch.testing.assert_close(method(student, teacher, batch(), ONLY)["vkd"], usual)
