"""Functions of the singular values of a matrix: how many directions it uses.

Shapes: ``[..,M,N]``, M rows (images, or pixels) of N values; leading axes are matrices apart. Singular values come from
the Gram matrix of the smaller side, in float64: two to five times faster than a decomposition of the matrix itself, and
the gradient is the smallest one that fits, where that of ``torch.linalg.matrix_norm(.., "nuc")`` on a matrix without
full rank pushes directions that the matrix does not use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision

FLOOR = 1e-10
"""Added to the squared singular values, as a share of their mean."""
ZERO = 1e-25
"""Singular values of the zero matrix."""


def singular_values(matrix: Tensor, floor: float = FLOOR) -> Tensor:
    """Singular values of each matrix, ``[..,min(M,N)]``, in rising order; their sum is :func:`nuclear_norm`.

    Computed as ``sqrt(l_i + floor * mean(l))``, l the eigenvalues of the smaller Gram matrix.

    Args:
        matrix: ``[..,M,N]``. A value that is not finite makes them NaN.
        floor: share of the mean squared singular value.

    Raises:
        MethodError: it is no matrix.
    """
    _check(matrix)
    return _like(matrix, _roots(_gram(matrix), floor))


def nuclear_norm(matrix: Tensor, floor: float = FLOOR) -> Tensor:
    """Sum of the singular values of each matrix, ``[..]``.

    The floor makes the gradient, ``U V^T`` on the directions that the matrix uses, fade to 0 on those it does not use;
    its spectral norm is 1 at most, also for equal singular values, rank 1 and the zero matrix. The value is too large
    by at most ``sqrt(floor)`` of the root mean squared singular value for each direction that is not used.

    Args:
        matrix: ``[..,M,N]``. A value that is not finite makes the norm NaN, so that training stops with its name.
        floor: share of the mean squared singular value.

    Raises:
        MethodError: it is no matrix.
    """
    return singular_values(matrix, floor).sum(dim=-1)


def class_nuclear_norm(matrix: Tensor, labels: Tensor, floor: float = FLOOR) -> Tensor:
    """Sum over classes of the nuclear norm of the rows of that class.

    One decomposition gives all: the Gram matrix of the rows, with 0 for pairs of different classes, is one block per
    class, and the eigenvalues of such a matrix are those of its blocks.

    Args:
        matrix: ``[M,N]``.
        labels: ``[M]`` int64.
        floor: see :func:`nuclear_norm`.

    Raises:
        MethodError: there is not one label per row.
    """
    _check(matrix)
    if matrix.dim() != 2 or labels.shape != matrix.shape[:1]:
        raise MethodError(
            f"labels have the shape {list(labels.shape)}, the matrix {list(matrix.shape)}",
            allowed="labels [M] and a matrix [M,N]",
        )
    values = matrix.double()
    same = labels[:, None] == labels[None, :]
    return _like(matrix, _roots((values @ values.T) * same, floor).sum())


def column_norm(matrix: Tensor) -> Tensor:
    """Sum of the min(M,N) largest lengths of columns, ``[..]``: a stand-in for the nuclear norm without decomposition.

    Source: fast batch nuclear-norm maximisation, Cui et al. 2021 (their code takes the mean instead of the sum). It is
    near the nuclear norm where columns are near to orthogonal, as those of sure predictions are.

    Raises:
        MethodError: it is no matrix.
    """
    _check(matrix)
    lengths = torch.linalg.vector_norm(full_precision(matrix), dim=-2)
    largest: Tensor = lengths.topk(min(matrix.shape[-2:]), dim=-1).values
    return largest.sum(dim=-1)


def frobenius_norm(matrix: Tensor) -> Tensor:
    """Root of the sum of all squares, ``[..]``; its gradient at the zero matrix is 0.

    Raises:
        MethodError: it is no matrix.
    """
    _check(matrix)
    length: Tensor = torch.linalg.vector_norm(full_precision(matrix), dim=(-2, -1))
    return length


def effective_rank(matrix: Tensor) -> Tensor:
    """``exp(H(s / sum s))``, ``[..]``, without gradient: how many directions the matrix uses, 1 to min(M,N).

    H is the entropy in nats of the singular values s, divided by their sum (Roy, Vetterli 2007). The zero matrix has 0.

    Raises:
        MethodError: it is no matrix.
    """
    with torch.no_grad():
        return spread(singular_values(matrix, floor=0.0))


def spread(values: Tensor) -> Tensor:
    """:func:`effective_rank` of singular values ``[..,N]`` that are known already, ``[..]``, without gradient."""
    values = values.detach()
    is_zero = values.amax(dim=-1, keepdim=True) <= 2 * ZERO
    shares = values / torch.where(is_zero, 1.0, values.sum(dim=-1, keepdim=True))
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropy.exp() * ~is_zero.squeeze(-1)


def _gram(matrix: Tensor) -> Tensor:
    values = matrix.double()
    rows, columns = values.shape[-2:]
    return values @ values.mT if rows <= columns else values.mT @ values


def _roots(gram: Tensor, floor: float) -> Tensor:
    if not bool(torch.isfinite(gram.detach()).all()):  # the decomposition waits for the GPU anyway
        return gram.diagonal(dim1=-2, dim2=-1) * torch.nan
    mean = gram.detach().diagonal(dim1=-2, dim2=-1).mean(dim=-1, keepdim=True)
    # the last summand is for the zero matrix: a root has no gradient at 0
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return (eigenvalues.clamp(min=0) + floor * mean + ZERO**2).sqrt()


def _like(matrix: Tensor, values: Tensor) -> Tensor:
    """``values`` in float32, or float64 where the matrix is."""
    return values if matrix.dtype == torch.float64 else values.float()


def _check(matrix: Tensor) -> None:
    if matrix.dim() < 2 or 0 in matrix.shape:
        raise MethodError(
            f"the matrix has the shape {list(matrix.shape)}", allowed="[..,M,N] with M and N of 1 or more"
        )
