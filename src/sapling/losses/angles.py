"""Angles in all triples of a batch, without ever holding them.

Shapes: B batch, J images at a time whose angles are computed; all in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**18
"""Angles that are held at a time: 2 MB, which stay in a processor's cache."""

Side = tuple[Tensor, Tensor]
"""Gram matrix ``[B,B]`` and the inverses of the distances ``[B,B]``, 0 where two images coincide."""


def angle_difference(student: Side, teacher: Side, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Smooth L1 of the cosines of the angle at j between i and k, summed over ``[B,B,B]``.

    By ``<i - j, k - j> = G_ik - G_ij - G_jk + G_jj`` the Gram matrix suffices. Value and gradient are computed
    together, some vertices j at a time, so that memory is B^2 while the work is B^3. It can be differentiated once.

    Args:
        student: see :data:`Side`.
        teacher: the same.
        chunk_elements: cosines at a time; B^2 at least.
    """
    total: Tensor = _AngleDifference.apply(*student, *teacher, chunk_elements)
    return total


class _AngleDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gram_s: Tensor, inverse_s: Tensor, gram_t: Tensor, inverse_t: Tensor, chunk_elements: int
    ) -> Tensor:
        count = gram_s.shape[0]
        rows = max(1, chunk_elements // count**2)
        wanted = [side for side in (0, 1) if ctx.needs_input_grad[2 * side]]
        sides = ((gram_s, inverse_s), (gram_t, inverse_t))
        gradients: list[Tensor | None] = [None] * 4
        for side in wanted:
            gradients[2 * side : 2 * side + 2] = [torch.zeros_like(gram_s), torch.zeros_like(gram_s)]
        total = gram_s.new_zeros(())
        for start in range(0, count, rows):
            vertices = slice(start, start + rows)
            products = [_products(gram, vertices) for gram, _ in sides]
            ours, theirs = (_scaled(p, inverse[vertices]) for p, (_, inverse) in zip(products, sides, strict=True))
            gap = ours.sub_(theirs)
            slope = gap.clamp(-1, 1)
            total += torch.dot(slope.flatten(), gap.sub_(slope, alpha=0.5).flatten())
            for side in wanted:
                to_gram, to_inverse = gradients[2 * side], gradients[2 * side + 1]
                assert to_gram is not None
                assert to_inverse is not None
                signed = slope if side == 0 else slope.neg()
                _add_gradients(signed, products[side], sides[side][1][vertices], vertices, to_gram, to_inverse)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if saved is None else saved * gradient for saved in ctx.saved_tensors), None)


def _products(gram: Tensor, vertices: slice) -> Tensor:
    """``<i - j, k - j>``, ``[J,B,B]``."""
    at_vertex = gram[vertices]
    products = gram - at_vertex[:, :, None]
    return products.sub_(at_vertex[:, None, :]).add_(gram.diagonal()[vertices, None, None])


def _scaled(values: Tensor, inverse: Tensor) -> Tensor:
    return (values * inverse[:, :, None]).mul_(inverse[:, None, :])


def _add_gradients(
    slope: Tensor, products: Tensor, inverse: Tensor, vertices: slice, to_gram: Tensor, to_inverse: Tensor
) -> None:
    """Add what these vertices give: all is symmetric in i and k, hence the twos."""
    at_vertex = torch.bmm(slope, inverse[:, :, None]).squeeze(2) * inverse  # [J,B], summed over k
    to_gram += _scaled(slope, inverse).sum(dim=0)
    to_gram[vertices] -= 2 * at_vertex
    to_gram.diagonal()[vertices] += at_vertex.sum(dim=1)
    to_inverse[vertices] += 2 * torch.bmm(products.mul_(slope), inverse[:, :, None]).squeeze(2)
