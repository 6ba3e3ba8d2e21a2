"""Many measures of several arms from one set of bootstrap draws: how high each stands, and what the method changed.

The same draws and the same intervals as :func:`sapling.evaluation.bootstrap.bootstrap_interval`; but each draw is made
once for all measures and arms, so that 10,000 test images take seconds and not minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapling.errors import UsageError
from sapling.evaluation.bootstrap import Interval, group_members, interval_from_draws
from sapling.evaluation.metrics import (
    binary_auc,
    check_logits,
    expected_calibration_error,
    label_ranks,
    log_probabilities,
)
from sapling.evaluation.multilabel import (
    area_under_roc,
    binary_cross_entropy,
    check_targets,
    f1_scores,
    probabilities_of,
)

Array = NDArray[np.float64]
Measures = Callable[[Array], Array]
LOSSES = ("nll", "bce")
"""Measures that may exceed 1."""
MIN_DRAWS = 0.5
"""Share of the draws in which a measure must be defined (an ROC curve needs both classes) to have an interval."""
_LARGE, _FEW_DRAWS = 50_000, 300


@dataclass(frozen=True, slots=True)
class Level:
    """A measure of one arm, mean over seeds, and its interval; no interval where too few draws define it."""

    value: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """JSON types: ``value``, ``low``, ``high``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Levels:
    """Measures by arm, and the differences method - control.

    Attributes:
        arms: arm -> measure -> its level.
        differences: measure -> interval of the difference; empty unless both arms were named.
    """

    arms: Mapping[str, Mapping[str, Level]]
    differences: Mapping[str, Interval]


def measure_levels(
    arms: Mapping[str, ArrayLike],
    truth: ArrayLike,
    *,
    compared: tuple[str, str] | None = None,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    num_draws: int | None = None,
    seed: int = 0,
) -> Levels:
    """Measures of each arm and of a difference, with crossed bootstrap intervals.

    One draw of images (or groups) and seeds serves all arms and measures. An arm with one seed, such as the teacher,
    has an interval over images only. Shares stay within [0,1], and differences within what the two levels allow, which
    matters with two or three seeds. The interval of ``worst_class_recall`` errs downwards: the worst of drawn classes
    is worse than the worst class.

    Args:
        arms: name to logits ``[S,n,K]``; S is the same for both arms of ``compared``.
        truth: ``[n]`` class numbers, or ``[n,K]`` 0 and 1 of images with several labels.
        compared: names of control and method.
        groups: ``[n]``, images that belong together, or None.
        confidence: of each interval.
        num_draws: default 1,000, and 300 where images (of several labels: images x labels) are more than 50,000.
        seed: of the draws.

    Returns:
        Of one class per image ``top1``, ``top5`` (K > 5), ``macro_f1``, ``macro_precision``, ``macro_recall``,
        ``worst_class_recall``, ``auc`` (K = 2), ``nll`` and ``ece``; of several labels ``macro_f1``, ``micro_f1``,
        ``auc``, ``bce`` and ``ece``.

    Raises:
        UsageError: shapes that do not fit.
        DataError: nothing to measure, or logits that are not finite.
    """
    labels = np.asarray(truth)
    tables = {name: np.asarray(logits) for name, logits in arms.items()}
    for name, table in tables.items():
        if table.ndim != 3 or table.shape[1] != len(labels) or not len(table):
            raise UsageError(
                f"the logits of {name} have shape {list(table.shape)}", allowed=f"[seeds, {len(labels)}, classes]"
            )
    if compared and len({tables[name].shape for name in compared}) != 1:
        raise UsageError(
            f"{compared[0]} has shape {list(tables[compared[0]].shape)}, {compared[1]} "
            f"{list(tables[compared[1]].shape)}",
            allowed="the same seeds and images for both",
        )
    num_classes = next(iter(tables.values())).shape[2]
    several = labels.ndim == 2
    names, measures = _of_labels(num_classes) if several else _of_classes(num_classes)
    pack = _pack_labels if several else _pack_classes
    packed = {name: np.stack([pack(x, labels, num_classes) for x in table]) for name, table in tables.items()}
    draws = num_draws or (_FEW_DRAWS if labels.size > _LARGE else 1000)
    drawn = _draw(packed, measures, group_members(len(labels), groups), draws, seed)
    every = np.arange(len(labels))
    observed = {name: np.stack([measures(seed_[every]) for seed_ in table]) for name, table in packed.items()}
    levels = {
        arm: {
            name: _level(drawn[arm][:, m], observed[arm][:, m], confidence, is_share=name not in LOSSES)
            for m, name in enumerate(names)
            if np.isfinite(observed[arm][:, m]).all()
        }
        for arm in packed
    }
    differences: dict[str, Interval] = {}
    if compared:
        gains = drawn[compared[1]] - drawn[compared[0]]
        seen = observed[compared[1]] - observed[compared[0]]
        for m, name in enumerate(names):
            kept = gains[np.isfinite(gains[:, m]), m]
            if np.isfinite(seen[:, m]).all() and len(kept) >= MIN_DRAWS * draws:
                control, method = (levels[arm].get(name) for arm in compared)
                gain = interval_from_draws(kept, seen[:, m], confidence)
                differences[name] = _possible(gain, control, method, is_share=name not in LOSSES)
    return Levels(levels, differences)


def _level(draws: Array, observed: Array, confidence: float, *, is_share: bool) -> Level:
    kept = draws[np.isfinite(draws)]
    if len(kept) < MIN_DRAWS * len(draws):
        return Level(float(observed.mean()), None, None)
    found = interval_from_draws(kept, observed, confidence)
    # its width is that of a t interval, which knows no bounds
    return Level(found.difference, max(found.low, 0.0), min(found.high, 1.0) if is_share else found.high)


def _possible(gain: Interval, control: Level | None, method: Level | None, *, is_share: bool) -> Interval:
    """A gain is no larger than what the control leaves up to 1, nor than the method's own level; and so is a loss."""
    if not control or not method:
        return gain
    if control.low is None or control.high is None or method.low is None or method.high is None:
        return gain
    most = 1.0 if is_share else np.inf
    return gain.within(max(-control.high, method.low - most), min(most - control.low, method.high))


def _draw(
    packed: Mapping[str, Array], measures: Measures, members: Sequence[Any] | NDArray[Any], num_draws: int, seed: int
) -> dict[str, Array]:
    """``[num_draws,M]`` by arm: means over the drawn seeds of the drawn images' measures."""
    rng = np.random.default_rng(seed)
    num_seeds = max(len(table) for table in packed.values())
    is_plain = isinstance(members, np.ndarray)
    rows: dict[str, list[Array]] = {name: [] for name in packed}
    for _ in range(num_draws):
        images = rng.integers(0, len(members), len(members))
        seeds = rng.integers(0, num_seeds, max(num_seeds - 1, 1))
        chosen = images if is_plain else np.concatenate([members[g] for g in images])
        for name, table in packed.items():
            own = seeds if len(table) == num_seeds else np.zeros(1, np.int64)
            by_seed = {int(s): measures(table[s, chosen]) for s in np.unique(own)}
            rows[name].append(np.mean([by_seed[int(s)] for s in own], axis=0))
    return {name: np.stack(found) for name, found in rows.items()}


def _pack_classes(logits: Array, labels: NDArray[Any], num_classes: int) -> Array:
    """``[n,6]``: answer, cross-entropy, confidence, rank of the truth, logit of class 1 - class 0, label."""
    scores, truth = check_logits(logits, labels, num_classes)
    log_p = log_probabilities(scores)
    own = np.take_along_axis(log_p, truth[:, None], 1)[:, 0]
    margin = scores[:, -1].astype(np.float64) - scores[:, 0]
    columns = (scores.argmax(1), -own, np.exp(log_p.max(1)), label_ranks(scores, truth), margin, truth)
    return np.stack([np.asarray(c, dtype=np.float64) for c in columns], 1)


def _of_classes(num_classes: int) -> tuple[list[str], Measures]:
    names = ["top1", "macro_f1", "macro_precision", "macro_recall", "worst_class_recall", "nll", "ece"]
    names += ["top5"] if num_classes > 5 else ["auc"] if num_classes == 2 else []

    def measures(values: Array) -> Array:
        answers, labels, right = values[:, 0].astype(np.int64), values[:, 5].astype(np.int64), values[:, 3] == 0
        actual = np.bincount(labels, minlength=num_classes).astype(np.float64)
        predicted = np.bincount(answers, minlength=num_classes)
        hits = np.bincount(labels[right], minlength=num_classes)
        there = actual > 0
        recall = hits[there] / actual[there]
        precision = hits[there] / np.maximum(predicted[there], 1)
        f1 = 2 * hits[there] / (actual + predicted)[there]
        found = [right.mean(), f1.mean(), precision.mean(), recall.mean(), recall.min(), values[:, 1].mean()]
        found.append(expected_calibration_error(values[:, 2], right))
        if num_classes > 5:
            found.append((values[:, 3] < 5).mean())
        elif num_classes == 2:
            auc = binary_auc(values[:, 4], labels)
            found.append(np.nan if auc is None else auc)
        return np.array(found, dtype=np.float64)

    return names, measures


def _pack_labels(logits: Array, targets: NDArray[Any], num_classes: int) -> Array:
    """``[n,2K+1]``: logits, targets, mean cross-entropy of the image."""
    scores, truth = check_targets(logits, targets, num_classes)
    loss = binary_cross_entropy(scores, truth).mean(1, keepdims=True)
    return np.concatenate([scores.astype(np.float64), truth.astype(np.float64), loss], axis=1)


def _of_labels(num_classes: int) -> tuple[list[str], Measures]:
    def measures(values: Array) -> Array:
        scores, truth = values[:, :num_classes], values[:, num_classes:-1]
        micro, macro = f1_scores(scores >= 0, truth)
        auc = area_under_roc(scores, truth)
        defined = auc[np.isfinite(auc)]
        ece = expected_calibration_error(probabilities_of(scores).ravel(), truth.ravel() > 0)
        return np.array([macro, micro, defined.mean() if len(defined) else np.nan, values[:, -1].mean(), ece])

    return ["macro_f1", "micro_f1", "auc", "bce", "ece"], measures
