from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.errors import MethodError
from sapling.losses import class_nuclear_norm, column_norm, effective_rank, frobenius_norm, nuclear_norm
from tests.losses import naive_features as naive


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient(matrix, function=nuclear_norm):
    matrix = matrix.clone().requires_grad_()
    function(matrix).sum().backward()
    return matrix.grad


LOW_RANK = {
    "rank 1": draw(1, 8, 1) @ draw(2, 1, 16),
    "zeros": torch.zeros(8, 16, dtype=torch.float64),
    "equal rows": draw(1, 4, 16).repeat(2, 1),
    "a zero row": torch.cat([torch.zeros(1, 16, dtype=torch.float64), draw(1, 7, 16)]),
    "identity": torch.eye(8, dtype=torch.float64),
    "orthonormal rows": torch.linalg.qr(draw(1, 16, 8)).Q.mT,
    "tall, rank 2": draw(1, 16, 2) @ draw(2, 2, 5),
    "tiny": draw(1, 8, 16) * 1e-12,
    "large": draw(1, 8, 16) * 1e6,
}


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_norm_and_rank_are_the_naive_ones(seed, rows, columns):
    matrix = draw(seed, rows, columns)
    assert float(nuclear_norm(matrix)) == pytest.approx(naive.nuclear_norm(matrix.numpy()), rel=1e-6)
    assert float(effective_rank(matrix)) == pytest.approx(naive.effective_rank(matrix.numpy()), rel=1e-6)


@pytest.mark.parametrize("kind", LOW_RANK)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_at_most_one_in_spectral_norm(kind, dtype):
    matrix = LOW_RANK[kind].to(dtype)
    found = gradient(matrix)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert float(torch.linalg.matrix_norm(found.double(), 2)) <= 1 + 1e-6
    # the smallest gradient that fits: one per direction that is used, where the SVD's always has sqrt(8)
    used = torch.linalg.matrix_rank(LOW_RANK[kind], rtol=1e-9) if LOW_RANK[kind].any() else 0
    assert float(found.double().norm()) == pytest.approx(math.sqrt(used), rel=5e-3, abs=1e-6)


def test_gradient_is_that_of_the_decomposition_where_there_is_one():
    for shape in ((6, 9), (9, 6), (5, 5)):
        matrix = draw(1, *shape)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        torch.testing.assert_close(gradient(matrix), u @ v, rtol=1e-5, atol=1e-6)
        assert torch.autograd.gradcheck(nuclear_norm, matrix.requires_grad_())


def test_several_matrices_at_once():
    matrices = draw(1, 3, 2, 4, 6)
    for function in (nuclear_norm, column_norm, frobenius_norm, effective_rank):
        found = function(matrices)
        assert found.shape == (3, 2)
        torch.testing.assert_close(found[2, 1], function(matrices[2, 1]))


def test_norm_of_classes_is_the_sum_over_classes():
    for shape in ((12, 5), (12, 20)):
        matrix = draw(1, *shape)
        labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 5, 1, 2, 0])
        expected = sum(naive.nuclear_norm(matrix[labels == c].numpy()) for c in (0, 1, 2, 5))
        assert float(class_nuclear_norm(matrix, labels)) == pytest.approx(expected, rel=1e-5)
        assert float(class_nuclear_norm(matrix, labels * 0)) == pytest.approx(float(nuclear_norm(matrix)), rel=1e-5)
        found = gradient(matrix, lambda m, labels=labels: class_nuclear_norm(m, labels))
        assert torch.isfinite(found).all()
        u, _, v = torch.linalg.svd(matrix[labels == 1], full_matrices=False)
        torch.testing.assert_close(found[labels == 1], u @ v, rtol=1e-4, atol=1e-5)


def test_classes_that_share_no_direction_have_nothing_to_gain():
    """OLE: the classes' norms together are the norm of all, and never less."""
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 3, 1], [0, 1, 1]])
    torch.testing.assert_close(class_nuclear_norm(apart, labels), nuclear_norm(apart), rtol=1e-4, atol=0)
    for seed in range(5):
        matrix = draw(seed, 4, 3)
        assert class_nuclear_norm(matrix, labels) >= nuclear_norm(matrix) - 1e-4


def test_bounds_of_rows_of_length_one():
    rows = torch.nn.functional.normalize(draw(1, 8, 12), dim=1)
    assert math.sqrt(8) <= float(nuclear_norm(rows)) <= 8
    assert float(frobenius_norm(rows)) == pytest.approx(math.sqrt(8))


def test_column_norm_takes_the_longest_columns():
    matrix = torch.tensor([[3.0, 0, 1, 0.5], [4, 2, 0, 0.5]])
    assert float(column_norm(matrix)) == pytest.approx(5 + 2)
    diagonal = torch.diag(torch.tensor([1.0, 2, 3]))
    assert float(column_norm(diagonal)) == pytest.approx(float(nuclear_norm(diagonal)), rel=1e-4)
    assert torch.isfinite(gradient(torch.zeros(3, 4), column_norm)).all()


def test_effective_rank_counts_directions():
    assert float(effective_rank(torch.eye(5))) == pytest.approx(5)
    assert float(effective_rank(LOW_RANK["rank 1"])) == pytest.approx(1, abs=1e-4)
    assert float(effective_rank(torch.zeros(4, 3))) == 0
    assert not effective_rank(draw(1, 4, 3).requires_grad_()).requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_gives_nan_and_no_crash(value):
    matrix = draw(1, 4, 3)
    matrix[1, 2] = value
    assert torch.isnan(nuclear_norm(matrix))
    assert torch.isnan(class_nuclear_norm(matrix, torch.zeros(4, dtype=torch.int64)))


def test_half_precision_is_raised_and_wrong_input_refused():
    for function in (nuclear_norm, column_norm, frobenius_norm, effective_rank):
        assert function(draw(1, 4, 3).bfloat16()).dtype == torch.float32
        with pytest.raises(MethodError, match=r"the shape \[4\]"):
            function(draw(1, 4))
    with pytest.raises(MethodError, match=r"labels have the shape \[3\]"):
        class_nuclear_norm(draw(1, 4, 3), torch.zeros(3, dtype=torch.int64))
