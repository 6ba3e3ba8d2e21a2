"""KD++: the loss on norm and direction against loops, and the class means that it remembers."""

from __future__ import annotations

import pytest
import torch

from sapling import methods
from sapling.losses.divergence import kl_divergence
from sapling.losses.embeddings import norm_and_direction
from sapling.types import Batch, Outputs, PairInfo, Step
from tests.losses.test_hierarchical import draw
from tests.methods.hidden import K

ONLY = Step(progress=0.5, terms=("nd",))


def make(own=6, theirs=6, **config):
    torch.manual_seed(0)
    shapes = {"embedding": (own,)}, {"embedding": (theirs,)}
    return methods.build("kdpp", PairInfo(K, 20, *shapes), **config).double()


def batch_of(labels):
    numbers = torch.arange(len(labels))
    return Batch(torch.zeros(len(labels), 3, 2, 2), torch.tensor(labels), numbers, numbers)


def of(embeddings, seed=9):
    return Outputs(draw(seed, len(embeddings), K), {"embedding": embeddings})


def naive(student, teacher, centres):
    total = 0.0
    for s, t, c in zip(student.tolist(), teacher.tolist(), centres.tolist(), strict=True):
        longest = max(sum(x * x for x in s) ** 0.5, sum(x * x for x in t) ** 0.5)
        along = sum(x * y for x, y in zip(s, c, strict=True)) / sum(x * x for x in c) ** 0.5
        total += (1 - along / longest) / len(student)
    return total


def test_loss_is_the_naive_one():
    student, teacher, centres = draw(1, 8, 6) * torch.linspace(0.2, 3, 8)[:, None], draw(2, 8, 6), draw(3, 8, 6)
    assert float(norm_and_direction(student, teacher, centres)) == pytest.approx(naive(student, teacher, centres))
    assert torch.autograd.gradcheck(lambda s: norm_and_direction(s, teacher, centres), (student.requires_grad_(),))


def test_a_short_student_is_asked_to_grow_and_a_long_one_only_to_turn():
    centres = draw(3, 4, 6)
    short = norm_and_direction(0.5 * centres, centres, centres)
    assert float(short) == pytest.approx(0.5)
    assert float(norm_and_direction(3 * centres, centres, centres)) == pytest.approx(0, abs=1e-12)
    assert float(norm_and_direction(-centres, centres, centres)) == pytest.approx(2)
    zero = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    norm_and_direction(zero, 0 * centres, centres).backward()
    assert torch.isfinite(zero.grad).all()


def test_class_means_are_those_of_all_batches_so_far():
    method, labels = make(), ([0, 1, 1, 4], [1, 0, 0, 2])
    teachers, students = [draw(i, 4, 6) for i in (1, 2)], [draw(i, 4, 6) for i in (3, 4)]
    seen = {}
    for theirs, own, numbers in zip(teachers, students, labels, strict=True):
        for vector, number in zip(theirs, numbers, strict=True):
            seen.setdefault(number, []).append(vector)
        centres = torch.stack([torch.stack(seen[number]).mean(0) for number in numbers])
        got = method(of(own), of(theirs), batch_of(numbers), ONLY)["nd"]
        assert float(got) == pytest.approx(naive(own, theirs, centres))
    kept = method.sums.clone()
    method.eval()(of(own), of(theirs), batch_of(labels[0]), ONLY)
    assert torch.equal(method.sums, kept)
    assert method.counts.tolist() == [3, 3, 1, 0, 1]


def test_kd_warms_up_and_has_t_squared():
    method, student, teacher = make(temperature=3), of(draw(1, 4, 6)), of(draw(2, 4, 6), seed=8)

    def at(progress):
        return float(method(student, teacher, batch_of([0, 1, 2, 3]), Step(progress=progress, terms=("kd",)))["kd"])

    expected = float(kl_divergence(student.logits, teacher.logits, 3.0))
    assert [at(0), at(1 / 24), at(0.5)] == pytest.approx([0, expected / 2, expected])


@pytest.mark.parametrize("progress", [0, 1 / 24, 0.5])
def test_norm_and_direction_count_from_the_first_step(progress):
    """The warm-up is that of the answers alone."""
    own, theirs, numbers = draw(1, 4, 6), draw(2, 4, 6), [0, 1, 1, 4]
    centres = torch.stack([theirs[[k for k in range(4) if numbers[k] == n]].mean(0) for n in numbers])
    got = make()(of(own), of(theirs), batch_of(numbers), Step(progress=progress, terms=("nd",)))["nd"]
    assert float(got) == pytest.approx(naive(own, theirs, centres))
    assert float(got) > 0.1


def test_other_widths_pass_a_projector():
    assert not list(make().projector.parameters())
    method, own = make(6, 9), draw(1, 4, 6).requires_grad_()
    method(of(own), of(draw(2, 4, 9)), batch_of([0, 1, 2, 2]), ONLY)["nd"].backward()
    assert own.grad.abs().sum() > 0
    assert all(p.grad is not None for p in method.parameters())
