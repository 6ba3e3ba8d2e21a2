"""Distances and angles between images (RKD).

What the student copies is not where the teacher puts an image, but how the images of a batch lie to each other: the
distances of pairs, and the angles of triples. The networks may differ in everything.

Family: relations
Paper: Park, Kim, Lu, Cho: Relational Knowledge Distillation, arXiv:1904.05068, CVPR
Year: 2019
Formula: L = CE(z_s, y) + 25 smooth_l1(d_s, d_t) + 50 smooth_l1(a_s, a_t); d = distance of two images / mean distance of
    the batch, a = cosine of the angle at image j between i and k, means over all pairs and all triples
Defaults: distance 25, angle 50 on the embedding: the authors', and mdistiller on CIFAR-100.
Departures: batches below 8 images are refused. Angles are computed from Gram matrices in chunks: 256 images of 2,048
    numbers need about 50 MB where the differences of all pairs would be 0.5 GB. Of larger batches only the first
    angle_images (images are in random order) are compared by angle, as the work grows with their cube. Images that
    coincide have distance and cosine 0 and no gradient there; the authors' code raises them to 1e-6.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 69.61, ResNet-32x4 -> 8x4 71.90 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); RepDistiller's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sapling.losses.maps import as_vectors
from sapling.losses.relation import angle_error, distance_error
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, Step, Taps


class RKD(Method):
    """Cross-entropy on the labels, distances of pairs, and angles of triples."""

    class Config(MethodConfig):
        """Settings of rkd."""

        tap: str = Field(
            "embedding",
            description="what is compared: embedding, stage1..stage4 (mean over pixels), or a module's path",
        )
        teacher_tap: str | None = Field(None, description="the same in the teacher, where it is another; null: as tap")
        angle_images: int = Field(256, ge=3, description="images of a batch whose angles are compared; the first ones")

    config: Config
    terms = ("ce", "distance", "angle")
    requires = Requires(labels=False, min_batch=8, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"distance": 25.0, "angle": 50.0}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One of each network."""
        assert isinstance(config, cls.Config)
        return Taps((config.tap,), (config.teacher_tap or config.tap,))

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``distance`` and ``angle``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("distance") or step.wants("angle"):
            student, teacher = self.pair(student, teacher)
            ours = as_vectors(student.features[self.config.tap])
            theirs = as_vectors(teacher.features[self.config.teacher_tap or self.config.tap])
            if step.wants("distance"):
                terms["distance"] = distance_error(ours, theirs)
            if step.wants("angle"):
                count = self.config.angle_images
                terms["angle"] = angle_error(ours[:count], theirs[:count])
        return terms
