"""The teacher gate: nothing is trained on a teacher that is no good.

Each check looks for one mistake that every other toolkit trains on without a word: another number of classes,
a head that was never trained, classes in another order. (Preprocessing has a module of its own.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from sapling.errors import GateError, ModelError

NUM_PERMUTATIONS = 999
SIGNIFICANCE = 0.01
ALONE, KNOWS_BELOW, SURE_BELOW = 0.65, 0.85, 0.9
"""Of a trained head: share of classes with a most frequent name of their own; shares of log K that its mean negative
log-likelihood and entropy stay below (fresh heads: above 0.9 and 0.97 in benchmarks/gate.py)."""
CLEARLY = 3
"""So many times as many images of the renamed classes must be right."""
TOO_FEW = "enough validation images"
MORE_TRAINING = "--teacher-epochs with a larger number, a smaller --batch-size, or another --teacher"
FAULTS = {
    "finite answers": ("broken weights", "another --teacher"),
    "class order": (
        "permuted class order",
        "give the data the class names and order that the teacher was trained on (classes.txt beside its weights)",
    ),
    "preprocessing": (
        "wrong preprocessing",
        "correct input_size, mean and std under pretrained_cfg in the teacher's config.json",
    ),
    TOO_FEW: ("too few validation images", "more images, or a larger share of them: --set data.val_share=0.3"),
    "above chance": ("random head, or hardly trained", MORE_TRAINING),
}
"""Name of a check to what a failure is called, and what to do; the first explains those below it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the gate.

    Attributes:
        name: what was checked.
        passed: the answer.
        detail: the figures behind it.
        mended: accuracy that the teacher would have without the mistake, where the check can tell.
    """

    name: str
    passed: bool
    detail: str
    mended: float | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """All checks of one teacher."""

    checks: tuple[Check, ...]
    overridden: bool = False

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(c.passed for c in self.checks)

    def joined(self, check: Check) -> GateResult:
        """With one more check. Of two explanations of the same bad answers the one that mends more is kept."""
        rivals = [c for c in self.checks if not c.passed and c.mended is not None and not check.passed]
        if check.mended is None or not rivals:
            return GateResult((*self.checks, check), self.overridden)
        best = max((*rivals, check), key=lambda c: c.mended or 0.0)
        told = [
            replace(c, passed=True, detail=f"{c.detail}; {best.name} explains more")
            if c is not best and (c is check or c in rivals)
            else c
            for c in (*self.checks, check)
        ]
        return GateResult(tuple(told), self.overridden)

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``."""
        checks = [asdict(c) for c in self.checks]
        return {"passed": self.passed, "overridden": self.overridden and not self.passed, "checks": checks}


def check_classes(teacher_classes: Sequence[str], classes: Sequence[str], *, where: str) -> None:
    """Refuse a teacher of other classes before it is run.

    A card that names no classes (numbers stand for them) is judged by their count here, and by its answers later.

    Args:
        teacher_classes: names in the order of the teacher's logits.
        classes: names in the order of the data's labels.
        where: path of the teacher, for the message.

    Raises:
        GateError: another number of classes, other names, or another order.
    """
    if len(teacher_classes) != len(classes):
        raise GateError(
            f"class count: the teacher answers with {len(teacher_classes)} classes, the data has {len(classes)}",
            where=where,
            remedy="train a teacher on these classes: sapling train DATA --model resnet18",
        )
    if list(teacher_classes) == list(classes):
        return
    if list(teacher_classes) == [str(number) for number in range(len(classes))]:
        return
    if sorted(teacher_classes) == sorted(classes):
        first = next(i for i, (a, b) in enumerate(zip(teacher_classes, classes, strict=True)) if a != b)
        raise GateError(
            f"class order: the teacher's class {first} is {teacher_classes[first]!r}, the data's is {classes[first]!r}",
            where=where,
            remedy="the names are the same but in another order; use the folder names that the teacher was trained on",
        )
    unknown = [c for c in teacher_classes if c not in set(classes)]
    raise GateError(
        f"class names: the teacher knows {', '.join(map(repr, unknown[:3]))}, which the data has not",
        where=where,
        remedy="give the data whose classes the teacher was trained on, or train a teacher here",
    )


def check_answers(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> GateResult:
    """Judge a teacher by its logits on validation images.

    Args:
        logits: ``[n,K]``.
        labels: ``[n]``.

    Returns:
        Checks ``finite answers``, ``above chance`` and ``class order``.
    """
    if len(labels) == 0:
        raise ModelError("there are no validation images to check the teacher on", remedy="raise data.val_share")
    finite = bool(np.isfinite(logits).all())
    checks = [Check("finite answers", finite, "all logits are finite" if finite else "some logits are NaN or infinite")]
    if not finite:
        return GateResult(tuple(checks))
    num_classes = logits.shape[1]
    predicted = logits.argmax(1)
    chance = _above_chance(predicted, labels)
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    order, names = _in_order(confusion)
    if not order.passed and not _knows(logits, names[labels], confusion):
        # A fresh head on a trained body gives each class some name of its own, too, but is sure of none.
        chance = replace(chance, passed=False, detail=f"{chance.detail}; classes get names at random")
        order = replace(order, passed=True)
    return GateResult((*checks, chance, order))


def _above_chance(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> Check:
    """Permutation test: do the answers have anything to do with the labels?

    Unlike a threshold on accuracy it is fair to unequal classes: always answering the largest class never passes,
    and a teacher that knows the small ones does.
    """
    rng = np.random.default_rng(0)
    num = len(labels)
    hits = int((predicted == labels).sum())
    chance = np.array([(rng.permutation(predicted) == labels).sum() for _ in range(NUM_PERMUTATIONS)])
    best = np.array([(rng.permutation(labels) == labels).sum() for _ in range(NUM_PERMUTATIONS)])
    at_random = 100 * chance.mean() / num
    detail = f"{100 * hits / num:.1f} % of {num} validation images; answers given at random: {at_random:.1f} %"
    if ((best >= num).sum() + 1) / (NUM_PERMUTATIONS + 1) > SIGNIFICANCE:
        return Check(TOO_FEW, False, f"{detail}; on so few not even a perfect teacher could be told from guessing")
    value = ((chance >= hits).sum() + 1) / (NUM_PERMUTATIONS + 1)
    return Check("above chance", bool(value <= SIGNIFICANCE), detail)


def _in_order(confusion: NDArray[np.int64]) -> tuple[Check, NDArray[np.int64]]:
    """Is there a renaming of classes that fits clearly better, in two classes or more?

    The best renaming is found by assignment; a class counts as renamed when its images go to the other name more
    often than to its own by a sign test. Gives the check, and the best name of each class.
    """
    total = max(int(confusion.sum()), 1)
    accuracy = float(np.trace(confusion)) / total
    rows, columns = linear_sum_assignment(-confusion)
    renamed = float(confusion[rows, columns].sum()) / total
    moved = [
        int(row)
        for row, column in zip(rows, columns, strict=True)
        if row != column
        and confusion[row, column] > confusion[row, row]
        and binomtest(
            int(confusion[row, column]), int(confusion[row, column] + confusion[row, row]), alternative="greater"
        ).pvalue
        < SIGNIFICANCE
    ]
    before, after = (int(sum(confusion[row, column[row]] for row in moved)) for column in (range(len(rows)), columns))
    # Classes that are merely alike change places, too, but then hardly more is right.
    if after < CLEARLY * before:
        moved = []
    wording = f"{100 * accuracy:.1f} %"
    if moved:
        wording += f" as it is, {100 * renamed:.1f} % if classes {moved} were renamed"
    return Check("class order", len(moved) < 2, wording, renamed if moved else None), columns


def _knows(logits: NDArray[np.float32], labels: NDArray[np.int64], confusion: NDArray[np.int64]) -> bool:
    """Whether a head was trained, on labels renamed as fits best.

    A trained one is right or at least sure; a fresh one is sure of nothing, and maps classes to names at random,
    several to one.
    """
    seen = confusion[confusion.sum(1) > 0]
    names = seen.argmax(1)
    alone = float((np.bincount(names, minlength=confusion.shape[1])[names] == 1).mean())
    scores = logits.astype(np.float64)
    scores -= scores.max(1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    unsure = np.log(logits.shape[1])
    nll = -log_p[np.arange(len(labels)), labels].mean()
    entropy = -(np.exp(log_p) * log_p).sum(1).mean()
    right = float((logits.argmax(1) == labels).mean())
    says_something = nll < KNOWS_BELOW * unsure or right >= 0.6
    return bool(says_something and (alone >= ALONE or entropy < SURE_BELOW * unsure))


def stop_if_failed(result: GateResult, *, accept_weak: bool, where: str) -> GateResult:
    """Raise unless the teacher passed or the user accepts it.

    Raises:
        GateError: names the checks that failed.
    """
    if result.passed or accept_weak:
        return GateResult(result.checks, overridden=accept_weak)
    failed = sorted((c for c in result.checks if not c.passed), key=lambda c: list(FAULTS).index(c.name))
    raise GateError(
        "the teacher did not pass the gate: " + "; ".join(f"{FAULTS[c.name][0]} ({c.detail})" for c in failed),
        where=where,
        remedy=f"{FAULTS[failed[0].name][1]}; --accept-weak-teacher goes on with this one, and the report will say so",
    )
