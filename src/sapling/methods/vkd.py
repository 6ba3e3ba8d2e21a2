"""The student's embedding, turned but not bent, is the teacher's standardised one (VkD).

A projector that may only turn keeps all distances between the student's embeddings: what the teacher knows must be
learned by the student and cannot hide in the projector. One tap, no batch norm, any pair of networks.

Family: features
Paper: Miles, Elezi, Deng: V_kD: Improving Knowledge Distillation using Orthogonal Projections, arXiv:2403.06213, CVPR
Year: 2024
Formula: L = CE(z_s, y) + smoothL1(P e_s, (e_t - mean(e_t)) / std(e_t)), mean over images and D_t; P [D_t,D_s] has
    orthonormal columns, or rows where D_s > D_t
Defaults: ce 1, vkd 1: the authors' settings.
Departures: P is the Q of the QR decomposition of a free matrix, with a positive diagonal of R: weight decay shrinks the
    free matrix and leaves Q alone (torch's own parametrisation of matrices that are not square becomes 0 in the first
    step with weight decay). The embedding is what the classifier reads; the authors take the mean over the
    student's tokens, which student_tap stage4 gives of a ViT. No second head with a KL term: students have one here.
Reference: ImageNet, top-1 in %: RegNetY-160 -> DeiT-Ti 78.3, -> DeiT-S 82.3; its README.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sapling.grids import as_vector, width_of
from sapling.losses.embeddings import normalized_smooth_l1
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps


class Orthonormal(nn.Module):
    """Parametrisation of a matrix with orthonormal columns, or rows where it is wider than high.

    It is Q of the QR decomposition of the free matrix, each column with the sign that makes the diagonal of R positive:
    then Q is unique and smooth in the free matrix, whose length does not matter.
    """

    def forward(self, free: Tensor) -> Tensor:
        """``[n,m]`` of full rank to the same shape, orthonormal."""
        is_wide = free.shape[0] < free.shape[1]
        q, r = torch.linalg.qr(free.mT if is_wide else free)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
        turned: Tensor = q.mT if is_wide else q
        return turned

    def right_inverse(self, matrix: Tensor) -> Tensor:
        """A free matrix that gives ``matrix``, which must be orthonormal: itself."""
        return matrix


class VkD(Method):
    """Cross-entropy on the labels, and the distance of embeddings behind an orthonormal projector."""

    class Config(MethodConfig):
        """Settings of vkd."""

        student_tap: str = Field("embedding", description="the student's feature; its mean over positions is used")
        teacher_tap: str = Field("embedding", description="the teacher's feature; its mean over positions is used")

    config: Config
    terms = ("ce", "vkd")
    requires = Requires(labels=False, multi_label=True)

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One feature of each."""
        assert isinstance(config, cls.Config)
        return Taps((config.student_tap,), (config.teacher_tap,))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the projector, random and orthonormal."""
        super().__init__(config, info)
        widths = (width_of(info.student_shapes[config.student_tap]), width_of(info.teacher_shapes[config.teacher_tap]))
        self.projector = nn.Linear(*widths, bias=False)
        nn.init.orthogonal_(self.projector.weight)
        parametrize.register_parametrization(self.projector, "weight", Orthonormal())

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``vkd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("vkd"):
            student, teacher = self.pair(student, teacher)
            projected = self.projector(as_vector(student.features[self.config.student_tap]))
            terms["vkd"] = normalized_smooth_l1(projected, as_vector(teacher.features[self.config.teacher_tap]))
        return terms
