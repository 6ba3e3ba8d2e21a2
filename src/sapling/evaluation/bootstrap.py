"""Crossed bootstrap: intervals without verdict for measures that are no mean over images (macro F1, ECE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sapling.errors import UsageError, nearest
from sapling.evaluation.crossed import WIDER_UP_TO_SEEDS
from sapling.evaluation.metrics import (
    check_logits,
    confusion_matrix,
    expected_calibration_error,
    log_probabilities,
    macro_scores,
)

Statistic = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference (method - control) and its interval, in the unit of the measure."""

    difference: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """JSON types: ``difference``, ``low``, ``high``."""
        return asdict(self)

    def within(self, lowest: float, highest: float) -> Interval:
        """The part that is possible: widths are those of t intervals, which know no bounds."""
        return Interval(self.difference, max(self.low, lowest), min(self.high, highest))


def bootstrap_interval(
    statistic: Statistic,
    control: ArrayLike,
    method: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over seeds of ``statistic(method) - statistic(control)``.

    Each draw takes images (whole groups) with replacement, *the same for all seeds and both arms*, and
    seeds with replacement, of which control and method stay together. It draws one seed less than there
    are, which makes the variance between seeds come out right (Rao and Wu 1988; drawing all S of them
    loses the share 1 / S of it). Means of so few seeds have no tails, and a few seeds say little of their
    own variance: the quantiles give the interval its shape, and its width is that of a t interval with the
    standard deviation of the draws and Satterthwaite's degrees of freedom; at S <= 3 that of the plain t over
    seeds, where it is wider, as in the verdict. The residual between seeds and
    images is counted more than once (Owen 2007), so the interval is rather too wide where test images are
    few. With one seed only images are drawn, and the quantiles count as they are.

    Args:
        statistic: ``(values [m,...], labels [m]) -> float``.
        control: ``[S,n,...]`` what the statistic needs of each image, such as predictions.
        method: the same for the method.
        labels: ``[n]``.
        groups: ``[n]``, images that belong together, or None.
        confidence: of the interval.
        num_draws: number of bootstrap draws.
        seed: of the draws.
    """
    ours, theirs, truth = np.asarray(method), np.asarray(control), np.asarray(labels)
    if ours.shape != theirs.shape or ours.ndim < 2 or ours.shape[1:2] != truth.shape or not ours.size:
        raise UsageError(
            f"Control {list(theirs.shape)}, method {list(ours.shape)}, labels {list(truth.shape)}: no fit.",
            allowed="control and method [seeds, images, ...] and labels [images]",
        )
    num_seeds, num_images = ours.shape[:2]
    members = group_members(num_images, groups)

    def gains(chosen: NDArray[np.int64], seeds: Sequence[int]) -> dict[int, float]:
        part = truth[chosen]
        return {s: statistic(ours[s, chosen], part) - statistic(theirs[s, chosen], part) for s in seeds}

    observed = np.array(list(gains(np.arange(num_images), range(num_seeds)).values()))
    draws = np.empty(num_draws)
    rng = np.random.default_rng(seed)
    for k in range(num_draws):
        drawn = rng.integers(0, len(members), len(members))
        seeds = rng.integers(0, num_seeds, max(num_seeds - 1, 1))
        chosen = drawn if groups is None else np.concatenate([members[g] for g in drawn])
        by_seed = gains(chosen, sorted({int(s) for s in seeds}))
        draws[k] = np.mean([by_seed[int(s)] for s in seeds])
    return interval_from_draws(draws, observed, confidence)


def interval_from_draws(draws: NDArray[np.float64], observed: NDArray[np.float64], confidence: float) -> Interval:
    """The interval that draws give, as :func:`bootstrap_interval` describes it.

    Args:
        draws: ``[D]``, the statistic of each draw, a mean over S - 1 seeds (over the one, if there is one).
        observed: ``[S]``, the statistic of each seed on all images.
        confidence: of the interval.
    """
    difference, num_seeds = float(observed.mean()), len(observed)
    tail = (1.0 - confidence) / 2.0
    low, high = (float(q) for q in np.quantile(draws, [tail, 1.0 - tail]))
    stretch = 1.0
    if num_seeds > 1 and high > low:
        from_seeds = float(observed.var(ddof=1)) / num_seeds
        variance = max(float(draws.var()), from_seeds)
        freedom = (num_seeds - 1) * (variance / from_seeds) ** 2 if from_seeds > 0 else np.inf
        half_width = float(stats.t.isf(tail, freedom)) * variance**0.5
        if num_seeds <= WIDER_UP_TO_SEEDS:
            half_width = max(half_width, float(stats.t.isf(tail, num_seeds - 1)) * from_seeds**0.5)
        stretch = half_width / ((high - low) / 2)
    return Interval(
        difference,
        min(difference + stretch * (low - difference), difference),
        max(difference + stretch * (high - difference), difference),
    )


def metric_intervals(
    control_logits: ArrayLike,
    method_logits: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    measures: Sequence[str] = ("macro_f1", "nll", "ece"),
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Crossed bootstrap intervals of several measures; those of shares stay within [-1,1].

    Args:
        control_logits: ``[S,n,K]``.
        method_logits: ``[S,n,K]``.
        labels: ``[n]``.
        num_classes: K.
        measures: names out of ``macro_f1``, ``macro_precision``, ``macro_recall``, ``nll``, ``ece`` and
            ``top1``.
        groups: ``[n]``, images that belong together, or None.
        confidence: of each interval.
        num_draws: number of bootstrap draws.
        seed: of the draws, the same for all measures.
    """
    table = _statistics(num_classes)
    for name in measures:
        if name not in table:
            raise UsageError(
                f"No interval is known for the measure '{name}'.",
                allowed=", ".join(sorted(table)),
                remedy=nearest(name, table) or None,
            )
    control = np.stack([_condense(x, labels, num_classes) for x in np.asarray(control_logits)])
    method = np.stack([_condense(x, labels, num_classes) for x in np.asarray(method_logits)])
    how: dict[str, Any] = {"groups": groups, "confidence": confidence, "num_draws": num_draws, "seed": seed}
    found = {name: bootstrap_interval(table[name], control, method, labels, **how) for name in measures}
    return {name: gain if name == "nll" else gain.within(-1.0, 1.0) for name, gain in found.items()}


def group_members(num_images: int, groups: ArrayLike | None) -> list[NDArray[np.int64]] | NDArray[np.int64]:
    """Positions of the images of each group ``[G]``; an array where each image stands for itself."""
    if groups is None:
        return np.arange(num_images)
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    return [part.astype(np.int64) for part in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)]


def _condense(logits: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.float64]:
    """``[n,3]``: predicted class, negative log-likelihood and confidence; all that the statistics need."""
    scores, truth = check_logits(logits, labels, num_classes)
    log_p = log_probabilities(scores)
    own = np.take_along_axis(log_p, truth[:, None], 1)[:, 0]
    return np.stack([scores.argmax(1).astype(np.float64), -own, np.exp(log_p.max(1))], 1)


def _statistics(num_classes: int) -> dict[str, Statistic]:
    def macro(position: int) -> Statistic:
        def score(values: NDArray[Any], labels: NDArray[Any]) -> float:
            return macro_scores(confusion_matrix(values[:, 0].astype(np.int64), labels, num_classes))[position]

        return score

    return {
        "top1": lambda values, labels: float((values[:, 0] == labels).mean()),
        "nll": lambda values, labels: float(values[:, 1].mean()),
        "ece": lambda values, labels: expected_calibration_error(values[:, 2], values[:, 0] == labels),
        "macro_precision": macro(0),
        "macro_recall": macro(1),
        "macro_f1": macro(2),
    }
