"""Losses on relations between the images of a batch: dimensions of student and teacher may differ.

Shapes: B batch, D and D' embeddings. All depend on which images are together in a batch; under several processes each
computes them on its own images.

Everything is finite where images coincide or a feature is 0: such a pair has no direction, so it counts as 0 and has no
gradient, where a plain normalisation has one of 1e12.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.angles import CHUNK_ELEMENTS, angle_difference
from sapling.losses.checks import full_precision

TINY = 1e-18
"""Vectors that are shorter are 0: their squares are at the end of float32."""
NEAR = 1e-7
"""Images that are nearer than this share of the spread of the batch are one: float32 tells no more."""


def unit(values: Tensor, dim: int) -> Tensor:
    """``values`` scaled to length 1 along ``dim``; what is 0 stays 0, without gradient."""
    length = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    is_zero = length <= TINY
    return torch.where(is_zero, 0.0, values / torch.where(is_zero, 1.0, length))


def similarity_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over ``[B,B]`` of the squared difference of the two similarity matrices.

    A similarity matrix is ``F F^T`` of the flattened features, each row scaled to length 1 (Tung, Mori 2019,
    similarity-preserving loss). The mean is the paper's sum over B^2. The scale of either side does not matter.

    Args:
        student: ``[B,..]``.
        teacher: ``[B,..]``, of any other shape.

    Raises:
        MethodError: the numbers of images differ.
    """
    student, teacher = _flat(student), _flat(teacher)
    _check_batch(student, teacher)
    return (unit(student @ student.T, dim=1) - unit(teacher @ teacher.T, dim=1)).square().mean()


def affinity_divergence(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """Mean over ``[B,B]`` of ``p log((p + eps) / (q + eps))``, p of the teacher and q of the student.

    An affinity is the cosine of two images, moved to [0,1], divided by the sum of its row (Passalis, Tefas 2018, with
    the cosine kernel; the diagonal is included, and the mean is over B^2 elements, as in mdistiller). That is the mean
    over images of KL(teacher || student), divided by B once more. In float64 inside, as what cancels is a
    thousand times what is left. The scale of either side does not matter.

    Args:
        student: ``[B,D]``; anything longer is flattened.
        teacher: ``[B,D']``.
        eps: keeps the logarithm of opposite directions finite.

    Raises:
        MethodError: the numbers of images differ.
    """
    student, teacher = _flat(student), _flat(teacher)
    _check_batch(student, teacher)
    q, p = _affinity(student), _affinity(teacher)
    return (p * ((p + eps) / (q + eps)).log()).mean().to(student.dtype)


def distance_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1, mean over ``[B,B]``, of the distances between images, each side divided by its mean distance.

    The distance-wise loss of Park, Kim, Lu, Cho 2019. The mean distance is over pairs that are apart. The scale of
    either side does not matter.

    Args:
        student: ``[B,D]``; anything longer is flattened.
        teacher: ``[B,D']``.

    Raises:
        MethodError: the numbers of images differ.
    """
    student, teacher = _flat(student), _flat(teacher)
    _check_batch(student, teacher)
    ours, theirs = _relative(pairwise_distances(student)), _relative(pairwise_distances(teacher))
    return F.smooth_l1_loss(ours, theirs).to(student.dtype)


def angle_error(student: Tensor, teacher: Tensor, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Smooth L1, mean over ``[B,B,B]``, of the cosines of the angle at image j between images i and k.

    The angle-wise loss of Park, Kim, Lu, Cho 2019. Neither the differences ``[B,B,D]`` nor more than ``chunk_elements``
    cosines are ever held, see :mod:`sapling.losses.angles`: work grows as B^3, memory as B^2. The Gram matrix is
    centred and in float64, so that near images do not drown in rounding. The scale of either side does not matter.

    Args:
        student: ``[B,D]``; anything longer is flattened.
        teacher: ``[B,D']``.
        chunk_elements: cosines at a time; B^2 at least.

    Raises:
        MethodError: the numbers of images differ.
    """
    student, teacher = _flat(student), _flat(teacher)
    _check_batch(student, teacher)
    sides = [(gram, _inverse(_distances(gram))) for gram in (_gram(student), _gram(teacher))]
    return (angle_difference(sides[0], sides[1], chunk_elements) / student.shape[0] ** 3).to(student.dtype)


def pairwise_distances(vectors: Tensor) -> Tensor:
    """Euclidean distances ``[B,B]`` float64 of the rows of ``[B,D]``.

    Pairs that are nearer than float32 can tell have a distance of 0 and no gradient (the root has none there).
    """
    return _distances(_gram(vectors))


def _gram(vectors: Tensor) -> Tensor:
    values = vectors.double()
    values = values - values.mean(dim=0)
    return values @ values.T


def _distances(gram: Tensor) -> Tensor:
    squares = gram.diagonal()
    squared = squares[:, None] + squares[None, :] - 2 * gram
    is_near = squared <= NEAR**2 * squares.detach().mean()
    return torch.where(is_near, 0.0, torch.where(is_near, 1.0, squared).sqrt())


def _relative(distances: Tensor) -> Tensor:
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _inverse(distances: Tensor) -> Tensor:
    is_zero = distances == 0
    return torch.where(is_zero, 0.0, 1 / torch.where(is_zero, 1.0, distances))


def _affinity(vectors: Tensor) -> Tensor:
    directions = unit(vectors.double(), dim=1)
    affinity = ((directions @ directions.T + 1) / 2).clamp(min=0)
    return affinity / affinity.sum(dim=1, keepdim=True)


def _flat(feature: Tensor) -> Tensor:
    return full_precision(feature).flatten(1)


def _check_batch(student: Tensor, teacher: Tensor) -> None:
    if student.shape[0] != teacher.shape[0]:
        raise MethodError(
            f"the student's features are of {student.shape[0]} images, the teacher's of {teacher.shape[0]}",
            allowed="the same images for both",
        )
