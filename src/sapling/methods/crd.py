"""Which of the teacher's embeddings belongs to this image? (CRD, negatives from the batch.)

Student and teacher are projected to a common space, where an image's two vectors must be nearer to each other than to
those of images of other classes. It teaches how images relate, not only how each is answered.

Family: features
Paper: Tian, Krishnan, Isola: Contrastive Representation Distillation, arXiv:1910.10699, ICLR
Year: 2020
Formula: L = CE(z_s, y) - w mean over images i of log softmax_j(u_i v_j / T)[i] + log softmax_j(u_j v_i / T)[i]; u is
    W_s e_s + b_s brought to length 1, v the teacher's; j runs over i and the images of other classes in the batch
Defaults: ce 1, crd 0.8, T = 0.07, 128 dimensions: the authors' settings.
Departures: the wrong answers are the images of other classes in the batch, with a softmax over them; the authors draw
    16,384 from two memory banks of all images, with noise-contrastive estimation, which a data set of a few thousand
    images cannot give. So batches should be large: 64 images or more. Both projectors are trained, as theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from sapling.grids import as_vector, width_of
from sapling.losses.contrastive import info_nce
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

EMBEDDING = "embedding"


class CRD(Method):
    """Cross-entropy on the labels, and finding the teacher's embedding among those of the batch."""

    class Config(MethodConfig):
        """Settings of crd."""

        temperature: float = Field(0.07, gt=0, le=10, description="of the comparison; small ones look at near images")
        num_dimensions: int = Field(128, ge=2, le=4096, description="of the common space")

    config: Config
    terms = ("ce", "crd")
    requires = Requires(labels=True, min_batch=8)
    scales: ClassVar[Mapping[str, float]] = {"crd": 0.8}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """Both embeddings."""
        return Taps((EMBEDDING,), (EMBEDDING,))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build both projectors."""
        super().__init__(config, info)
        self.student_projector = nn.Linear(width_of(info.student_shapes[EMBEDDING]), config.num_dimensions)
        self.teacher_projector = nn.Linear(width_of(info.teacher_shapes[EMBEDDING]), config.num_dimensions)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``crd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("crd"):
            student, teacher = self.pair(student, teacher)
            own = self.student_projector(as_vector(student.features[EMBEDDING]))
            theirs = self.teacher_projector(as_vector(teacher.features[EMBEDDING]))
            terms["crd"] = info_nce(own, theirs, self.class_numbers(batch), self.config.temperature)
        return terms
