from __future__ import annotations

import pytest
import torch

from sapling.errors import MethodError
from sapling.grids import as_vector, grid_of, resize, width_of


def grid(*shape):
    return grid_of("stage4", {"stage4": shape}, side="teacher", method="reviewkd")


def test_maps_and_embeddings():
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(grid(3, 4, 5).read(maps), maps)
    assert grid(3, 4, 5).size == (4, 5)
    assert grid(7).read(torch.arange(14.0).view(2, 7)).shape == (2, 7, 1, 1)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_tokens_lie_row_by_row(side):
    tokens = torch.randn(2, side**2, 6)
    found = grid(side**2, 6)
    assert (found.height, found.width, found.channels) == (side, side, 6)
    maps = found.read(tokens)
    for row in range(side):
        for column in range(side):
            assert torch.equal(maps[:, :, row, column], tokens[:, row * side + column])


@pytest.mark.parametrize("shape", [(15, 6), (17, 6), (0, 6), (1, 2, 3, 4)])
def test_what_has_no_grid_is_refused_by_name(shape):
    with pytest.raises(MethodError, match=r"'reviewkd' cannot place teacher's stage4 of shape .*\n.*allowed.*\n.*try"):
        grid(*shape)


def test_another_size_than_at_the_start_is_refused():
    with pytest.raises(MethodError, match=r"\[3, 5, 5\]; the method was built for \[3, 4, 4\]"):
        grid(3, 4, 4).read(torch.zeros(2, 3, 5, 5))


def test_vectors_are_means_over_positions():
    maps, tokens = torch.randn(2, 3, 4, 4), torch.randn(2, 9, 3)
    torch.testing.assert_close(as_vector(maps)[1, 2], maps[1, 2].mean())
    torch.testing.assert_close(as_vector(tokens)[1, 2], tokens[1, :, 2].mean())
    assert torch.equal(as_vector(tokens[:, 0]), tokens[:, 0])
    assert [width_of(tuple(x.shape[1:])) for x in (maps, tokens, tokens[:, 0])] == [3, 3, 3]


def test_resize_repeats_or_averages():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert resize(maps, (4, 4)) is maps
    assert resize(maps, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(resize(maps, (8, 8)), maps.repeat_interleave(2, 2).repeat_interleave(2, 3))
