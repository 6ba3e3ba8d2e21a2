"""The teacher's neighbourhoods as probabilities (PKT).

From each image of a batch, how likely is one to go to each other, when nearer ones are likelier? The student's
probabilities should be the teacher's. The networks may differ in everything.

Family: relations
Paper: Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, arXiv:1803.10837, ECCV
Year: 2018
Formula: L = CE(z_s, y) + 30000 mean over B^2 of p log(p / q); p of the teacher and q of the student = (cosine + 1) / 2
    of two images, divided by the sum of its row
Defaults: pkt 30000 on the embedding: mdistiller and RepDistiller on CIFAR-100.
Departures: batches below 8 images are refused. The mean is over B^2 elements, as there, so at twice the batch the same
    weight counts half.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 70.34, ResNet-32x4 -> 8x4 73.64 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); RepDistiller's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sapling.losses.maps import as_vectors
from sapling.losses.relation import affinity_divergence
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, Step, Taps


class PKT(Method):
    """Cross-entropy on the labels, and the divergence between two tables of affinities."""

    class Config(MethodConfig):
        """Settings of pkt."""

        tap: str = Field(
            "embedding",
            description="what is compared: embedding, stage1..stage4 (mean over pixels), or a module's path",
        )
        teacher_tap: str | None = Field(None, description="the same in the teacher, where it is another; null: as tap")

    config: Config
    terms = ("ce", "pkt")
    requires = Requires(labels=False, min_batch=8, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"pkt": 30000.0}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One of each network."""
        assert isinstance(config, cls.Config)
        return Taps((config.tap,), (config.teacher_tap or config.tap,))

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``pkt``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("pkt"):
            student, teacher = self.pair(student, teacher)
            tap = self.config.tap
            theirs = as_vectors(teacher.features[self.config.teacher_tap or tap])
            terms["pkt"] = affinity_divergence(as_vectors(student.features[tap]), theirs)
        return terms
