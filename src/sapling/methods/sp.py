"""Similar images for the teacher should be similar for the student (SP).

Each network says how similar any two images of the batch are; the two tables should agree. They have the size of the
batch, so the networks may differ in everything else.

Family: relations
Paper: Tung, Mori: Similarity-Preserving Knowledge Distillation, arXiv:1907.09682, ICCV
Year: 2019
Formula: L = CE(z_s, y) + 3000 ||G_s - G_t||_F^2 / B^2; G = F F^T of the flattened features, each row scaled to length 1
Defaults: sp 3000 at the last stage: mdistiller and RepDistiller on CIFAR-100.
Departures: batches below 8 images are refused: their tables say little. A feature that is 0 everywhere has similarity 0
    and no gradient; the repositories' normalisation gives it one of 1e12.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 69.67, ResNet-32x4 -> 8x4 72.94 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); RepDistiller's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sapling.losses.relation import similarity_error
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, Step, Taps


class SP(Method):
    """Cross-entropy on the labels, and the squared difference of similarity tables."""

    class Config(MethodConfig):
        """Settings of sp."""

        tap: str = Field("stage4", description="what is compared: stage1..stage4, embedding, or a module's path")
        teacher_tap: str | None = Field(None, description="the same in the teacher, where it is another; null: as tap")

    config: Config
    terms = ("ce", "sp")
    requires = Requires(labels=False, min_batch=8, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"sp": 3000.0}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One of each network."""
        assert isinstance(config, cls.Config)
        return Taps((config.tap,), (config.teacher_tap or config.tap,))

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``sp``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("sp"):
            student, teacher = self.pair(student, teacher)
            tap = self.config.tap
            theirs = teacher.features[self.config.teacher_tap or tap]
            terms["sp"] = similarity_error(student.features[tap], theirs)
        return terms
