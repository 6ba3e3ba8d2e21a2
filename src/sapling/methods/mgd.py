"""The teacher's whole map, made from the student's with channels missing (MGD).

A part of the student's channels is struck out at random; two convolutions must still give the teacher's map. So each
channel of the student has to know about the others.

Family: features
Paper: Yang, Li, Shao, Shi, Yuan, Yuan: Masked Generative Distillation, arXiv:2205.01529, ECCV
Year: 2022
Formula: L = CE(z_s, y) + w mean over images of |G(m * A(F_s)) - F_t|^2, summed over channels and positions; A a 1x1
    convolution to the teacher's channels, m [B,C] 0 with probability p and 1 otherwise, G = conv3x3, ReLU, conv3x3
Defaults: p = 0.15, w = 7e-5, the last map: the authors' settings of classification, on ImageNet (ResNet-34 -> 18: 71.69
    % in their table). A sum grows with the map: theirs have 512 x 7 x 7 or more; with smaller ones give method.weights
    a larger mgd.
Departures: where sizes differ, the larger map is averaged to the smaller; theirs must be the same. The tokens of a ViT
    are put on their grid, without class token and registers. A is left away where channels agree, as theirs.
Reference: ImageNet, top-1 in %: ResNet-34 -> 18 71.69 (plain kd 71.03), ResNet-50 -> MobileNet 72.49 (plain kd
    70.50); MGD's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from sapling.grids import grid_of, resize, smaller
from sapling.losses.regression import summed_error
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps


class MGD(Method):
    """Cross-entropy on the labels, and the teacher's map made from a masked one of the student."""

    class Config(MethodConfig):
        """Settings of mgd."""

        stage: str = Field("stage4", description="the map of both networks, usually the last")
        masked_share: float = Field(0.15, ge=0, lt=1, description="share of the student's channels that are struck out")

    config: Config
    terms = ("ce", "mgd")
    requires = Requires(labels=False, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"mgd": 7e-5}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One map of each."""
        assert isinstance(config, cls.Config)
        return Taps((config.stage,), (config.stage,))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the alignment, where channels differ, and the generator.

        Raises:
            MethodError: a feature cannot be placed on a grid.
        """
        super().__init__(config, info)
        self._student = grid_of(config.stage, info.student_shapes, side="student", method=self.name)
        self._teacher = grid_of(config.stage, info.teacher_shapes, side="teacher", method=self.name)
        self._size = smaller(self._student, self._teacher)
        width = self._teacher.channels
        self.align = nn.Identity() if self._student.channels == width else nn.Conv2d(self._student.channels, width, 1)
        self.generator = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def mask(self, maps: Tensor) -> Tensor:
        """Draw ``[B,C,1,1]`` for maps ``[B,C,H,W]``: 0 for ``masked_share`` of the channels of each image, else 1."""
        # drawn on the CPU, so that a seed gives the same mask on any device
        drawn = torch.rand(*maps.shape[:2], 1, 1)
        return (drawn >= self.config.masked_share).to(maps, non_blocking=True)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``mgd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("mgd"):
            student, teacher = self.pair(student, teacher)
            own = resize(self._student.read(student.features[self.config.stage]), self._size)
            theirs = resize(self._teacher.read(teacher.features[self.config.stage]), self._size)
            aligned = self.align(own)
            terms["mgd"] = summed_error(self.generator(aligned * self.mask(aligned)), theirs)
        return terms
