"""MLKD against loops: masks that choose images and classes, and those of the authors' code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.losses.correlation import class_similarity, image_similarity
from sapling.types import Outputs, PairInfo, Step
from tests.losses.test_hierarchical import draw
from tests.methods.hidden import K
from tests.methods.toys import batch

B = 8
ALL = Step(progress=0.5, terms=("kd", "cc", "bc"))


def make(**config):
    return methods.build("mlkd", PairInfo(K, 20), **config)


def softmax(row, t):
    top = [math.exp((z - max(row)) / t) for z in row]
    return [x / sum(top) for x in top]


def naive(student, teacher, temperatures, *, reference):
    sure = [softmax(z, 1) for z in teacher]
    best = [max(p) for p in sure]
    mass = [sum(p[k] for p in sure) for k in range(K)]
    images = [float(x <= np.percentile(best, 50)) for x in best]
    classes = [float(x <= np.percentile(mass, 50)) for x in mass]
    if reference:
        images, classes = [sum(images) / B] * B, [sum(classes) / K] * K
    kd = cc = bc = 0.0
    for t in temperatures:
        q, p = [softmax(z, t) for z in student], [softmax(z, t) for z in teacher]
        for i in range(B):
            divergence = sum(p[i][k] * math.log(p[i][k] / q[i][k]) for k in range(K))
            kd += (1 + images[i]) * t * t * divergence / B
            for j in range(B):
                gap = sum(q[i][k] * q[j][k] - p[i][k] * p[j][k] for k in range(K))
                bc += images[j] * gap**2 / B
        for j in range(K):
            for k in range(K):
                gap = sum(q[i][j] * q[i][k] - p[i][j] * p[i][k] for i in range(B))
                cc += classes[k] * gap**2 / K
    return kd, cc, bc


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("temperatures", [(4.0,), (2.0, 3.0, 4.0, 5.0, 6.0)])
def test_is_the_naive_one(reference, temperatures):
    student, teacher = 2 * draw(1, B, K), 3 * draw(2, B, K)
    method = make(reference=reference, temperatures=temperatures)
    got = method(Outputs(student), Outputs(teacher), batch(batch_size=B), ALL)
    expected = naive(student.tolist(), teacher.tolist(), temperatures, reference=reference)
    assert [float(got[t]) for t in ("kd", "cc", "bc")] == pytest.approx(expected, rel=1e-9)


def test_weights_are_the_authors():
    """0.1 of the cross-entropy of each of two views, 0.9 of all else."""
    assert make().weights == pytest.approx({"ce": 0.2, "kd": 0.9, "cc": 0.9, "bc": 0.9})


def test_an_unsure_image_counts_twice_and_a_sure_one_once():
    sureness = torch.tensor([9.0, 8.0, 7.0, 6.0, 2.0, 1.5, 1.0, 0.5], dtype=torch.float64)
    teacher = torch.eye(K, dtype=torch.float64)[torch.arange(B) % K] * sureness[:, None]
    losses = []
    for moved in (0, 4):  # one of which the teacher is sure, one of which it is not
        student = teacher.clone()
        student[moved] = student[moved].flip(0) + torch.arange(K)
        step = Step(progress=0.5, terms=("kd",))
        ours, theirs = (
            make(reference=reference, temperatures=[4.0])(Outputs(student), Outputs(teacher), batch(), step)["kd"]
            for reference in (False, True)
        )
        losses.append(float(ours / theirs))
    assert losses[0] < 1 < losses[1]


def test_equal_answers_and_permuted_batches():
    student, teacher = draw(1, B, K), draw(2, B, K)
    same = make()(Outputs(teacher), Outputs(teacher), batch(), ALL)
    assert all(abs(float(v)) < 1e-12 for v in same.values())
    order = torch.randperm(B)
    usual = make()(Outputs(student), Outputs(teacher), batch(), ALL)
    moved = make()(Outputs(student[order]), Outputs(teacher[order]), batch(), ALL)
    for term in ALL.terms:
        torch.testing.assert_close(moved[term], usual[term])


def test_likeness_of_images_and_of_classes_are_each_others_on_transposed_probabilities():
    student, teacher = draw(1, K, K), draw(2, K, K)
    assert class_similarity(student, teacher) != image_similarity(student, teacher)
    weight = torch.ones(K, dtype=torch.float64)
    torch.testing.assert_close(class_similarity(student, teacher, 2.0, weight), class_similarity(student, teacher, 2.0))
    assert image_similarity(student, teacher, 2.0, 0 * weight) == 0
