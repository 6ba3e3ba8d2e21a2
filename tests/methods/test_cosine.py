"""The method cosine against loops over its parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.losses.regression import cosine_error
from sapling.types import Outputs, Step
from tests.losses import naive
from tests.losses.test_hierarchical import draw, pooled
from tests.methods.hidden import CNN, PAIRS, WIDE, info_of, outputs_of, with_gradient
from tests.methods.toys import batch

STUDENT, TEACHER = outputs_of(CNN, 1), outputs_of(WIDE, 2)


def make(student=CNN, teacher=WIDE, **config):
    torch.manual_seed(0)
    return methods.build("cosine", info_of(student, teacher), **config).double()


def terms(method, student=STUDENT, teacher=TEACHER, *wanted):
    return method(student, teacher, batch(), Step(progress=0.5, terms=wanted or ("cosine", "mse", "assistant")))


def test_is_the_naive_one():
    method = make(temperature=2.0)
    maps = np.einsum("bchw,oc->bohw", STUDENT.features["stage4"], method.projector[0].weight.detach()[..., 0, 0])
    maps = (maps - maps.mean((0, 2, 3), keepdims=True)) / np.sqrt(maps.var((0, 2, 3), keepdims=True) + 1e-5)
    target = pooled(TEACHER.features["stage4"].numpy(), 2)
    gaps, squares = [], []
    for b in range(len(maps)):
        for i in range(2):
            for j in range(2):
                s, t = maps[b, :, i, j], target[b, :, i, j]
                gaps.append(1 - s @ t / math.sqrt(s @ s) / math.sqrt(t @ t))
                squares.append(((s - t) ** 2).mean())
    logits = method.assistant(STUDENT.features["embedding"]).tolist()
    found = terms(method)
    assert found["cosine"].item() == pytest.approx(np.mean(gaps))
    assert found["mse"].item() == pytest.approx(np.mean(squares))
    expected = naive.kl_rows(logits, TEACHER.logits.tolist(), 2.0).mean()
    assert found["assistant"].item() == pytest.approx(expected)
    assert method.weights == {"ce": 1, "cosine": 1, "mse": 1, "assistant": 1}


def test_the_cosine_knows_no_length_and_ends_at_2():
    student, teacher = draw(1, 3, 4, 2, 2), draw(2, 3, 4, 2, 2)
    torch.testing.assert_close(cosine_error(5 * student, teacher / 3), cosine_error(student, teacher))
    assert float(cosine_error(student, 2 * student)) == pytest.approx(0)
    assert float(cosine_error(student, -student)) == pytest.approx(2)
    with pytest.raises(MethodError, match=r"\[3, 4, 2, 2\]"):
        cosine_error(student, teacher[:, :3])


def test_the_assistant_spares_the_student_s_own_classifier():
    student = with_gradient(STUDENT)
    terms(make(), student, TEACHER, "assistant")["assistant"].backward()
    assert student.logits.grad is None
    assert student.features["embedding"].grad.abs().sum() > 0


@pytest.mark.parametrize("pair", PAIRS)
def test_any_two_networks(pair):
    shapes = PAIRS[pair]
    student = with_gradient(outputs_of(shapes[0], 1))
    sum(terms(make(*shapes), student, outputs_of(shapes[1], 2)).values()).backward()
    assert student.features["stage4"].grad.abs().sum() > 0


def test_tokens_of_no_square_are_refused_with_their_shape():
    with pytest.raises(MethodError, match=r"stage4 of shape \[31, 12\]"):
        make({**CNN, "stage4": (31, 12)})


def test_classes_of_another_number_are_refused():
    teacher = Outputs(torch.zeros(6, 9, dtype=torch.float64), TEACHER.features)
    with pytest.raises(MethodError, match=r"\[6, 9\]"):
        terms(make(), STUDENT, teacher, "assistant")
