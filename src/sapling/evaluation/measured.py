"""What a finished run measured of itself: all that a diagnosis knows. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sapling.evaluation.imitation import Answers, most_entropy


@dataclass(frozen=True, slots=True)
class Imitation:
    """How a student stands to the labels and to the teacher on one part of the data; means over seeds.

    Attributes:
        score: its measure (see :attr:`Measured.measure`).
        agreement: share of images with the teacher's answer.
        kl: KL(teacher || student) at T = 1, nats per image.
    """

    score: float
    agreement: float
    kl: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a finished run measured, before and beside the test images.

    Attributes:
        outcome: of the verdict.
        measure: ``top1``, ``macro_recall`` or ``map``: of the verdict, the gap and the scores.
        detectable: the difference that the verdict could have shown.
        num_seeds: S.
        epochs: of the students.
        steps: of the students, in all.
        num_classes: K.
        temperature: of the method; None where it has none.
        standardized: whether the method takes z-scores of the logits first.
        weights: by term.
        alpha: share of the labels where the weights come from one; None where they were given one by one.
        teacher_train: its answers to (some) training images, their centre views.
        teacher_val: its answers to validation images.
        students: ``control`` and ``distilled``, each on ``train`` and ``val``.
        gap: teacher minus control on validation, in the measure.
        gap_error: standard error of that gap over images; None where it is not known.
        rising: gain of top-1 (or mAP) on validation over the last tenth of training, the mean of all students; None
            with too few epochs to tell.
        num_val: validation images.
        gradients: by arm and term, mean norm of the gradient of the weighted term over the measured steps.
        memorised: whether the teacher knows its training images by heart.
        multi_label: whether an image may have several labels.
        img_size: side that the networks see, in pixels; None of a run that did not record it here.
        acceptance: what a denoiser's own check says: ``passed``, and what else it recorded; None without one.
        endless_seeds: the difference that these test images could show with any number of seeds; None where unknown.
        is_cut: whether the test images were cut from the data by this run's settings.
        own_terms: terms that train parts of the method and give the student no gradient.
        is_foreign: whether the teacher comes from elsewhere; one of this run or another on these images has learned
            these labels.
    """

    outcome: str
    measure: str
    detectable: float | None
    num_seeds: int
    epochs: int
    steps: int
    num_classes: int
    temperature: float | None
    standardized: bool
    weights: Mapping[str, float]
    alpha: float | None
    teacher_train: Answers
    teacher_val: Answers
    students: Mapping[str, Mapping[str, Imitation]]
    gap: float
    gap_error: float | None
    rising: float | None
    num_val: int
    gradients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    memorised: bool = False
    multi_label: bool = False
    img_size: int | None = None
    acceptance: Mapping[str, Any] | None = None
    endless_seeds: float | None = None
    is_cut: bool = False
    is_foreign: bool = True
    own_terms: tuple[str, ...] = ()

    @property
    def lacks_test_images(self) -> bool:
        """Whether no number of seeds could show a difference as large as the gap on these test images."""
        return self.endless_seeds is not None and self.endless_seeds > self.gap > 0

    @property
    def label_term(self) -> str:
        """``ce`` or ``bce``."""
        return "bce" if self.multi_label else "ce"

    @property
    def most_entropy(self) -> float:
        """Entropy of an answer that says nothing, in nats."""
        return most_entropy(self.num_classes, multi_label=self.multi_label)

    @property
    def pulls(self) -> dict[str, float]:
        """Pull of every term of the distilled student, against that of the labels on the control."""
        own = self.gradients.get("distilled", {})
        base = self.gradients.get("control", {}).get(self.label_term, 0.0)
        return {name: value / base for name, value in own.items()} if base > 0 else {}

    def as_dict(self) -> dict[str, Any]:
        """As JSON types, for ``results.json``."""
        return {**asdict(self), "most_entropy": self.most_entropy, "pulls": self.pulls}
