"""The statistics behind the verdict: seeds and images as crossed random effects.

``d[s, i]`` is correct(method) - correct(control) for seed ``s`` and test image ``i``, each -1, 0 or 1. The
model is

    d[s, i] = difference + seed[s] + image[i] + residual[s, i]

with independent effects of variance A (seed), B (image) and E (residual). The mean over the whole table
then has variance

    A / S + B / n + E / (S n).                                                                  (1)

The two-way mean squares have the expectations

    MS_seed = n A + E        MS_image = S B + E        MS_res = E                              (2)

so that ``(MS_seed + MS_image - MS_res) / (S n)`` estimates (1) without bias. ``MS_image - MS_res`` may come
out negative and is then taken as 0. The three parts of (1) as they are used here:

    seeds    = MS_seed / (S n)                    estimates A / S + E / (S n), S - 1 degrees of freedom
    images   = max(MS_image - MS_res, 0) / (S n)  estimates B / n
    residual = MS_res / (S n)                     estimates E / (S n), which is ``seeds`` if A = 0

Half-width of the interval: the widest of

    crossed      t(df) sqrt(seeds + images)
                 df = (seeds + images)^2 / (seeds^2 / (S - 1) + images^2 / (n - 1))
    seed means   t(S - 1) sqrt(seeds)                  at S <= 3 only
    no effect    t(n - 1) sqrt(residual + images + one)

``crossed`` is Obuchowski-Rockette with Hillis' degrees of freedom (Hillis 2007), which leave the second
term of the denominator out; it matters only for a handful of images. ``crossed`` alone errs where seeds are
few: when MS_seed happens to be small, the standard error is too small *and* the degrees of freedom are too
many, at the same time. With many images and the least favourable share of A its error at a confidence of
95 % is 12.9, 7.9, 6.5, 5.9, 5.2 % for S = 2, 3, 4, 5, 10; with ``seed means`` it is 5.0 and 5.1 % for
S = 2 and 3. ``no effect`` says that A is no variance below 0: the seed means may agree by chance, but the
answer cannot be more certain than if seeds did not matter at all. ``one`` is one more cell of the table that
differs; it keeps the interval honest where almost no answer differs.

With one seed there is no A to estimate; the interval is ``t(n - 1) sqrt(MS_image / n + one)`` and concerns
this pair only.

Few differing images: if ``m`` images differ at all, a sign test cannot go below ``2 ** (1 - m)``, and
neither does the p-value here; then, and where every cell is the same, the interval is at least what the
exact binomial bound for ``n`` images leaves open.

Groups: where images come in groups (three views of one tree), a group is what is drawn, and counts once: ``d[s, g]`` is
the mean over its images. Ten views of one tree then say no more of other trees than one does.

Other measures and groups enter through influence values: a mean over images with weights ``w`` has
``n w[i] (d[s, i] - centre[i])`` in place of ``d[s, i]``, summed over the images of a group. So the seed
differences are exactly the differences of the measure: of ``top1`` the mean over groups of the mean over a group's
images, of ``macro_recall`` the mean over classes of the same within each class.

All functions take leading axes, so that the benchmark simulates thousands of comparisons with the code that
users run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Measure: TypeAlias = Literal["top1", "macro_recall"]
IntervalFrom: TypeAlias = Literal["crossed seeds and images", "seed means", "images of one pair"]
Array: TypeAlias = NDArray[np.float64]

WIDER_UP_TO_SEEDS = 3
"""With so many seeds or fewer, the plain t over seed means counts too, where it is wider."""

DETECTION_POWER = 0.8
"""A difference counts as one that a test "can show" if it is found four times in five."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How images make up the measure: weights, classes and groups. Independent of any answers.

    Attributes:
        weights: ``[n]``, sum 1: the measure is the weighted sum over images.
        strata: ``[n]`` class numbers whose means the influence is taken from; all 0 for ``top1``.
        lonely: ``[n]``, whether the class rests on one group alone, which has no spread around its own mean.
        stretch: ``[n]``, corrects the variance within a class for its estimated mean.
        order: ``[n]``, puts images of one group side by side.
        starts: ``[G]``, where each group begins in that order.
    """

    weights: Array
    strata: NDArray[np.int64]
    lonely: NDArray[np.bool_]
    stretch: Array
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @property
    def num_groups(self) -> int:
        """Number of independent units G: groups, or images where there are none."""
        return len(self.starts)

    @property
    def group_weights(self) -> Array:
        """``[G]``: total weight of each group."""
        return np.asarray(np.add.reduceat(self.weights[self.order], self.starts), dtype=np.float64)

    @property
    def is_plain(self) -> bool:
        """Whether the influence values are the differences themselves (up to a constant)."""
        return self.num_groups == len(self.weights) and not self.strata.any()

    @property
    def is_uneven(self) -> bool:
        """Whether groups of other sizes count other than their images would."""
        counts = np.bincount(self.strata)
        return not np.allclose(self.weights * len(counts) * counts[self.strata], 1.0, rtol=1e-9)


def make_layout(
    num_images: int,
    *,
    measure: Measure = "top1",
    labels: NDArray[np.int64] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Layout:
    """Describe the measure: ``top1`` weighs groups alike, ``macro_recall`` classes, and within a class its groups.

    Within a group (of one class) all images weigh alike.

    Args:
        num_images: n.
        measure: what is compared.
        labels: ``[n]`` class numbers; needed for ``macro_recall``.
        groups: ``[n]`` group numbers; None where each image stands for itself.
    """
    members = np.arange(num_images) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.argsort(members, kind="stable")
    changes = np.flatnonzero(np.diff(members[order])) + 1
    starts = np.concatenate([np.zeros(1, dtype=np.int64), changes]).astype(np.int64)
    strata = np.zeros(num_images, np.int64)
    if measure == "macro_recall":
        assert labels is not None
        strata = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    # The part of a group that lies in a class is a unit of that class.
    pairs, unit, sizes = np.unique(strata * len(starts) + members, return_inverse=True, return_counts=True)
    units = np.bincount(pairs // len(starts))[strata]
    weights = 1.0 / ((strata.max() + 1) * units * sizes[unit])
    # The mean of a class is estimated from so many units, which makes deviations from it too small by (u - 1) / u.
    stretch = np.ones(num_images)
    if measure == "macro_recall":
        stretch = np.where(units > 1, np.sqrt(units / np.maximum(units - 1, 1)), 1.0)
    return Layout(weights, strata, units == 1, stretch, order, starts)


@dataclass(frozen=True, slots=True)
class Parts:
    """Variance of the mean difference, taken apart; each array has the leading axes of the table.

    Attributes:
        difference: the mean over seeds of the measure's difference.
        seed_differences: ``[..., S]``.
        seeds: variance from seeds, residual included; 0 where there is one seed.
        images: variance from images.
        residual: the part of ``seeds`` that would remain if seeds had no effect.
        one: variance of one more differing cell.
        num_differing: groups in which any image differs under any seed.
        is_constant: every cell of the table is the same.
        num_seeds: S.
        num_groups: G.
        effective_groups: how many equally weighted groups would carry as much.
    """

    difference: Array
    seed_differences: Array
    seeds: Array
    images: Array
    residual: Array
    one: float
    num_differing: NDArray[np.int64]
    is_constant: NDArray[np.bool_]
    num_seeds: int
    num_groups: int
    effective_groups: float


def mean_squares(table: Array) -> tuple[Array, Array, Array]:
    """Two-way mean squares (seed, image, residual) of ``[..., S, G]``; 0 where there is one row or column
    only.
    """
    num_seeds, num_groups = table.shape[-2:]
    rows, columns = table.mean(-1), table.mean(-2)
    grand = rows.mean(-1)
    total = np.einsum("...sn,...sn->...", table, table) - num_seeds * num_groups * grand**2
    seed = num_groups * ((rows - grand[..., None]) ** 2).sum(-1)
    image = num_seeds * ((columns - grand[..., None]) ** 2).sum(-1)
    residual = total - seed - image
    # The subtraction leaves rounding noise where the true value is 0.
    residual = np.where(residual > 1e-9 * np.maximum(total, 1e-9), residual, 0.0)
    spare_seeds, spare_groups = max(num_seeds - 1, 1), max(num_groups - 1, 1)
    return seed / spare_seeds, image / spare_groups, residual / (spare_seeds * spare_groups)


def take_apart(differences: NDArray[np.generic], layout: Layout) -> Parts:
    """Estimate the parts of the variance from ``d [..., S, n]`` (-1, 0 or 1)."""
    d = np.asarray(differences, dtype=np.float64)
    num_groups = layout.num_groups
    differs = (d != 0).any(-2)
    if layout.is_plain:
        seed_differences, table, num_differing = d.mean(-1), d, differs.sum(-1)
    else:
        seed_differences = d @ layout.weights
        members = layout.strata[:, None] == np.arange(layout.strata.max() + 1)
        shares = layout.weights[:, None] * members
        centre = ((d @ shares).mean(-2) / shares.sum(0))[..., layout.strata]
        # One image or group has no spread around its own mean: take it around the mean of all.
        centre = np.where(layout.lonely, seed_differences.mean(-1)[..., None], centre)
        influence = layout.weights * layout.stretch * (d - centre[..., None, :])
        table = num_groups * np.add.reduceat(influence[..., layout.order], layout.starts, axis=-1)
        num_differing = np.add.reduceat(differs[..., layout.order], layout.starts, axis=-1).astype(bool).sum(-1)
    is_constant = np.asarray(d.max((-2, -1)) == d.min((-2, -1)))
    return parts_of(seed_differences, table, layout.group_weights, num_differing, is_constant)


def parts_of(
    seed_differences: Array,
    table: Array,
    group_weights: Array,
    num_differing: NDArray[np.int64],
    is_constant: NDArray[np.bool_],
) -> Parts:
    """Estimate the parts of the variance from a table whose mean over groups varies as the measure does.

    Args:
        seed_differences: ``[..., S]`` differences of the measure.
        table: ``[..., S, G]`` influence values of the groups, in units of the measure; rows need no mean.
        group_weights: ``[G]`` share of the measure that rests on each group.
        num_differing: groups in which any image differs under any seed.
        is_constant: whether every cell is the same.
    """
    num_seeds, num_groups = table.shape[-2:]
    _, ms_image, ms_residual = mean_squares(table)
    if num_seeds > 1:
        seeds = np.asarray(seed_differences.var(-1, ddof=1) / num_seeds, dtype=np.float64)
        images = np.maximum(ms_image - ms_residual, 0.0) / (num_seeds * num_groups)
        residual = ms_residual / (num_seeds * num_groups)
    else:
        images = ms_image / num_groups
        seeds = residual = np.zeros_like(images)
    squares = float((group_weights**2).sum())
    return Parts(
        difference=np.asarray(seed_differences.mean(-1)),
        seed_differences=seed_differences,
        seeds=np.where(seeds > 1e-18, seeds, 0.0),
        images=images,
        residual=residual,
        one=squares / num_groups / num_seeds**2,
        num_differing=np.asarray(num_differing, dtype=np.int64),
        is_constant=is_constant,
        num_seeds=num_seeds,
        num_groups=num_groups,
        effective_groups=1.0 / squares,
    )


@dataclass(frozen=True, slots=True)
class Yardstick:
    """One candidate for the interval: a standard error and its degrees of freedom."""

    standard_error: Array
    degrees_of_freedom: Array
    source: IntervalFrom


def yardsticks(parts: Parts) -> list[Yardstick]:
    """List the candidates of the module's docstring; the widest counts."""
    spare_seeds, spare_groups = parts.num_seeds - 1, max(parts.num_groups - 1, 1)
    many = np.full_like(parts.images, spare_groups)
    if spare_seeds == 0:
        return [Yardstick(np.sqrt(parts.images + parts.one), many, "images of one pair")]
    variance = parts.seeds + parts.images
    spread = parts.seeds**2 / spare_seeds + parts.images**2 / spare_groups
    freedom = np.divide(variance**2, spread, out=many.copy(), where=spread > 0)
    found = [Yardstick(np.sqrt(variance), freedom, "crossed seeds and images")]
    if parts.num_seeds <= WIDER_UP_TO_SEEDS:
        few = np.full_like(parts.images, spare_seeds)
        found.append(Yardstick(np.sqrt(parts.seeds), few, "seed means"))
    no_effect = np.sqrt(parts.residual + parts.images + parts.one)
    found.append(Yardstick(no_effect, many, "crossed seeds and images"))
    return found


@dataclass(frozen=True, slots=True)
class Reading:
    """What the yardsticks say; each array has the leading axes of the table.

    Attributes:
        half_width: half the width of the interval.
        widest: what the yardsticks say of it; less than ``half_width`` only where hardly any image differs.
        p_value: below ``1 - confidence`` exactly where the interval excludes 0.
        standard_error: of the yardstick that counts.
        degrees_of_freedom: of the yardstick that counts.
        source: number of the yardstick that counts.
    """

    half_width: Array
    widest: Array
    p_value: Array
    standard_error: Array
    degrees_of_freedom: Array
    source: NDArray[np.int64]


def unseen(parts: Parts, confidence: float) -> float:
    """Bound the share of images that may behave otherwise although none of these did (exact binomial)."""
    return float(1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / max(parts.effective_groups, 1.0)))


def read(parts: Parts, confidence: float) -> Reading:
    """Interval and p-value of the difference."""
    found = yardsticks(parts)
    size = np.abs(parts.difference)
    errors = np.stack([y.standard_error for y in found])
    freedom = np.stack([y.degrees_of_freedom for y in found])
    widths = errors * np.asarray(stats.t.isf((1.0 - confidence) / 2.0, freedom), dtype=np.float64)
    ratio = np.divide(size, errors, out=np.full_like(errors, np.inf), where=errors > 0)
    ratio = np.where(size == 0, 0.0, ratio)
    p_value = 2.0 * np.asarray(stats.t.sf(ratio, freedom), dtype=np.float64).max(0)
    source = widths.argmax(0)
    half_width = widths.max(0)

    # Where every cell is the same, weights tell how many images that is worth.
    telling = np.where(parts.is_constant, parts.effective_groups, parts.num_differing)
    telling = np.where(parts.num_differing == 0, 0, telling)
    sign_test = np.minimum(2.0 ** (1.0 - np.minimum(telling, 1000)), 1.0)
    p_value = np.maximum(p_value, sign_test)
    open_share = unseen(parts, confidence)
    too_few = sign_test > 1.0 - confidence
    half_width = np.where(too_few, np.maximum(half_width, np.maximum(size, open_share)), half_width)
    # All cells are +1 (or -1): those that we did not see may be the opposite, which counts twice.
    uniform = np.where(size > 0, 2.0 * open_share, open_share)
    half_width = np.where(parts.is_constant, np.maximum(half_width, uniform), half_width)
    pick = source[None]
    return Reading(
        half_width=half_width,
        widest=widths.max(0),
        p_value=np.minimum(p_value, 1.0),
        standard_error=np.take_along_axis(errors, pick, 0)[0],
        degrees_of_freedom=np.take_along_axis(freedom, pick, 0)[0],
        source=np.asarray(source, dtype=np.int64),
    )


def standard_errors_to_show(degrees_of_freedom: float, confidence: float, power: float = DETECTION_POWER) -> float:
    """How many standard errors a true difference must measure to be found with this power by a t-test."""
    critical = float(stats.t.isf((1.0 - confidence) / 2.0, degrees_of_freedom))
    # The standard error is itself estimated: average over 500 equally likely values of it (chi-square quantiles).
    shares = (np.arange(500) + 0.5) / 500
    noise = np.sqrt(special.gammaincinv(degrees_of_freedom / 2.0, shares) * 2.0 / degrees_of_freedom)
    low, high = 0.0, 2.0 * critical + 10.0
    for _ in range(50):
        middle = (low + high) / 2.0
        if special.ndtr(middle - critical * noise).mean() < power:
            low = middle
        else:
            high = middle
    return high


def smallest_shown(parts: Parts, confidence: float, *, seed_factor: float = 1.0) -> float:
    """Estimate the smallest true difference found four times in five, with ``seed_factor`` times the seeds.

    Takes the estimated parts for the true ones; a single comparison (no leading axes). An infinite factor
    leaves the images alone.
    """
    if np.isinf(seed_factor):
        errors = standard_errors_to_show(max(parts.num_groups - 1, 1), confidence)
        return max(errors * float(np.sqrt(parts.images)), unseen(parts, confidence))
    planned = Parts(
        difference=parts.difference,
        seed_differences=parts.seed_differences,
        seeds=parts.seeds / seed_factor,
        images=parts.images,
        residual=parts.residual / seed_factor,
        one=parts.one / seed_factor**2,
        num_differing=parts.num_differing,
        is_constant=parts.is_constant,
        num_seeds=round(parts.num_seeds * seed_factor),
        num_groups=parts.num_groups,
        effective_groups=parts.effective_groups,
    )
    found = (
        standard_errors_to_show(float(y.degrees_of_freedom), confidence) * float(y.standard_error)
        for y in yardsticks(planned)
    )
    return max(found)
