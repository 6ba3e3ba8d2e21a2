"""The hint: its regressor for every pair of shapes, and its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sapling import methods
from sapling.errors import MethodError
from sapling.types import Outputs, PairInfo, Step
from tests.methods.toys import batch

HINT = Step(terms=("hint",))


def build(student, teacher, **config):
    torch.manual_seed(0)
    return methods.build("fitnet", PairInfo(5, 40, {"stage3": student}, {"stage3": teacher}), **config)


def draw(seed, shape, count=6):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def value(method, student, teacher):
    logits = torch.zeros(len(student), 5)
    given = Outputs(logits, {"stage3": student}), Outputs(logits, {"stage3": teacher})
    return method(*given, batch(batch_size=len(student)), HINT)["hint"]


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel"),
    [
        ((4, 8, 8), (7, 8, 8), nn.Conv2d, 1),
        ((4, 8, 8), (7, 4, 4), nn.Conv2d, 3),
        ((4, 4, 4), (7, 8, 8), nn.ConvTranspose2d, 4),
        ((4, 56, 56), (7, 7, 7), nn.Conv2d, 1),  # pooled
        ((4, 5, 5), (7, 8, 8), nn.Conv2d, 1),  # the teacher's is pooled
        ((16, 4), (7, 8, 8), nn.ConvTranspose2d, 4),  # a vision transformer's 4 x 4 tokens
        ((4, 3, 3), (9, 7), nn.Conv2d, 1),
        ((16, 4), (16, 9), nn.Conv2d, 1),
        ((8,), (16,), nn.Conv2d, 1),
        ((4, 3, 3), (16,), nn.Conv2d, 1),
        ((4, 8, 7), (6, 8, 8), nn.Conv2d, 1),
    ],
)
def test_the_regressor_fits_every_pair(student, teacher, kind, kernel):
    method = build(student, teacher)
    first = method.regressor[0]
    assert (type(first), first.kernel_size) == (kind, (kernel, kernel))
    assert torch.isfinite(value(method, draw(1, student), draw(2, teacher)))


def test_a_feature_that_is_no_map_is_refused_by_tap_and_shape():
    with pytest.raises(MethodError, match=r"the teacher's stage3 has the shape \[15, 8\][\s\S]*tap another place"):
        build((4, 8, 8), (15, 8))


def test_hint_is_the_naive_one():
    """1x1 convolution, batch norm over images and pixels, mean squared error."""
    method = build((3, 4, 4), (2, 4, 4))
    student, teacher = draw(1, (3, 4, 4)).double().numpy(), draw(2, (2, 4, 4)).double().numpy()
    weight = method.regressor[0].weight.detach().double().numpy()[:, :, 0, 0]
    mapped = np.zeros_like(teacher)
    for b, c, i, j in np.ndindex(teacher.shape):
        mapped[b, c, i, j] = sum(weight[c, k] * student[b, k, i, j] for k in range(3))
    total = 0.0
    for c in range(2):
        of_channel = mapped[:, c]
        spread = np.sqrt(((of_channel - of_channel.mean()) ** 2).mean() + 1e-5)
        total += (((of_channel - of_channel.mean()) / spread - teacher[:, c]) ** 2).sum()
    got = value(method, draw(1, (3, 4, 4)), draw(2, (2, 4, 4)))
    assert float(got.detach()) == pytest.approx(total / teacher.size, rel=1e-5)


def test_linear_by_default_so_that_negative_values_can_be_reached():
    """Trained on its own, the regressor learns a teacher that is a linear map of the student."""
    student = draw(1, (3, 4, 4), 32)
    teacher = torch.einsum("oc,bchw->bohw", draw(3, (3,), 2), student)
    method = build((3, 4, 4), (2, 4, 4))
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = value(method, student, teacher)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01 * float(teacher.square().mean())
    with_relu = build((3, 4, 4), (2, 4, 4), relu=True)
    assert isinstance(with_relu.regressor[-1], nn.ReLU)
    assert float(with_relu.regressor(student).detach().min()) == 0


def test_taps_of_two_names():
    info = PairInfo(5, 40, {"blocks.1": (3, 4, 4)}, {"layer2": (2, 4, 4)})
    method = methods.build("fitnet", info, tap="blocks.1", teacher_tap="layer2")
    student = Outputs(torch.zeros(6, 5), {"blocks.1": draw(1, (3, 4, 4))})
    teacher = Outputs(torch.zeros(6, 5), {"layer2": draw(2, (2, 4, 4))})
    assert torch.isfinite(method(student, teacher, batch(batch_size=6), HINT)["hint"])
    assert method.weights == {"ce": 1, "hint": 100}
