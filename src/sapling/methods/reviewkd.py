"""Each stage of the student, joined with all deeper ones, copies a stage of the teacher (ReviewKD).

The teacher's shallow maps are easier to learn from deeper maps of the student than from shallow ones. From the deepest
level to the shallowest, the student's maps are fused by attention, and each result is compared with the teacher's
map at several resolutions.

Family: features
Paper: Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, arXiv:2104.09044, CVPR
Year: 2021
Formula: L = CE(z_s, y) + r sum over levels of HCL(BN(conv3x3(x_l)), F_t,l), r rising from 0 to 1 in the warm-up; x_l =
    a_l BN(conv1x1(F_s,l)) + b_l up(x_(l+1)), (a_l, b_l) = sigmoid(conv1x1 of both); HCL = weighted mean of squared
    errors at full resolution (1) and of maps pooled to 4, 2 and 1 cells a side (1/2, 1/4, 1/8)
Defaults: ce 1, review 1, the authors' weight on ImageNet and for ResNet-110 -> ResNet-32; theirs on CIFAR-100 are 0.6
    to 8, mostly 5. Warm-up 1/12 (20 of 240 epochs): mdistiller. The student's maps behind their activation, the
    teacher's before it, the embeddings as deepest level, at most 512 channels carried: mdistiller. With a tiny student
    the fusions cost many times what it costs itself; a smaller max_channels makes them cheaper.
Departures: stages 2 to 4, because networks of three maps have no stage1; with stage1 they are the authors' levels on
    ImageNet. Where sizes differ, a map grows by repeating the nearest, as theirs, and shrinks by means (theirs: the
    nearest). The warm-up is a share of the run and rises with every batch; the authors count epochs. The tokens of a
    ViT are put on their grid, without class token and registers.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 71.89, ResNet-32x4 -> 8x4 75.63 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); NORM's README. ImageNet: ResNet-34 -> 18 71.61; NORM's README.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from sapling.fusion import AttentionFusion
from sapling.grids import different, grid_of
from sapling.losses.hierarchical import hierarchical_context
from sapling.methods.base import Method, MethodConfig, Requires, warmup
from sapling.types import Batch, Outputs, PairInfo, Step, Taps


class ReviewKD(Method):
    """Cross-entropy on the labels, and the review of all levels."""

    class Config(MethodConfig):
        """Settings of reviewkd."""

        stages: Annotated[list[str], AfterValidator(different)] = Field(
            ["stage2", "stage3", "stage4"], min_length=1, description="maps of both networks, shallowest first"
        )
        embedding: bool = Field(True, description="the embeddings of both are the deepest level")
        max_channels: int = Field(
            512,
            ge=1,
            le=4096,
            description="channels that are carried between levels, if the student's last map has as many",
        )
        warmup_share: float = Field(1 / 12, ge=0, le=1, description="share of training in which review rises from 0")

    config: Config
    terms = ("ce", "review")
    requires = Requires(labels=False, multi_label=True, min_batch=2)

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The student's stages, the teacher's before their activation, and both embeddings."""
        assert isinstance(config, cls.Config)
        last = ("embedding",) if config.embedding else ()
        return Taps((*config.stages, *last), (*(f"{stage}.pre" for stage in config.stages), *last))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build a fusion for each level, deepest first.

        Raises:
            MethodError: a feature cannot be placed on a grid.
        """
        super().__init__(config, info)
        wanted = self.taps(config)
        self._students = {t: grid_of(t, info.student_shapes, side="student", method=self.name) for t in wanted.student}
        self._teachers = {t: grid_of(t, info.teacher_shapes, side="teacher", method=self.name) for t in wanted.teacher}
        mid = min(config.max_channels, self._students[wanted.student[-1]].channels)
        deepest_first = reversed(list(zip(wanted.student, wanted.teacher, strict=True)))
        self.levels = nn.ModuleList(
            AttentionFusion(self._students[s].channels, mid, self._teachers[t].channels, fuses=number > 0)
            for number, (s, t) in enumerate(deepest_first)
        )

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``review``, the latter times the warm-up."""
        terms = self.label_terms(student, batch, step)
        if step.wants("review"):
            student, teacher = self.pair(student, teacher)
            carried: Tensor | None = None
            found: list[Tensor] = []
            pairs = zip(reversed(self._students.items()), reversed(self._teachers.items()), strict=True)
            for level, ((s, own), (t, theirs)) in zip(self.levels, pairs, strict=True):
                answer, carried = level(own.read(student.features[s]), carried, theirs.size)
                found.append(hierarchical_context(answer, theirs.read(teacher.features[t])))
            terms["review"] = warmup(step, self.config.warmup_share) * torch.stack(found).sum()
        return terms
