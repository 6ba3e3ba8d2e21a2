"""Cut images with several labels each into parts, so that every label has its share in each of them. No torch.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD 2011,
algorithm 1): the label with the fewest images left is dealt out first, each image to the part that still wants most
of that label. Departures: units may be groups of images; ties are broken by an order that is handed in instead of at
random; and where a label has no more units left than parts without it, those parts get them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def deal_out(counts: Integers, sizes: Integers, shares: npt.NDArray[np.float64]) -> Integers:
    """Give every unit to a part.

    Args:
        counts: ``[U,K]`` images with each label in each unit, the units in the order in which ties are broken.
        sizes: ``[U]`` images in each unit.
        shares: ``[P]`` wanted share of the images in each part; they sum to 1.

    Returns:
        ``[U]``: number of the part of each unit.
    """
    has = counts > 0
    part = np.full(len(counts), -1, dtype=np.int64)
    wanted = shares[:, None] * counts.sum(0)
    wanted_sizes = shares * sizes.sum()
    covered = np.zeros(wanted.shape, dtype=np.bool_)
    left = has.sum(0)

    def give(unit: int, label: int | None) -> None:
        best = np.arange(len(shares))
        if label is not None:
            bare = np.flatnonzero(~covered[:, label])
            if len(bare) and left[label] <= len(bare):
                best = bare
            best = best[_largest(wanted[best, label])]
        best = best[_largest(wanted_sizes[best])]
        chosen = int(best[0])
        part[unit] = chosen
        covered[chosen] |= has[unit]
        wanted[chosen] -= counts[unit]
        wanted_sizes[chosen] -= sizes[unit]
        left[has[unit]] -= 1

    while left.any():
        label = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        for unit in np.flatnonzero(has[:, label] & (part < 0)):
            give(int(unit), label)
    for unit in np.flatnonzero(part < 0):
        give(int(unit), None)
    return part


def _largest(values: npt.NDArray[np.float64]) -> Integers:
    # Shares of counts are no exact numbers: what differs by rounding alone is a tie.
    return np.flatnonzero(values >= values.max() - 1e-9)
