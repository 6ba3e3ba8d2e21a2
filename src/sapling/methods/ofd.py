"""The student's maps copy the teacher's before the activation, where it counts (OFD).

What stands before a ReLU says more than what is left behind it. Values above 0 must be met; of those below it is
enough that the student is below, down to a margin that each channel of the teacher has.

Family: features
Paper: Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation, arXiv:1904.01866, ICCV
Year: 2019
Formula: L = CE(z_s, y) + w sum over stages l = 1..L of 2^(l-L) d(BN(conv1x1(F_s,l)), max(F_t,l, m)); d = sum over
    channels and positions of the squared gap, but 0 where student <= target <= 0, mean over images; m_c = E[x | x < 0]
    of channel c
Defaults: ce 1, ofd 0.001: the authors' settings.
Departures: the margins are running means of the values below 0 of the first 100 batches (then a moving average), for
    all networks alike; the authors work them out of the last batch norm, as if its output were normal and nothing were
    added to it. The teacher stays in eval mode; theirs runs in train mode, so that its statistics move. Stages 2 to 4,
    because networks of three maps have no stage1. Where sizes differ, the larger map is averaged to the smaller.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 70.98, ResNet-32x4 -> 8x4 74.95 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); ND's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from sapling.errors import MethodError
from sapling.grids import different, grid_of, resize, smaller
from sapling.losses.margins import negative_means, partial_distance
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

HORIZON = 100  # batches


class RunningNegativeMean(nn.Module):
    """Mean of the values below 0 of each channel, over the batches that it has seen in training."""

    mean: Tensor
    num_batches: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("num_batches", torch.zeros(num_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Look at ``[B,C,H,W]``, if training, and give the means ``[C]``."""
        if self.training:
            now, counts = negative_means(maps)
            is_seen = (counts > 0).to(self.num_batches)
            self.num_batches = self.num_batches + is_seen
            rate = is_seen / self.num_batches.clamp(1, HORIZON)
            self.mean = self.mean + rate * (now.to(self.mean) - self.mean)
        return self.mean


class OFD(Method):
    """Cross-entropy on the labels, and the partial distance of maps before their activation."""

    class Config(MethodConfig):
        """Settings of ofd."""

        stages: Annotated[list[str], AfterValidator(different)] = Field(
            ["stage2", "stage3", "stage4"], min_length=1, description="maps of both networks, shallowest first"
        )

    config: Config
    terms = ("ce", "ofd")
    requires = Requires(labels=False, multi_label=True, min_batch=2)
    scales: ClassVar[Mapping[str, float]] = {"ofd": 1e-3}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The stages of both before their activation."""
        assert isinstance(config, cls.Config)
        names = tuple(f"{stage}.pre" for stage in config.stages)
        return Taps(names, names)

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build a connector for each stage.

        Raises:
            MethodError: no activation follows a map of the teacher, or a feature cannot be placed on a grid.
        """
        super().__init__(config, info)
        taps = self.taps(config).teacher
        if bare := [tap for tap in taps if tap in info.teacher_without_activation]:
            shapes = ", ".join(f"{tap} {list(info.teacher_shapes[tap])}" for tap in bare)
            others = ",".join(stage for stage, tap in zip(config.stages, taps, strict=True) if tap not in bare)
            raise MethodError(
                f"method {self.name!r} needs maps that an activation follows, and none follows the teacher's {shapes}",
                allowed="stages that end in an activation, as those of a ResNet do",
                remedy=(f"--set method.stages=[{others}], or " if others else "")
                + "a method without that need: vid, reviewkd",
            )
        self._grids = {
            tap: (
                grid_of(tap, info.student_shapes, side="student", method=self.name),
                grid_of(tap, info.teacher_shapes, side="teacher", method=self.name),
            )
            for tap in taps
        }
        self.connectors = nn.ModuleList(_connector(s.channels, t.channels) for s, t in self._grids.values())
        self.margins = nn.ModuleList(RunningNegativeMean(t.channels) for _, t in self._grids.values())

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``ofd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("ofd"):
            student, teacher = self.pair(student, teacher)
            found: list[Tensor] = []
            stages = zip(self._grids.items(), self.connectors, self.margins, strict=True)
            for number, ((tap, (own, theirs)), connector, margin) in enumerate(stages, start=1):
                size = smaller(own, theirs)
                target = resize(theirs.read(teacher.features[tap]), size)
                connected = connector(resize(own.read(student.features[tap]), size))
                share = 2.0 ** (number - len(self._grids))
                found.append(share * partial_distance(connected, target, margin(target)))
            terms["ofd"] = torch.stack(found).sum()
        return terms


def _connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    widen = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    nn.init.kaiming_normal_(widen.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(widen, nn.BatchNorm2d(teacher_channels))
