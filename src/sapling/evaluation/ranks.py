"""Where several students stand among each other, by crossed bootstrap: mean rank, and how often each is the best.

Ranks say less than differences do: they hide how far apart the students are. They are no test either; what is claimed
of two students is read off the verdict on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from sapling.errors import UsageError
from sapling.evaluation.multilabel import average_precision, influence_on_map

Array = NDArray[np.float64]
_DIGITS = 12  # beyond them two scores are a tie


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one student stands among R.

    Attributes:
        rank: on all test images and seeds; 1 is the best, a tie shares the mean of its ranks.
        mean_rank: mean over the draws.
        low: 2.5 % quantile of the draws' ranks.
        high: 97.5 % quantile.
        best: P(best): share of the draws in which it is the best; a tie shares the draw.
    """

    rank: float
    mean_rank: float
    low: float
    high: float
    best: float

    def as_dict(self) -> dict[str, float]:
        """JSON types."""
        return asdict(self)


def image_scores(answers: ArrayLike, truth: ArrayLike, measure: str) -> tuple[Array, NDArray[np.int64]]:
    """Split a measure into images.

    Args:
        answers: ``[S,n]`` predicted classes; for ``map`` logits ``[S,n,K]``.
        truth: ``[n]`` classes; for ``map`` targets ``[n,K]``.
        measure: ``top1``, ``macro_recall`` or ``map``.

    Returns:
        Values ``[S,n]`` and the stratum of each image ``[n]``: the measure is the mean over strata of the mean of a
        stratum's values. Of ``top1`` and ``macro_recall`` exactly; of ``map`` to first order on other images (the
        pseudo-values of the jackknife, as in its verdict), and exactly on these.
    """
    labels, given = np.asarray(truth), np.asarray(answers)
    if measure == "map":
        rows = []
        for logits in given.astype(np.float64):
            influence = influence_on_map(logits, labels)
            rows.append(float(np.nanmean(average_precision(logits, labels))) + influence - influence.mean())
        return np.stack(rows), np.zeros(len(labels), np.int64)
    right = (given == labels).astype(np.float64)
    if measure == "top1":
        return right, np.zeros(len(labels), np.int64)
    return right, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def rank_students(
    values: ArrayLike,
    strata: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> list[Standing]:
    """Rank R students over the same seeds and the same test images.

    Each draw takes images (whole groups) with replacement, *the same for all students and seeds*, and S - 1 seeds with
    replacement (the one, if there is one), the same for all students; so it is drawn as in
    :func:`sapling.evaluation.bootstrap.bootstrap_interval`. Seeds are no blocks: students are ranked by their means
    over the drawn seeds, not within each.

    Args:
        values: ``[R,S,n]`` of :func:`image_scores`; more is better.
        strata: ``[n]`` numbers; a stratum without a drawn image is left out of that draw's mean.
        groups: ``[n]``, images that belong together, or None.
        weights: ``[n]``, of the images within their stratum, as in the verdict; None for all alike.
        num_draws: D.
        seed: of the draws.

    Raises:
        UsageError: shapes that do not fit.
    """
    table, parts = np.asarray(values, dtype=np.float64), np.asarray(strata)
    if table.ndim != 3 or not table.size or parts.shape != table.shape[2:]:
        raise UsageError(
            f"The values have shape {list(table.shape)}, the strata {list(parts.shape)}.",
            allowed="values [students, seeds, images] and strata [images]",
        )
    num_seeds, num_images = table.shape[1:]
    members = np.arange(num_images) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    num_groups = int(members.max()) + 1
    order = np.argsort(parts, kind="stable")
    starts = np.flatnonzero(np.diff(parts[order], prepend=parts[order[0]] - 1))
    table, members = table[..., order], members[order]
    base = np.ones(num_images) if weights is None else np.asarray(weights, dtype=np.float64)[order]

    def scores(weights: Array) -> Array:
        """``[R,S]``."""
        totals = np.add.reduceat(weights, starts)
        sums = np.add.reduceat(table * weights, starts, axis=-1)
        there = totals > 0
        return np.asarray((sums[..., there] / totals[there]).mean(-1))

    rng = np.random.default_rng(seed)
    drawn = np.empty((num_draws, len(table)))
    for k in range(num_draws):
        images = rng.integers(0, num_groups, num_groups)
        seeds = rng.integers(0, num_seeds, max(num_seeds - 1, 1))
        counts = np.bincount(images, minlength=num_groups).astype(np.float64)
        drawn[k] = scores(counts[members] * base)[:, seeds].mean(-1)
    observed = scores(base).mean(-1)
    ranks, best = _ranks(drawn), _best(drawn)
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0)
    return [
        Standing(float(r), float(m), float(a), float(b), float(p))
        for r, m, a, b, p in zip(_ranks(observed[None])[0], ranks.mean(0), low, high, best, strict=True)
    ]


def _ranks(scores: Array) -> Array:
    """``[D,R]``: 1 is the best."""
    return np.asarray(rankdata(-np.round(scores, _DIGITS), axis=1), dtype=np.float64)


def _best(scores: Array) -> Sequence[float]:
    """``[R]``: share of the draws in which each is the best."""
    rounded = np.round(scores, _DIGITS)
    first = rounded == rounded.max(1, keepdims=True)
    shares: list[float] = (first / first.sum(1, keepdims=True)).mean(0).tolist()
    return shares
