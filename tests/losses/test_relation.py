"""Attention, similarity, affinity, distances and angles: loops, invariances, gradients, the ends of their range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from sapling.errors import MethodError
from sapling.losses import (
    affinity_divergence,
    angle_error,
    attention_error,
    attention_map,
    distance_error,
    similarity_error,
    squared_error,
)
from sapling.losses import relation as relations
from sapling.losses.angles import CHUNK_ELEMENTS
from tests.losses import naive_features as naive

VECTORS = {
    "similarity": (similarity_error, naive.similarity_error),
    "affinity": (affinity_divergence, naive.affinity_divergence),
    "distance": (distance_error, naive.distance_error),
    "angle": (angle_error, naive.angle_error),
}
LOSSES = [loss for loss, _ in VECTORS.values()]


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(max_examples=10)
@given(
    st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 5), st.integers(1, 6), st.sampled_from(sorted(VECTORS))
)
def test_relations_are_the_naive_ones(seed, count, ours, theirs, name):
    loss, reference = VECTORS[name]
    student, teacher = draw(seed, count, ours), draw(seed + 1, count, theirs)
    assert float(loss(student, teacher)) == pytest.approx(reference(student.numpy(), teacher.numpy()), 1e-7, 1e-10)


def test_similarity_takes_maps_of_any_shape():
    student, teacher = draw(1, 5, 3, 2, 2), draw(2, 5, 9, 4)
    expected = naive.similarity_error(student.numpy(), teacher.numpy())
    assert float(similarity_error(student, teacher)) == pytest.approx(expected)


@pytest.mark.parametrize("power", [1, 2, 3.5])
@pytest.mark.parametrize("size", [(4, 4), (2, 2), (8, 5)])
def test_attention_is_the_naive_one(power, size):
    student, teacher = draw(1, 3, 5, 4, 4), draw(2, 3, 2, *size)
    expected = naive.attention_error(student.numpy(), teacher.numpy(), power)
    assert float(attention_error(student, teacher, power)) == pytest.approx(expected)


def test_attention_of_tokens_is_that_of_their_grid():
    grid = draw(1, 2, 6, 3, 3)
    assert torch.equal(attention_map(grid.flatten(2).mT), attention_map(grid))
    torch.testing.assert_close(attention_map(grid).norm(dim=1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
@pytest.mark.parametrize("loss", [*LOSSES, attention_error])
def test_the_scale_of_the_student_does_not_matter(loss, scale):
    """Also in float32, and far from 1."""
    shape = (9, 6, 3, 3) if loss is attention_error else (9, 6)
    student, teacher = draw(1, *shape, dtype=torch.float32), draw(2, *shape, dtype=torch.float32)
    torch.testing.assert_close(loss(student * scale, teacher), loss(student, teacher), rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("loss", [*LOSSES, attention_error, squared_error])
def test_equal_features_have_nothing_to_learn_and_order_does_not_matter(loss):
    shape = (9, 6, 3, 3) if loss in (attention_error, squared_error) else (9, 6)
    student, teacher = draw(1, *shape), draw(2, *shape)
    assert float(loss(teacher, teacher)) == pytest.approx(0, abs=1e-15)
    assert float(loss(student, teacher)) > 1e-4
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


@pytest.mark.parametrize("loss", [distance_error, angle_error])
def test_distances_and_angles_survive_moves_and_rotations(loss):
    student, teacher = draw(1, 8, 5), draw(2, 8, 3)
    turned = student @ torch.linalg.qr(draw(3, 5, 5)).Q + 100
    torch.testing.assert_close(loss(turned, teacher), loss(student, teacher))


@pytest.mark.parametrize("loss", [*LOSSES, attention_error, squared_error])
def test_gradients_are_right_on_both_sides(loss):
    shape = (4, 3, 2, 2) if loss in (attention_error, squared_error) else (5, 3)
    student, teacher = draw(1, *shape).requires_grad_(), draw(2, *shape).requires_grad_()
    assert torch.autograd.gradcheck(loss, (student, teacher))
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.detach()), (student,))
    assert torch.autograd.gradcheck(lambda t: loss(student.detach(), t), (teacher,))


@pytest.mark.parametrize("chunk", [1, 2 * 49, 3 * 49, CHUNK_ELEMENTS])
def test_angles_in_chunks_are_those_in_one_go(chunk):
    student, teacher = draw(1, 7, 4).requires_grad_(), draw(2, 7, 6)
    expected = naive.angle_error(student.detach().numpy(), teacher.numpy())
    loss = angle_error(student, teacher, chunk)
    assert float(loss.detach()) == pytest.approx(expected)
    (found,) = torch.autograd.grad(loss, student)
    (whole,) = torch.autograd.grad(angle_error(student, teacher), student)
    torch.testing.assert_close(found, whole)


class Largest(TorchFunctionMode):
    """Notes the size of the largest tensor that any call makes."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [v.numel() for v in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(v, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


def test_angles_never_hold_all_triples_nor_differences():
    student, teacher = draw(1, 40, 30, dtype=torch.float32).requires_grad_(), draw(2, 40, 50, dtype=torch.float32)
    with Largest() as largest:
        angle_error(student, teacher, chunk_elements=4 * 40**2).backward()
    assert largest.elements == 4 * 40**2  # 40^3 are all cosines, 40^2 times 50 the differences


def test_near_images_do_not_drown_in_rounding():
    """Two images a thousandth apart, far from the origin: float32 sums of squares would give noise."""
    student = draw(1, 6, 4) + 300
    student[1] = student[0] + 1e-3 * draw(3, 4)
    student = student.float()
    teacher = draw(2, 6, 4).float()
    expected = naive.angle_error(student.double().numpy(), teacher.double().numpy())
    assert float(angle_error(student, teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [*LOSSES, attention_error])
@pytest.mark.parametrize("kind", ["zero row", "zeros", "equal rows", "all equal", "opposite rows"])
def test_degenerate_features_stay_finite_with_small_gradients(loss, kind, dtype):
    shape = (6, 4, 2, 2) if loss is attention_error else (6, 4)
    student, teacher = draw(1, *shape, dtype=dtype), draw(2, *shape, dtype=dtype)
    if kind == "zero row":
        student[0] = 0
    elif kind == "zeros":
        student[:] = 0
    elif kind == "equal rows":
        student[1] = student[0]
    elif kind == "all equal":
        student[:] = student[0].clone()
    else:
        student[1] = -student[0]
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 10


def test_pairs_that_coincide_are_left_out_of_the_mean_distance():
    vectors = torch.tensor([[0.0, 0], [0, 0], [3, 4]])
    torch.testing.assert_close(
        relations.pairwise_distances(vectors),
        torch.tensor([[0.0, 0, 5], [0, 0, 5], [5, 5, 0]], dtype=torch.float64),
    )
    other = draw(1, 3, 2)
    expected = naive.distance_error(vectors.double().numpy(), other.numpy())
    assert float(distance_error(vectors, other.float())) == pytest.approx(expected, rel=1e-6)


def test_half_precision_is_raised_and_wrong_input_refused():
    for loss in (*LOSSES, attention_error):
        shape = (6, 4, 2, 2) if loss is attention_error else (6, 4)
        value = loss(draw(1, *shape).bfloat16(), draw(2, *shape).half())
        assert value.dtype == torch.float32
    for loss in LOSSES:
        with pytest.raises(MethodError, match="of 6 images, the teacher's of 5"):
            loss(draw(1, 6, 4), draw(2, 5, 4))
    with pytest.raises(MethodError, match=r"power is 0\.5"):
        attention_map(draw(1, 2, 3, 2, 2), 0.5)
    with pytest.raises(MethodError, match=r"\[4, 1, 2, 2\], the teacher's \[4, 3, 2, 2\]"):
        squared_error(draw(1, 4, 1, 2, 2), draw(2, 4, 3, 2, 2))


def test_squared_error_is_the_mean_over_elements():
    student, teacher = draw(1, 4, 3, 2, 2), draw(2, 4, 3, 2, 2)
    expected = np.mean([(a - b) ** 2 for a, b in zip(student.flatten(), teacher.flatten(), strict=True)])
    assert float(squared_error(student, teacher)) == pytest.approx(expected)
