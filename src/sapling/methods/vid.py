"""The student's maps foretell the teacher's, with a doubt for each channel that is learned (VID).

A small network on each stage of the student foretells the teacher's map. Channels that cannot be foretold get a large
variance and then cost little, so that the student spends itself on the others.

Family: features
Paper: Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer,
    arXiv:1904.05835, CVPR
Year: 2019
Formula: L = CE(z_s, y) + sum over stages of mean ((mu(F_s) - F_t)^2 / v_c + log v_c) / 2; mu = conv1x1, ReLU, conv1x1,
    ReLU, conv1x1 without biases; v_c = softplus(a_c) + 1e-5, learned for each channel c of the teacher
Defaults: ce 1, vid 1, v_c starts at 5: RepDistiller.
Departures: stages 2 to 4, because networks of three maps have no stage1. Where sizes differ, the larger map is averaged
    to the smaller. The variances are learned, as the paper says (mdistiller's copy never trains them).
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 70.38, ResNet-32x4 -> 8x4 73.09 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); RepDistiller's README.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from sapling.grids import different, grid_of, resize, smaller
from sapling.losses.gaussian import gaussian_nll
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

LEAST_VARIANCE = 1e-5


class Forecast(nn.Module):
    """The mean of the teacher's map, foretold from the student's, and the variance of each channel.

    Args:
        student_channels: of the map that is looked at.
        teacher_channels: of the map that is foretold.
        start_variance: of each channel, before anything is learned.
    """

    def __init__(self, student_channels: int, teacher_channels: int, start_variance: float) -> None:
        super().__init__()
        widths = [student_channels, teacher_channels, teacher_channels, teacher_channels]
        first, second, third = (nn.Conv2d(widths[i], widths[i + 1], 1, bias=False) for i in range(3))
        self.mean = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        start = math.log(math.expm1(start_variance - LEAST_VARIANCE))
        self.spread = nn.Parameter(torch.full((teacher_channels,), start))

    @property
    def variance(self) -> Tensor:
        """``[C]``, above 0."""
        return F.softplus(self.spread) + LEAST_VARIANCE

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """``[B,student,H,W]`` to the mean ``[B,teacher,H,W]`` and the variance ``[teacher]``."""
        return self.mean(maps), self.variance


class VID(Method):
    """Cross-entropy on the labels, and how badly the student's maps foretell the teacher's."""

    class Config(MethodConfig):
        """Settings of vid."""

        stages: Annotated[list[str], AfterValidator(different)] = Field(
            ["stage2", "stage3", "stage4"], min_length=1, description="maps of both networks"
        )
        start_variance: float = Field(5.0, ge=0.01, le=50, description="variance of every channel at the start")

    config: Config
    terms = ("ce", "vid")
    requires = Requires(labels=False, multi_label=True)

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The stages of both."""
        assert isinstance(config, cls.Config)
        return Taps(tuple(config.stages), tuple(config.stages))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build a forecast for each stage.

        Raises:
            MethodError: a feature cannot be placed on a grid.
        """
        super().__init__(config, info)
        self._grids = {
            tap: (
                grid_of(tap, info.student_shapes, side="student", method=self.name),
                grid_of(tap, info.teacher_shapes, side="teacher", method=self.name),
            )
            for tap in config.stages
        }
        self.forecasts = nn.ModuleList(
            Forecast(s.channels, t.channels, config.start_variance) for s, t in self._grids.values()
        )

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``vid``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("vid"):
            student, teacher = self.pair(student, teacher)
            found: list[Tensor] = []
            for (tap, (own, theirs)), forecast in zip(self._grids.items(), self.forecasts, strict=True):
                size = smaller(own, theirs)
                target = resize(theirs.read(teacher.features[tap]), size)
                mean, variance = forecast(resize(own.read(student.features[tap]), size))
                found.append(gaussian_nll(mean, target, variance))
            terms["vid"] = torch.stack(found).sum()
        return terms
