"""The teacher gate for images with several labels: is it above chance, and are its labels in our order?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm, rankdata

from sapling.teachers.gate import NUM_PERMUTATIONS, SIGNIFICANCE, TOO_FEW, Check, GateResult

Floats = NDArray[np.float64]


def check_label_answers(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> GateResult:
    """Judge a teacher of several labels per image by its finite logits on validation images.

    Args:
        logits: ``[n,K]``.
        targets: ``[n,K]`` 0 or 1.

    Returns:
        Checks ``finite answers``, ``above chance`` and ``class order``.
    """
    finite = bool(np.isfinite(logits).all())
    checks = [Check("finite answers", finite, "all logits are finite" if finite else "some logits are NaN or infinite")]
    if finite:
        checks += [_above_chance(logits, targets), _in_order(logits, targets)]
    return GateResult(tuple(checks))


def mean_precision(order: NDArray[np.int64], targets: NDArray[np.int64]) -> float:
    """Mean average precision of rankings ``[n,K]`` (positions of images, the best first); ties as they lie."""
    occurs = targets.sum(0) > 0
    ranked = np.take_along_axis(targets, order, 0)[:, occurs]
    precision = np.cumsum(ranked, 0) / np.arange(1, len(ranked) + 1)[:, None]
    return float(((precision * ranked).sum(0) / ranked.sum(0)).mean()) if occurs.any() else 0.0


def _above_chance(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Check:
    """Permutation test on mean average precision: the label sets of images are dealt out anew, as whole sets."""
    rng = np.random.default_rng(0)
    num = len(targets)
    # Equal scores must not be ranked by the order of the images, which may follow their labels.
    shuffled = rng.permutation(num)
    order = shuffled[np.argsort(-logits[shuffled], axis=0, kind="stable")]
    found = mean_precision(order, targets)
    dealt = [targets[rng.permutation(num)] for _ in range(NUM_PERMUTATIONS)]
    chance = np.array([mean_precision(order, permuted) for permuted in dealt])
    perfect = sum(bool((permuted == targets).all()) for permuted in dealt)
    detail = f"mean average precision {100 * found:.1f} % on {num} validation images; "
    detail += f"answers at random: {100 * chance.mean():.1f} %"
    if (perfect + 1) / (NUM_PERMUTATIONS + 1) > SIGNIFICANCE:
        return Check(TOO_FEW, False, f"{detail}; on so few not even a perfect teacher could be told from guessing")
    value = ((chance >= found).sum() + 1) / (NUM_PERMUTATIONS + 1)
    return Check("above chance", bool(value <= SIGNIFICANCE), detail)


def _in_order(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Check:
    """Is there a renaming of labels that ranks images clearly better, for two labels or more?

    The best renaming is found by assignment of areas under the ROC curve; a label counts as renamed when the other
    logit ranks its images better by more than chance (errors of Hanley and McNeil 1982, taken as independent, which
    asks for more than is needed).
    """
    positive, num = targets.sum(0).astype(np.float64), len(targets)
    known = np.flatnonzero((positive > 0) & (positive < num))
    if len(known) < 2:
        return Check("class order", True, "too few labels occur to look at it")
    there, missing = positive[known], num - positive[known]
    ranks = rankdata(logits[:, known], axis=0)
    area = (targets[:, known].T @ ranks - (there * (there + 1) / 2)[:, None]) / (there * missing)[:, None]
    variance = _variance(area, there[:, None], missing[:, None])
    rows, columns = linear_sum_assignment(-area)
    own = np.diag(area)
    limit = norm.isf(SIGNIFICANCE)
    moved = [
        int(known[i])
        for i, j in zip(rows, columns, strict=True)
        if i != j and area[i, j] - own[i] > limit * np.sqrt(variance[i, j] + variance[i, i])
    ]
    detail = f"mean area under the ROC curve {100 * own.mean():.1f} %"
    if moved:
        detail += f" as it is, {100 * area[rows, columns].mean():.1f} % if labels {moved} were renamed"
    return Check("class order", len(moved) < 2, detail)


def _variance(area: Floats, there: Floats, missing: Floats) -> Floats:
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (there - 1) * (first - area**2) + (missing - 1) * (second - area**2)
    return np.maximum(spread, 0) / (there * missing)
