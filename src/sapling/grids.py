"""Any feature as a map ``[B,C,H,W]`` or as one vector ``[B,C]``, whichever kind of network it came from.

Networks hand out maps ``[B,C,H,W]``, tokens ``[B,T,D]`` or embeddings ``[B,D]``. A method that wants positions asks for
the :class:`Grid` of a tap's shape when it is built, and reads each batch through it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError


@dataclass(frozen=True, slots=True)
class Grid:
    """How the positions of one feature lie.

    Attributes:
        shape: of the feature, without B.
        channels: C, or D of tokens and embeddings.
        height: of the map; 1 for an embedding.
        width: of the map; 1 for an embedding.
    """

    shape: tuple[int, ...]
    channels: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def read(self, feature: Tensor) -> Tensor:
        """Give ``feature``, ``[B,*shape]``, as a map ``[B,C,H,W]``.

        Raises:
            MethodError: it has another shape than the one that this grid was made for.
        """
        if tuple(feature.shape[1:]) != self.shape:
            raise MethodError(
                f"a feature has the shape {list(feature.shape[1:])}; the method was built for {list(self.shape)}",
                remedy="give images of one size, the one that the run was started with",
            )
        if feature.dim() == 3:
            feature = feature.transpose(1, 2)
        return feature.reshape(feature.shape[0], self.channels, self.height, self.width)


def grid_of(tap: str, shapes: Mapping[str, tuple[int, ...]], *, side: str, method: str) -> Grid:
    """Find how a tap's positions lie: those of a map, of the patches of a ViT, or the one of an embedding.

    Tokens are read row by row as a square. They are those of the patches alone: class token and registers are no part
    of a tap (`sapling.models.tapped.TappedModel`).

    Args:
        tap: name of the feature.
        shapes: tap name to shape without B.
        side: ``student`` or ``teacher``, for the message.
        method: name of the method, for the message.

    Raises:
        MethodError: the feature is no map, no square of tokens and no embedding.
    """
    shape = tuple(shapes[tap])
    if len(shape) == 3:
        return Grid(shape, *shape)
    if len(shape) == 1:
        return Grid(shape, shape[0], 1, 1)
    if len(shape) == 2:
        num_tokens, channels = shape
        side_length = math.isqrt(num_tokens)
        if side_length**2 == num_tokens > 0:
            return Grid(shape, channels, side_length, side_length)
    raise MethodError(
        f"method {method!r} cannot place {side}'s {tap} of shape {list(shape)} on a grid",
        allowed="maps [C,H,W], embeddings [D], tokens [T,D] of a square of patches",
        remedy="another tap (see sapling methods " + method + "), or a method on logits, such as dist",
    )


def as_vector(feature: Tensor) -> Tensor:
    """Mean over the positions: ``[B,C,H,W]``, ``[B,T,D]`` (all tokens) or ``[B,D]`` to ``[B,C]``."""
    if feature.dim() == 2:
        return feature
    return feature.mean(dim=(2, 3)) if feature.dim() == 4 else feature.mean(dim=1)


def width_of(shape: tuple[int, ...]) -> int:
    """Length of the vector that :func:`as_vector` makes of a feature of this shape (without B)."""
    return shape[0] if len(shape) in (1, 3) else shape[1]


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring ``[B,C,H,W]`` to ``size``: by means of areas where it shrinks, else by repeating the nearest."""
    if tuple(maps.shape[2:]) == size:
        return maps
    if maps.shape[2] >= size[0] and maps.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="nearest")


def smaller(first: Grid, second: Grid) -> tuple[int, int]:
    """Height and width that both can be brought to without inventing anything."""
    return min(first.height, second.height), min(first.width, second.width)


def different(stages: list[str]) -> list[str]:
    """Give a setting that lists taps, if it names none twice.

    Raises:
        ValueError: as a check of pydantic's does; the registry makes it a message of ours.
    """
    if len(set(stages)) < len(stages):
        raise ValueError(f"{', '.join(stages)} names one twice, and each counts once")
    return stages
