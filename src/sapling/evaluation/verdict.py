"""The verdict: is the method better than its control, worse, or is no difference shown?

The statistics and their derivation are in ``crossed.py``, the simulated error rates in
``benchmarks/results/verdict_aa.json``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapling.errors import DataError, UsageError, nearest
from sapling.evaluation.bootstrap import Interval, bootstrap_interval
from sapling.evaluation.crossed import (
    IntervalFrom,
    Layout,
    Measure,
    Parts,
    make_layout,
    read,
    smallest_shown,
    take_apart,
    yardsticks,
)

__all__ = ["Interval", "Verdict", "bootstrap_interval", "compare", "holm", "primary_measure"]

AnyMeasure: TypeAlias = Measure | Literal["map"]
Outcome: TypeAlias = Literal["better", "worse", "no difference shown"]

OF = {"top1": "accuracy", "macro_recall": "mean recall per class", "map": "mean average precision"}
SEEDS_FOR_HEADLINES = 5
HOPELESS = 50.0  # points: a test that could show no smaller difference shows none
IMBALANCE_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison shows. Differences are shares in [-1,1], method minus control.

    Attributes:
        outcome: read off the interval: above 0, below 0, or around it.
        measure: ``top1``, ``macro_recall``, or ``map`` (mean average precision, several labels per image).
        difference: mean over seeds.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: of the interval.
        p_value: below ``1 - confidence`` exactly where the interval excludes 0.
        standard_error: the one behind the interval.
        degrees_of_freedom: of that standard error.
        num_seeds: S.
        num_images: n.
        num_groups: G; equals n where images do not come in groups.
        interval_from: which part of the model gave the interval.
        seed_differences: one difference per seed.
        detectable: the smallest true difference found four times in five: ``now``, with ``twice_the_seeds``
            and with ``endless_seeds`` (test images stay as they are). The last two are None with one seed,
            which cannot tell what seeds do. They are estimates, rough ones with two or three seeds.
        statement: the outcome in one sentence, in percentage points.
        scope: what the statement is conditional on.
    """

    outcome: Outcome
    measure: AnyMeasure
    difference: float
    low: float
    high: float
    confidence: float
    p_value: float
    standard_error: float
    degrees_of_freedom: float
    num_seeds: int
    num_images: int
    num_groups: int
    interval_from: IntervalFrom
    seed_differences: tuple[float, ...]
    detectable: dict[str, float | None]
    statement: str
    scope: str

    def as_dict(self) -> dict[str, Any]:
        """All attributes as JSON types."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **values,
            "seed_differences": list(self.seed_differences),
            "detectable": dict(self.detectable),
        }


def compare(
    control_correct: ArrayLike,
    method_correct: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    measure: Measure = "top1",
    confidence: float = 0.95,
    method_name: str = "the distilled student",
    control_name: str = "the same student trained alone",
) -> Verdict:
    """Compare a method with its control over the same seeds and the same test images.

    Where images come in groups every group counts alike, whatever its size (of ``macro_recall`` within each class).

    Args:
        control_correct: ``[S,n]`` 0 or 1 (or bool): was image ``i`` right under seed ``s``? ``[n]`` is one
            seed.
        method_correct: the same for the method; row ``s`` has the seed of the control's row ``s``.
        labels: ``[n]`` true classes; needed for ``macro_recall``.
        groups: ``[n]`` what images belong together (views of one tree), numbers or names; None if each
            stands alone.
        measure: declared before the test split is opened (see ``primary_measure``).
        confidence: of the interval.
        method_name: how the statement calls the method.
        control_name: how the statement calls the control.

    Raises:
        UsageError: shapes, values, measure or confidence cannot be used.
        DataError: there are no test images.
    """
    control, method = _check_table(control_correct, "control"), _check_table(method_correct, "method")
    if control.shape != method.shape:
        raise UsageError(
            f"The control has shape {list(control.shape)}, the method {list(method.shape)}.",
            allowed="the same seeds and the same test images for both",
        )
    if measure not in get_args(Measure):
        raise UsageError(
            f"The measure '{measure}' has no verdict.",
            allowed=", ".join(get_args(Measure)),
            remedy=nearest(str(measure), get_args(Measure)) or None,
        )
    check_confidence(confidence)
    layout = layout_of(control.shape[1], measure, labels, groups)
    parts, names = take_apart(method - control, layout), (method_name, control_name)
    return conclude(
        parts,
        measure,
        confidence,
        num_images=control.shape[1],
        has_groups=layout.num_groups < control.shape[1],
        is_uneven=layout.is_uneven,
        names=names,
    )


def layout_of(num_images: int, measure: Measure, labels: ArrayLike | None, groups: ArrayLike | None) -> Layout:
    """How test images make up the measure.

    Args:
        num_images: n.
        measure: what is compared.
        labels: ``[n]`` true classes; needed for ``macro_recall``.
        groups: ``[n]`` what images belong together, or None.

    Raises:
        UsageError: labels are missing, or labels or groups are not one per image.
    """
    if measure == "macro_recall" and labels is None:
        raise UsageError("Macro recall needs the labels of the test images.", remedy="pass labels=...")
    return make_layout(
        num_images,
        measure=measure,
        labels=check_column(labels, num_images, "labels") if measure == "macro_recall" else None,
        groups=check_column(groups, num_images, "groups"),
    )


def conclude(
    parts: Parts,
    measure: AnyMeasure,
    confidence: float,
    *,
    num_images: int,
    has_groups: bool,
    names: tuple[str, str],
    is_uneven: bool = False,
) -> Verdict:
    """Read the verdict off the parts of the variance.

    Args:
        parts: of one comparison.
        measure: what was compared.
        confidence: of the interval.
        num_images: n.
        has_groups: whether images come in groups.
        names: how the statement calls method and control.
        is_uneven: whether groups count other than their images would, which the statement then says.
    """
    num_seeds, num_groups = parts.num_seeds, parts.num_groups
    reading = read(parts, confidence)
    # From one image or group nothing can be said of others.
    half_width = float(reading.half_width) if num_groups > 1 else 2.0
    # Sums over groups may leave 1 by rounding.
    difference = float(np.clip(parts.difference, -1.0, 1.0))
    low, high = max(difference - half_width, -1.0), min(difference + half_width, 1.0)
    outcome: Outcome = "better" if low > 0 else "worse" if high < 0 else "no difference shown"

    detectable: dict[str, float | None] = {"now": 1.0, "twice_the_seeds": None, "endless_seeds": None}
    if num_groups > 1:
        # Where the yardsticks were overruled (hardly any image differs), the width itself is the limit.
        # More seeds do not lower it: it comes of the images.
        is_overruled = half_width > float(reading.widest)
        limit = half_width if is_overruled else 0.0
        most = 1.0  # no plan shows less than the one before it
        for plan, factor in (("now", 1.0), ("twice_the_seeds", 2.0), ("endless_seeds", math.inf)):
            if factor == 1.0 or num_seeds > 1:
                most = min(max(smallest_shown(parts, confidence, seed_factor=factor), limit), most)
                detectable[plan] = most
    counts = _Counts(num_seeds, num_images, num_groups, has_groups, is_uneven)
    return Verdict(
        outcome=outcome,
        measure=measure,
        difference=difference,
        low=low,
        high=high,
        confidence=confidence,
        p_value=float(reading.p_value) if num_groups > 1 else 1.0,
        standard_error=float(reading.standard_error),
        degrees_of_freedom=float(reading.degrees_of_freedom) if num_groups > 1 else 0.0,
        num_seeds=num_seeds,
        num_images=num_images,
        num_groups=num_groups,
        interval_from=yardsticks(parts)[int(reading.source)].source,
        seed_differences=tuple(float(x) for x in np.clip(parts.seed_differences, -1.0, 1.0)),
        detectable=detectable,
        statement=_statement(
            outcome,
            measure,
            (difference, low, high),
            confidence,
            counts,
            detectable["now"],
            names,
        ),
        scope=_scope(counts),
    )


def primary_measure(train_counts: Sequence[int] | NDArray[np.integer[Any]]) -> Measure:
    """Top-1 accuracy, or macro recall where the largest class has over 5 times the training images of the
    smallest.

    Args:
        train_counts: training images per class; a class without any counts as imbalance.
    """
    counts = np.asarray(train_counts)
    if counts.ndim != 1 or not counts.size or counts.min() < 0 or counts.max() <= 0:
        raise DataError(
            "There are no training images per class to choose the measure by.",
            where=f"counts {counts.tolist()}",
        )
    return "macro_recall" if counts.max() > IMBALANCE_LIMIT * counts.min() else "top1"


def holm(p_values: ArrayLike) -> list[float]:
    """P-values adjusted for several comparisons (Holm 1979), in the given order; compare each with ``1 -
    confidence``.

    Hand in *all* comparisons that were declared beforehand, not those that came out well.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any() or (values > 1).any():
        raise UsageError(f"These are no p-values: {values.tolist()}.", allowed="a list of numbers from 0 to 1")
    order = np.argsort(values, kind="stable")
    steps = values[order] * (len(values) - np.arange(len(values)))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


@dataclass(frozen=True, slots=True)
class _Counts:
    seeds: int
    images: int
    groups: int
    has_groups: bool
    is_uneven: bool

    def words(self) -> str:
        seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        images = f"{self.images:,} test image{'' if self.images == 1 else 's'}"
        within = f" in {self.groups:,} group{'' if self.groups == 1 else 's'}" if self.has_groups else ""
        return f"{seeds}, {images}{within}"


def _statement(
    outcome: Outcome,
    measure: AnyMeasure,
    interval: tuple[float, float, float],
    confidence: float,
    counts: _Counts,
    detectable: float | None,
    names: tuple[str, str],
) -> str:
    """Say it in one sentence that is true as printed: no bound is rounded to 0, the limit is rounded up."""
    difference, low, high = (100.0 * x for x in interval)
    edge = min(abs(low), abs(high))
    # As many decimals as it takes to see which side of 0 the interval lies on.
    digits = 1
    while outcome != "no difference shown" and digits < 6 and edge < 0.5 * 10.0**-digits:
        digits += 1
    unit = f"percentage points of {OF[measure]}{', groups counted alike' if counts.is_uneven else ''}"
    span = (
        f"{_signed(difference, digits)} {unit} ({100 * confidence:.4g} % interval {_signed(low, digits)} to "
        f"{_signed(high, digits)}; {counts.words()})"
    )
    method, control = names
    caveat = preliminary(counts.seeds)
    if outcome != "no difference shown":
        subject = f"{method[:1].upper()}{method[1:]}"
        if counts.seeds == 1:
            return f"With this one seed {method} is {outcome} than {control}: {span}; another may differ."
        return f"{subject} is {outcome} than {control}{caveat}: {span}."
    limit = math.ceil(round(1000.0 * (detectable or 1.0), 6)) / 10.0
    with_seeds = "with one seed" if counts.seeds == 1 else f"with {counts.seeds} seeds"
    if limit > HOPELESS:
        return f"No difference shown{caveat}: {span}; {with_seeds} and so few images this test can show none reliably."
    return f"No difference shown{caveat}: {span}; {with_seeds} this test can show differences above {limit:.1f} points."


def preliminary(num_seeds: int) -> str:
    """What a headline adds where there are several seeds, but too few for a claim; else empty."""
    few = 1 < num_seeds < SEEDS_FOR_HEADLINES
    return f", still preliminary (a firm claim needs {SEEDS_FOR_HEADLINES} seeds)" if few else ""


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _scope(counts: _Counts) -> str:
    place = "for this teacher and this split; other teachers or splits may give another answer"
    units = "groups of test images" if counts.has_groups else "test images"
    if counts.seeds == 1:
        return (
            f"Compares these two trained students only, {place}. The interval covers other {units} of the "
            "same kind but no other seeds, so it says nothing of the method in general."
        )
    few = "" if counts.seeds >= SEEDS_FOR_HEADLINES else f" Headline claims need {SEEDS_FOR_HEADLINES} seeds."
    return f"Holds {place}. The interval covers other seeds and other {units} of the same kind.{few}"


def _check_table(values: ArrayLike, name: str) -> NDArray[np.float64]:
    table = np.asarray(values)
    if table.ndim == 1:
        table = table[None]
    if table.ndim != 2:
        raise UsageError(f"The {name} has shape {list(table.shape)}.", allowed="[seeds, images]")
    if not table.size:
        raise DataError(f"The {name} has no answers to compare (shape {list(table.shape)}).")
    numbers = table.astype(np.float64)
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise UsageError(f"The {name} holds values other than 0 and 1.", allowed="1 where the answer is right, else 0")
    return numbers


def check_confidence(confidence: float) -> None:
    """Refuse what is no share from 0.5 to below 1.

    Raises:
        UsageError: it is none.
    """
    if not 0.5 <= confidence < 1.0:
        raise UsageError(f"The confidence is {confidence}.", allowed="a share from 0.5 to below 1, such as 0.95")


def check_column(values: ArrayLike | None, num_images: int, name: str) -> NDArray[np.int64] | None:
    """Any labels or names as numbers 0, 1, 2 ..

    Raises:
        UsageError: they are not one per image.
    """
    if values is None:
        return None
    column = np.asarray(values)
    if column.shape != (num_images,):
        raise UsageError(
            f"{num_images} test images, but {name} of shape {list(column.shape)}.",
            allowed="one per image",
        )
    return np.unique(column, return_inverse=True)[1].astype(np.int64)
