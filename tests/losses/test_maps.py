from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapling.errors import MethodError
from sapling.losses import as_map, as_vectors, same_size
from sapling.losses.maps import map_shape
from tests.losses import naive_features as naive


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7,), (7, 1, 1)),
        ((3, 5, 4), (3, 5, 4)),
        ((196, 8), (8, 14, 14)),
        ((4, 6), (6, 2, 2)),
        ((1, 6), (6, 1, 1)),
    ],
)
def test_shape_of_the_map(shape, expected):
    assert map_shape(shape) == expected
    assert as_map(torch.zeros(2, *shape)).shape == (2, *expected)


@pytest.mark.parametrize("shape", [(), (197, 8), (6, 8), (0, 3), (2, 3, 4, 5)])
def test_what_is_no_map_is_refused_by_name(shape):
    with pytest.raises(MethodError, match=r"the student's blocks.3 has the shape \["):
        map_shape(shape, "the student's blocks.3")


def test_tokens_keep_their_place():
    grid = torch.arange(2 * 9 * 4, dtype=torch.float32).reshape(2, 9, 4)
    found = as_map(grid)
    assert found.shape == (2, 4, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(found[:, :, row, column], grid[:, 3 * row + column])


def test_vectors_are_means():
    torch.manual_seed(0)
    maps, tokens, vectors = torch.randn(2, 5, 3, 4), torch.randn(2, 7, 5), torch.randn(2, 5)
    torch.testing.assert_close(as_vectors(maps), maps.mean((2, 3)))
    torch.testing.assert_close(as_vectors(tokens), tokens.mean(1))
    assert torch.equal(as_vectors(vectors), vectors)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
def test_the_larger_map_is_pooled_per_axis(height, width, other_height, other_width):
    g = torch.Generator().manual_seed(height * 7 + width)
    student = torch.randn(1, 2, height, width, generator=g, dtype=torch.float64)
    teacher = torch.randn(1, 3, other_height, other_width, generator=g, dtype=torch.float64)
    ours, theirs = same_size(student, teacher)
    size = min(height, other_height), min(width, other_width)
    for given_map, found in ((student, ours), (teacher, theirs)):
        expected = torch.from_numpy(naive.pooled(given_map[0].numpy(), *size))
        torch.testing.assert_close(found[0], expected)


def test_half_precision_is_raised_and_double_kept():
    for make in (as_map, as_vectors):
        assert make(torch.zeros(2, 4, 3, dtype=torch.bfloat16)).dtype == torch.float32
        assert make(torch.zeros(2, 4, 3, dtype=torch.float64)).dtype == torch.float64
