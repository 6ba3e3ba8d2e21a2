"""Exits that the student's own end teaches, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.types import Outputs, Phase, Step
from tests.losses import naive
from tests.methods.hidden import CNN, VIT, WIDE, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

STUDENT = outputs_of(CNN, 1)
BATCH = batch(batch_size=6)
STEP = Step(progress=0.5, terms=("exits", "kd", "feature"))


def make(student=CNN, **config):
    torch.manual_seed(0)
    return methods.build("byot", info_of(student, WIDE), **config).double()


def replaced(given, targets):
    return type(given)(given.images, None, given.indices, given.views, targets)


def normalised(maps):
    return (maps - maps.mean((0, 2, 3), keepdims=True)) / np.sqrt(maps.var((0, 2, 3), keepdims=True) + 1e-5)


def left(leave, maps):
    """An exit in loops: a 3x3 filter for each channel at every other pixel, then a matrix, then the mean."""
    filters = leave[0].weight.detach().numpy()[:, 0]
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size = -(-maps.shape[2] // 2)
    out = np.zeros((*maps.shape[:2], size, size))
    for c in range(maps.shape[1]):
        for i in range(size):
            for j in range(size):
                cell = padded[:, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                out[:, c, i, j] = (cell * filters[c]).sum((1, 2))
    out = np.einsum("bchw,oc->bohw", np.maximum(normalised(out), 0), leave[3].weight.detach().numpy()[..., 0, 0])
    return normalised(out).mean((2, 3))


def test_is_the_naive_one():
    method = make()
    expected = dict.fromkeys(STEP.terms, 0.0)
    for number, stage in enumerate(("stage2", "stage3")):
        hidden = left(method.exits[number], STUDENT.features[stage].numpy())
        classify = method.classifiers[number]
        logits = (hidden @ classify.weight.detach().numpy().T + classify.bias.detach().numpy()).tolist()
        chances = [naive.softmax(z, 1) for z in logits]
        expected["exits"] -= np.mean([np.log(p[y]) for p, y in zip(chances, BATCH.labels.tolist(), strict=True)])
        expected["kd"] += naive.kl_rows(logits, STUDENT.logits.tolist(), 3.0).mean()
        gaps = hidden - STUDENT.features["embedding"].numpy()
        expected["feature"] += np.mean([sum(x * x for x in row) for row in gaps])
    found = {k: v.item() for k, v in method(STUDENT, None, BATCH, STEP).items()}
    assert found == pytest.approx(expected)
    assert method.weights == {"ce": 1, "exits": 0.9, "kd": 0.1, "feature": 1.28e-4}


def test_gradients_are_right():
    """The end teaches and does not learn from its exits; earlier layers do."""
    method, student = make(), with_gradient(STUDENT)
    sum(method(student, None, BATCH, STEP).values()).backward()
    assert student.logits.grad is None
    assert student.features["embedding"].grad is None
    for term in STEP.terms:

        def value(second, third, term=term):
            given = Outputs(STUDENT.logits, {**STUDENT.features, "stage2": second, "stage3": third})
            return method(given, None, BATCH, Step(terms=(term,)))[term]

        inputs = tuple(STUDENT.features[s].clone().requires_grad_() for s in ("stage2", "stage3"))
        assert torch.autograd.gradcheck(value, inputs, fast_mode=True), term


def test_the_plain_student_ships():
    student = torch.nn.Linear(2, 2)
    assert make().deployable(student) is student
    assert methods.taps("byot").teacher == ()
    assert not methods.requires("byot").teacher


def test_exits_behind_tokens_and_single_pixels():
    for shapes in (VIT, {**CNN, "stage3": (8, 1, 1)}):
        student = with_gradient(outputs_of(shapes, 1))
        method = make(shapes)
        assert method.active_terms(Phase()) == method.terms
        sum(method(student, None, BATCH, STEP).values()).backward()
        assert all(student.features[s].grad.abs().sum() > 0 for s in ("stage2", "stage3"))
    with pytest.raises(MethodError, match=r"student's stage3 of shape \[31, 12\]"):
        make({**CNN, "stage3": (31, 12)})


def test_mixed_images_have_targets():
    """Exits learn the same labels as the end, mixed ones too."""
    targets = torch.full((6, 5), 0.2, dtype=torch.float64)
    mixed = type(BATCH)(BATCH.images, BATCH.labels, BATCH.indices, BATCH.views, targets)
    method = make()
    plain = method(STUDENT, None, BATCH, Step(terms=("exits",)))["exits"]
    assert not torch.isclose(method(STUDENT, None, mixed, Step(terms=("exits",)))["exits"], plain)


def test_no_term_reads_class_numbers():
    """So mixed images will do, as for the methods on answers."""
    assert not methods.requires("byot").labels
    targets = torch.nn.functional.one_hot(BATCH.labels, 5).double()
    soft = type(BATCH)(BATCH.images, None, BATCH.indices, BATCH.views, targets)
    hard, found = (make()(STUDENT, None, given, Step()) for given in (BATCH, soft))
    assert found.keys() == hard.keys() == {"ce", *STEP.terms}
    for term, value in hard.items():
        torch.testing.assert_close(found[term], value)
    mixed = type(BATCH)(BATCH.images, None, BATCH.indices, BATCH.views, (targets + targets.flip(0)) / 2)
    only = Step(terms=("exits",))
    torch.testing.assert_close(
        make()(STUDENT, None, mixed, only)["exits"],
        sum(make()(STUDENT, None, given, only)["exits"] / 2 for given in (soft, replaced(soft, targets.flip(0)))),
    )
