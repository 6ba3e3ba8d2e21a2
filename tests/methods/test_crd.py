"""CRD against the naive losses: negatives from the batch, and from memory banks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.types import Step
from tests.contract import test_methods as contract
from tests.losses.test_contrastive import naive
from tests.methods.hidden import CNN, PAIRS, WIDE, K, info_of, outputs_of, with_gradient
from tests.methods.toys import N, batch, pair_info

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


LABELS = torch.arange(N) % K
SMALL, LARGE = {"embedding": (8,)}, {"embedding": (16,)}


def with_banks(**config):
    torch.manual_seed(0)
    info = dataclasses.replace(pair_info(), train_labels=LABELS)
    return methods.build("crd", info, negatives="memory", num_dimensions=7, **config)


def unit(rows):
    return np.stack([row / math.sqrt(sum(x * x for x in row)) for row in rows])


def naive_banks(sides, rows, drawn, partitions, temperature):
    """Loss and the partitions that this batch alone would give; ``sides``: vectors of a network, bank of the other."""
    total, found, k = 0.0, [], drawn.shape[1]
    for number, (vectors, bank) in enumerate(sides):
        powers = [
            [math.exp(float(np.dot(v, bank[j])) / temperature) for j in (row, *others)]
            for v, row, others in zip(vectors, rows, drawn.tolist(), strict=True)
        ]
        found.append(N * sum(map(sum, powers)) / (len(rows) * (k + 1)))
        z = partitions[number] if partitions else found[number]
        for own, *others in powers:
            total -= math.log(own / z / (own / z + k / N)) / len(rows)
            total -= sum(math.log(k / N / (p / z + k / N)) for p in others) / len(rows)
    return total, found


def test_banks_are_the_naive_ones():
    method = with_banks(temperature=0.5, num_negatives=9, momentum=0.3).double()
    partitions = None
    for step in range(3):
        student, teacher = outputs_of(SMALL, step, 16), outputs_of(LARGE, 9 + step, 16)
        given = batch(step)
        own, theirs = (
            unit(projector(side.features["embedding"]).detach().numpy())
            for projector, side in ((method.student_projector, student), (method.teacher_projector, teacher))
        )
        banks = [method.banks.student.numpy().copy(), method.banks.teacher.numpy().copy()]
        torch.manual_seed(step)
        drawn = method.banks.draw(given.labels)
        torch.manual_seed(step)
        got = method(student, teacher, given, ONLY)["crd"].item()
        sides = ((own, banks[1]), (theirs, banks[0]))
        expected, found = naive_banks(sides, given.indices.tolist(), drawn, partitions, 0.5)
        partitions = partitions or found  # those of the first batch stay
        assert got == pytest.approx(expected)
        np.testing.assert_allclose(method.banks.log_partitions.exp().numpy(), partitions)
        for bank, vectors, after in zip(
            banks, (own, theirs), (method.banks.student, method.banks.teacher), strict=True
        ):
            bank[given.indices] = unit(0.3 * bank[given.indices] + 0.7 * vectors)
            np.testing.assert_allclose(after.numpy(), bank)


def test_draws_are_of_other_classes_and_come_again():
    banks = with_banks(num_negatives=4096).banks
    labels = torch.arange(K).repeat(8)
    torch.manual_seed(5)
    drawn = banks.draw(labels)
    assert drawn.shape == (40, N - 1)  # never more than there are other images
    assert not (LABELS[drawn] == labels[:, None]).any()
    counts = torch.bincount(drawn[labels == 2].flatten(), minlength=N)
    assert (counts[LABELS != 2] > 0).all()  # 312 draws of 32 images: each is there
    torch.manual_seed(5)
    assert torch.equal(banks.draw(labels), drawn)
    torch.manual_seed(6)
    assert not torch.equal(banks.draw(labels), drawn)


@pytest.mark.parametrize(
    "test",
    [
        contract.test_no_gradient_reaches_the_teacher,
        contract.test_every_term_of_the_student_gives_it_a_gradient,
        contract.test_own_parameters_get_a_gradient_in_some_phase,
        contract.test_a_cached_teacher_says_the_same,
        contract.test_inputs_are_left_alone,
    ],
)
def test_banks_keep_the_contract(test):
    test(with_banks())


def test_banks_come_back_and_gradients_are_right():
    first, second = with_banks().double(), with_banks().double()
    student, teacher = outputs_of(SMALL, 1, 16), outputs_of(LARGE, 2, 16)
    first(student, teacher, batch(), ONLY)
    second.load_state_dict(first.state_dict())
    losses = []
    for method in (first, second):
        torch.manual_seed(3)
        losses.append(method(student, teacher, batch(), ONLY)["crd"])
    assert torch.equal(*losses)
    assert torch.equal(first.banks.teacher, second.banks.teacher)
    first.eval()  # banks and partitions stand still

    def value(embedding):
        torch.manual_seed(3)
        return first(dataclasses.replace(student, features={"embedding": embedding}), teacher, batch(), ONLY)["crd"]

    assert torch.autograd.gradcheck(value, student.features["embedding"].clone().requires_grad_(), fast_mode=True)


def test_banks_ask_for_numbers_of_images_and_are_bounded():
    assert methods.requires("crd", negatives="memory").indices
    assert not methods.requires("crd").indices
    many = dataclasses.replace(pair_info(), num_samples=2**21, train_labels=torch.arange(2**21) % K)
    with pytest.raises(MethodError, match=r"2\.0 GiB about the training images"):
        methods.build("crd", many, negatives="memory")
    for labels in (None, torch.zeros(N, dtype=torch.int64)):
        with pytest.raises(MethodError, match="two classes or more"):
            methods.build("crd", dataclasses.replace(pair_info(), train_labels=labels), negatives="memory")
