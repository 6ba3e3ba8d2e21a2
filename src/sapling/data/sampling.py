"""Which training images an epoch shows, and in which order: a function of labels and random generator. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def balanced_counts(counts: Indices, generator: np.random.Generator, power: float = 1.0) -> Indices:
    """How many images of each class an epoch draws: in proportion to ``counts ** (1 - power)``, as many in all.

    What is no whole number is rounded at random (systematically, with one draw), so that it is right on average.

    Args:
        counts: ``[K]``, training images of each class.
        generator: gives the random number.
        power: 1 draws every class equally often, 0.5 is half way (square root), 0 draws as the images are.
    """
    there = counts > 0
    shares = np.where(there, counts.astype(np.float64).clip(1) ** (1 - power), 0.0)
    wanted = counts.sum() * shares / shares.sum()
    edges = np.floor(np.cumsum(wanted) + generator.random()).astype(np.int64)
    # The last edge is the sum, whatever the rounding of floats says.
    last = int(np.flatnonzero(there)[-1])
    edges[last:] = counts.sum()
    return np.diff(edges, prepend=0)


def balanced_order(labels: Indices, generator: np.random.Generator, power: float = 1.0) -> tuple[Indices, Indices]:
    """An epoch in which rare classes are drawn more often, in random order.

    Of each class every image is drawn equally often, give or take once: all of them for whole rounds, then some.

    Args:
        labels: ``[N]``, of the training images.
        generator: gives the random numbers.
        power: see :func:`balanced_counts`.

    Returns:
        ``[N]`` positions in ``labels``, and ``[N]`` the number of the draw of that image, from 0.
    """
    counts = np.bincount(labels)
    positions, repeats = [], []
    for label, wanted in enumerate(balanced_counts(counts, generator, power)):
        members = np.flatnonzero(labels == label)
        if not wanted:
            continue
        rounds = -(-int(wanted) // len(members))
        drawn = np.concatenate([generator.permutation(members) for _ in range(rounds)])[:wanted]
        positions.append(drawn)
        repeats.append(np.arange(wanted) // len(members))
    order = generator.permutation(len(labels))
    return np.concatenate(positions)[order], np.concatenate(repeats)[order]
