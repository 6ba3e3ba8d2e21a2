"""Which test images to look at: gained and lost by the student, sure and wrong, answered otherwise than the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapling.evaluation.metrics import log_probabilities
from sapling.evaluation.multilabel import probabilities_of

Floats = NDArray[np.float64]
KINDS = ("gained", "lost", "mistakes", "disagreements")


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one arm to the test images.

    Attributes:
        probabilities: ``[n,K]``, mean over seeds.
        right: ``[S,n]``, share in [0,1] of the answer that is right: 0 or 1 for a class, of the labels otherwise.
        multi_label: whether an image may have several labels.
    """

    probabilities: Floats
    right: Floats
    multi_label: bool = False

    @property
    def chosen(self) -> NDArray[np.bool_]:
        """``[n,K]``: what the mean probabilities answer."""
        if self.multi_label:
            return self.probabilities >= 0.5
        chosen: NDArray[np.bool_] = np.eye(self.probabilities.shape[1], dtype=bool)[self.probabilities.argmax(1)]
        return chosen

    @property
    def certainty(self) -> Floats:
        """``[n,K]``: how sure each part of the answer is; of a label also that it is not there."""
        return np.maximum(self.probabilities, 1 - self.probabilities) if self.multi_label else self.probabilities


def answers_of(logits: NDArray[np.floating], truth: NDArray[np.int64]) -> Answers:
    """Answers of logits ``[S,n,K]`` to images with the labels ``[n]``, or ``[n,K]`` 0 and 1."""
    if truth.ndim == 2:
        right = ((logits >= 0) == (truth > 0)).mean(2)
        return Answers(probabilities_of(logits).mean(0), right, multi_label=True)
    probabilities = np.exp(log_probabilities(logits)).mean(0)
    return Answers(probabilities, np.asarray(logits.argmax(2) == truth, dtype=np.float64))


def choose_examples(
    student: Answers,
    truth: NDArray[np.int64],
    *,
    control: Answers | None = None,
    teacher: Answers | None = None,
    most: int = 12,
) -> dict[str, list[int]]:
    """Positions of the images to show, the most telling first.

    Args:
        student: the distilled student, or the one model.
        truth: ``[n]`` class numbers, or ``[n,K]`` 0 and 1.
        control: needed for ``gained`` and ``lost``.
        teacher: needed for ``disagreements``.
        most: how many of each kind.

    Returns:
        ``gained`` and ``lost``: right under more (fewer) seeds than the control, by that number, then by how much the
        probability of the truth changed. ``mistakes``: wrong by the mean over seeds, by its certainty.
        ``disagreements``: another answer than the teacher's, by how sure the less sure of both is. Kinds without
        images, or without the arm that they need, are left out.
    """
    found: dict[str, Sequence[int] | NDArray[np.int64]] = {}
    every = np.arange(len(truth))
    wanted = truth > 0 if truth.ndim == 2 else np.eye(student.probabilities.shape[1], dtype=bool)[truth]
    if control is not None:
        change = student.right.mean(0) - control.right.mean(0)
        surer = _mass(student, wanted) - _mass(control, wanted)
        for kind, sign in (("gained", 1), ("lost", -1)):
            order = np.lexsort((every, -sign * surer, -np.round(sign * change, 9)))
            found[kind] = order[sign * change[order] > 1e-9]
    wrong = student.chosen != wanted
    if not student.multi_label:
        wrong &= student.chosen  # the class that was named, not the one that was not
    found["mistakes"] = _by(np.where(wrong, student.certainty, -1).max(1))
    if teacher is not None:
        differs = student.chosen != teacher.chosen
        if student.multi_label:
            sure = np.where(differs, np.minimum(student.certainty, teacher.certainty), -1).max(1)
        else:
            both = np.minimum(student.probabilities.max(1), teacher.probabilities.max(1))
            sure = np.where(differs.any(1), both, -1)
        found["disagreements"] = _by(sure)
    return {kind: [int(k) for k in found[kind][:most]] for kind in KINDS if len(found.get(kind, ()))}


def _mass(answers: Answers, wanted: NDArray[np.bool_]) -> Floats:
    """Probability of what is true: of the class; mean over labels of each one's state."""
    if answers.multi_label:
        agreed = np.where(wanted, answers.probabilities, 1 - answers.probabilities)
        return np.asarray(agreed.mean(1), dtype=np.float64)
    return np.asarray(np.where(wanted, answers.probabilities, 0).sum(1), dtype=np.float64)


def _by(strength: Floats) -> NDArray[np.int64]:
    order = np.argsort(-strength, kind="stable")
    return order[strength[order] >= 0]
