from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sapling.errors import MethodError
from sapling.losses import decoupled, kl_divergence, sigmoid_kl, standardize_logits
from tests.losses import naive

temperatures = st.floats(0.5, 20)


@st.composite
def pairs(draw, largest=15.0):
    """(student, teacher, labels): float64 logits of a few images and classes."""
    b, k = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    logits = arrays(np.float64, (b, k), elements=st.floats(-largest, largest, width=32))
    labels = draw(st.lists(st.integers(0, k - 1), min_size=b, max_size=b))
    return draw(logits), draw(logits), labels


def draw(seed, *shape, scale=2.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@settings(max_examples=60, deadline=None)
@given(pairs(), temperatures)
def test_kl_is_the_naive_one(pair, temperature):
    student, teacher, _ = pair
    ours = kl_divergence(torch.tensor(student), torch.tensor(teacher), temperature, "none")
    np.testing.assert_allclose(ours, naive.kl_rows(student, teacher, temperature), rtol=1e-8, atol=1e-10)


def test_kl_reductions():
    student, teacher = draw(1, 3, 5, 4, 2), draw(2, 3, 5, 4, 2)
    rows = kl_divergence(student, teacher, 2.0, "none")
    assert rows.shape == (3, 4, 2)
    assert kl_divergence(student, teacher, 2.0) == pytest.approx(float(rows.sum()) / 3)
    assert kl_divergence(student, teacher, 2.0, "positionmean") == pytest.approx(float(rows.mean()))
    assert kl_divergence(student, teacher, 2.0, "mean") == pytest.approx(float(rows.mean()) / 5)
    one = kl_divergence(student[:, :, 1, 1], teacher[:, :, 1, 1], 2.0, "none")
    torch.testing.assert_close(rows[:, 1, 1], one)


def test_kl_has_its_temperature_squared():
    """Far above all logits T^2 KL tends to half the mean squared gap of centred logits, KL alone to 0."""
    student, teacher = draw(1, 6, 10), draw(2, 6, 10)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = float(gap.square().sum()) / (2 * 10 * 6)
    assert float(kl_divergence(student, teacher, 10_000.0)) == pytest.approx(limit, rel=1e-3)


def test_kl_gradient_is_the_known_one():
    """d/dz_s = T (q - p) / B."""
    student, teacher = draw(1, 4, 6).requires_grad_(), draw(2, 4, 6)
    kl_divergence(student, teacher, 3.0).backward()
    expected = 3 * (torch.softmax(student / 3, 1) - torch.softmax(teacher / 3, 1)) / 4
    torch.testing.assert_close(student.grad, expected.detach())


def test_kl_weighs_by_the_teacher():
    """A class that the teacher rules out costs nothing, one that the student rules out costs much."""
    sure = torch.tensor([[0.0, -30.0]], dtype=torch.float64)
    unsure = torch.zeros(1, 2, dtype=torch.float64)
    assert float(kl_divergence(unsure, sure)) == pytest.approx(math.log(2))
    assert float(kl_divergence(sure, unsure)) == pytest.approx(15 - math.log(2), rel=1e-6)


def test_kl_takes_one_temperature_per_image():
    student, teacher = draw(1, 3, 5), draw(2, 3, 5)
    mixed = kl_divergence(student, teacher, torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64), "none")
    alone = [kl_divergence(student, teacher, t, "none")[i] for i, t in enumerate((1.0, 2.0, 4.0))]
    torch.testing.assert_close(mixed, torch.stack(alone))


@settings(max_examples=60, deadline=None)
@given(pairs(largest=4.0), st.floats(1, 20))  # the naive one takes 1 - p, which loses its digits near p = 1
def test_decoupled_is_the_naive_one(pair, temperature):
    student, teacher, labels = pair
    got = decoupled(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), temperature, "none")
    for ours, theirs in zip(got, naive.decoupled_rows(student, teacher, labels, temperature), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs(), temperatures)
def test_decoupled_adds_up_to_kl(pair, temperature):
    """KL = target + (1 - p_y) non_target, exactly, for every image: a strong test of all three."""
    student, teacher, y = torch.tensor(pair[0]), torch.tensor(pair[1]), torch.tensor(pair[2])
    target, non_target = decoupled(student, teacher, y, temperature, "none")
    rest = 1 - torch.softmax(teacher / temperature, 1).gather(1, y[:, None]).squeeze(1)
    whole = kl_divergence(student, teacher, temperature, "none")
    torch.testing.assert_close(target + rest * non_target, whole, rtol=1e-9, atol=1e-9)


def test_decoupled_stays_finite_where_the_teacher_is_certain():
    student = torch.tensor([[300.0, -300.0, 0.0]]).requires_grad_()
    teacher = torch.tensor([[500.0, -100.0, 0.0]])
    target, non_target = decoupled(student, teacher, torch.tensor([0]), 1.0)
    (target + non_target).backward()
    assert torch.isfinite(target)
    assert torch.isfinite(non_target)
    assert torch.isfinite(student.grad).all()


def test_decoupled_means_over_the_batch():
    student, teacher, labels = draw(1, 6, 5), draw(2, 6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    each = decoupled(student, teacher, labels, 2.0, "none")
    for whole, rows in zip(decoupled(student, teacher, labels, 2.0), each, strict=True):
        torch.testing.assert_close(whole, rows.mean())


@settings(max_examples=60, deadline=None)
@given(pairs(), st.floats(0.5, 10), st.floats(-20, 20))
def test_standardize_ignores_scale_and_shift(pair, scale, shift):
    rows = torch.tensor(pair[0])
    rows = rows + torch.linspace(0, 1, rows.shape[1], dtype=torch.float64)  # no row is constant by accident
    if float(rows.std(dim=1).min()) < 1e-2:
        return
    torch.testing.assert_close(standardize_logits(rows), standardize_logits(scale * rows + shift), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(standardize_logits(rows), naive.standardized(rows), rtol=1e-9, atol=1e-9)


def test_standardize_of_equal_logits_is_zero_with_a_finite_gradient():
    logits = torch.zeros(2, 4, requires_grad=True)
    result = standardize_logits(logits)
    kl_divergence(result, torch.randn(2, 4), 2.0).backward()
    assert not result.any()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "loss", [kl_divergence, lambda s, t, temp: sum(decoupled(s, t, torch.tensor([0, 2, 1]), temp))]
)
def test_gradients_are_right(loss):
    student, teacher = draw(1, 3, 4).requires_grad_(), draw(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, 2.5), (student, teacher))
    assert torch.autograd.gradcheck(lambda s: loss(standardize_logits(s), teacher.detach(), 2.0), (student,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    student, teacher = draw(1, 4, 6).to(dtype), draw(2, 4, 6).to(dtype)
    ours = kl_divergence(student, teacher, 4.0)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, kl_divergence(student.float(), teacher.float(), 4.0))
    assert standardize_logits(student).dtype == torch.float32


def test_equal_answers_cost_nothing():
    logits = draw(1, 5, 7)
    assert float(kl_divergence(logits, logits + 3.0, 4.0)) == pytest.approx(0, abs=1e-12)
    for part in decoupled(logits, logits + 3.0, torch.tensor([0, 1, 2, 3, 4]), 4.0):
        assert float(part) == pytest.approx(0, abs=1e-12)


def test_batch_order_does_not_matter():
    student, teacher, labels = draw(1, 6, 5), draw(2, 6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(kl_divergence(student[order], teacher[order], 2.0), kl_divergence(student, teacher, 2.0))
    for a, b in zip(
        decoupled(student[order], teacher[order], labels[order]), decoupled(student, teacher, labels), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_wrong_temperature_is_refused(temperature):
    with pytest.raises(MethodError, match="above 0"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3), temperature)


def test_wrong_shapes_are_refused():
    with pytest.raises(MethodError, match=r"\[2, 3\].*\[2, 4\]"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(MethodError, match="K of 2"):
        kl_divergence(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(MethodError, match="labels"):
        decoupled(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(MethodError, match="one number"):
        decoupled(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2, 1))
    with pytest.raises(MethodError, match="'sum' is unknown"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, "sum")


@given(pairs(largest=6.0), st.floats(0.5, 20))
def test_sigmoid_kl_is_the_naive_one(pair, temperature):
    student, teacher, _ = pair
    ours = sigmoid_kl(torch.tensor(student), torch.tensor(teacher), temperature).item()
    np.testing.assert_allclose(ours, naive.sigmoid_kl(student, teacher, temperature), rtol=1e-6, atol=1e-10)


def test_sigmoid_kl_of_a_certain_teacher_is_finite_and_in_float32():
    student = torch.tensor([[-200.0, 200.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = sigmoid_kl(student, torch.tensor([[200.0, 200.0, -200.0]], dtype=torch.bfloat16))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    with pytest.raises(MethodError, match="shape"):
        sigmoid_kl(torch.zeros(2, 3), torch.zeros(2, 4))
