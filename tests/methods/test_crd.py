"""CRD (negatives from the batch) against the naive loss."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.types import Step
from tests.losses.test_contrastive import naive
from tests.methods.hidden import CNN, PAIRS, WIDE, K, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

ONLY = Step(progress=0.5, terms=("crd",))


def make(student=CNN, teacher=WIDE, **config):
    torch.manual_seed(0)
    return methods.build("crd", info_of(student, teacher), **config).double()


def test_is_the_naive_one():
    method, student, teacher = make(temperature=0.3, num_dimensions=7), outputs_of(CNN, 1, 16), outputs_of(WIDE, 2, 16)
    own = method.student_projector(student.features["embedding"]).detach()
    theirs = method.teacher_projector(teacher.features["embedding"]).detach()
    got = method(student, teacher, batch(), ONLY)["crd"].item()
    assert own.shape == (16, 7)
    assert got == pytest.approx(naive(own, theirs, batch().labels.tolist(), 0.3))
    assert got != pytest.approx(naive(own, theirs, None, 0.3))


def test_training_finds_the_pairs():
    """Both projectors learn: from random embeddings to knowing which is whose."""
    method, student, teacher = make(), outputs_of(CNN, 1, 16), outputs_of(WIDE, 2, 16)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = method(student, teacher, batch(), ONLY)["crd"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    shapes = PAIRS[pair]
    student = with_gradient(outputs_of(shapes[0], 1, 16))
    make(*shapes)(student, outputs_of(shapes[1], 2, 16), batch(), ONLY)["crd"].backward()
    assert student.features["embedding"].grad.abs().sum() > 0


def test_mixed_images_and_small_batches_are_refused():
    method = make()
    mixed = dataclasses.replace(batch(), targets=torch.full((16, K), 0.2))
    with pytest.raises(MethodError, match="were mixed"):
        method(outputs_of(CNN, 1, 16), outputs_of(WIDE, 2, 16), mixed, ONLY)
    with pytest.raises(MethodError, match="a batch of 6 images"):
        method(outputs_of(CNN, 1, 6), outputs_of(WIDE, 2, 6), batch(batch_size=6), ONLY)
