"""SRRL against numpy; its classifier is the teacher's and stays so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.types import Outputs, Step
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

BOTH = Step(progress=0.5, terms=("feature", "logit"))


def make(student=CNN, teacher=WIDE, **more):
    torch.manual_seed(0)
    return methods.build("srrl", info_of(student, teacher, **more)).double()


def positive(teacher):
    """A teacher whose embedding is a mean behind a ReLU."""
    return Outputs(teacher.logits, {**teacher.features, "embedding": teacher.features["embedding"].abs()})


def reference(method, student, teacher, *, rectified):
    card = info_of(CNN, WIDE).teacher_card
    weight = method.connector[0].weight.detach().numpy()[:, :, 0, 0]
    maps = np.einsum("bchw,oc->bohw", student.features["stage4"].numpy(), weight)
    maps = (maps - maps.mean((0, 2, 3), keepdims=True)) / np.sqrt(maps.var((0, 2, 3), keepdims=True) + 1e-5)
    vector = (np.maximum(maps, 0) if rectified else maps).mean((2, 3))
    logits = vector @ card["classifier.weight"].double().numpy().T + card["classifier.bias"].double().numpy()
    gaps = vector - teacher.features["embedding"].numpy(), logits - teacher.logits.numpy()
    return tuple(float((gap**2).mean()) for gap in gaps)


@pytest.mark.parametrize("rectified", [True, False])
def test_is_the_naive_one(rectified):
    """With a ReLU as long as the teacher's embedding is one's; without, once it was below 0."""
    method, student, teacher = make(), outputs_of(CNN, 1), outputs_of(WIDE, 2)
    teacher = positive(teacher) if rectified else teacher
    got = method(student, teacher, batch(), BOTH)
    found = got["feature"].item(), got["logit"].item()
    assert found == pytest.approx(reference(method, student, teacher, rectified=rectified), rel=1e-6)


def test_one_negative_embedding_is_remembered_in_training_only():
    method, student, teacher = make(), outputs_of(CNN, 1), outputs_of(WIDE, 2)
    method.eval()(student, teacher, batch(), BOTH)
    assert bool(method.is_rectified)
    method.train()(student, teacher, batch(), BOTH)
    method(student, positive(teacher), batch(), BOTH)
    assert not bool(method.is_rectified)
    assert "is_rectified" in method.state_dict()


def test_the_classifier_is_a_copy_that_nothing_trains():
    info = info_of(CNN, WIDE)
    method = methods.build("srrl", info)
    before = {k: v.clone() for k, v in info.teacher_card.items()}
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1)
    student, teacher = outputs_of(CNN, 1, dtype=torch.float32), outputs_of(WIDE, 2, dtype=torch.float32)
    for _ in range(3):
        optimizer.zero_grad()
        sum(method(student, teacher, batch(), BOTH).values()).backward()
        optimizer.step()
    assert torch.equal(method.head_weight, before["classifier.weight"])
    assert torch.equal(method.head_bias, before["classifier.bias"])
    method.head_weight.zero_()
    assert torch.equal(info.teacher_card["classifier.weight"], before["classifier.weight"])


def test_the_logit_term_reaches_the_student_through_the_classifier():
    method, teacher = make(), outputs_of(WIDE, 2)
    student = with_gradient(outputs_of(CNN, 1))
    method(student, teacher, batch(), dataclasses.replace(BOTH, terms=("logit",)))["logit"].backward()
    assert student.features["stage4"].grad.abs().sum() > 0
    assert method.connector[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    shapes = PAIRS[pair]
    method = make(*shapes)
    student = with_gradient(outputs_of(shapes[0], 1))
    sum(method(student, outputs_of(shapes[1], 2), batch(), BOTH).values()).backward()
    assert student.features["stage4"].grad.abs().sum() > 0


def test_teachers_without_a_fitting_classifier_are_refused():
    with pytest.raises(MethodError, match=r"no linear layer[\s\S]*vkd"):
        make(teacher_card=None)
    wrong = {"classifier.weight": torch.zeros(7, 20)}
    with pytest.raises(
        MethodError, match=r"shape \[7, 20\], its embedding 20 channels, for 5 classes[\s\S]*allowed: \[5,20\]"
    ):
        make(teacher_card=wrong)
    assert not make(teacher_card={"classifier.weight": torch.zeros(5, 20)}).head_bias.any()
