"""Attention transfer: the student should look where the teacher looks (AT).

The energy of all channels at a pixel, as a share of the whole map, says how much that pixel counts. Only this map is
copied, stage by stage, so the networks may differ in channels, and nothing is learned beside the student.

Family: features
Paper: Zagoruyko, Komodakis: Paying More Attention to Attention: Improving the Performance of Convolutional Neural
    Networks via Attention Transfer, arXiv:1612.03928, ICLR
Year: 2017
Formula: L = CE(z_s, y) + 1000 sum over stages of mean((q(F_s) - q(F_t))^2) over images and pixels; q(F) = the mean over
    channels of |F|^p, scaled to length 1 per image
Defaults: p = 2, at 1000, the last three stages: mdistiller on CIFAR-100. A mean over pixels of maps of length 1 is
    about 1 / pixels: at the same weight, maps of 56 x 56 have a fiftieth of the loss of 8 x 8.
Departures: the larger map is pooled to the size of the smaller, as in mdistiller. Tokens of a vision transformer become
    the map of their grid without class token and registers. A stage whose map has a single pixel is refused: its
    attention is 1 whatever the network does.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 70.55, ResNet-32x4 -> 8x4 73.44 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); RepDistiller's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sapling.errors import ConfigError, MethodError
from sapling.losses.attention import attention_error
from sapling.losses.maps import map_shape, smaller_size
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps


class AT(Method):
    """Cross-entropy on the labels, and the squared difference of attention maps."""

    class Config(MethodConfig):
        """Settings of at."""

        stages: tuple[str, ...] = Field(
            ("stage2", "stage3", "stage4"),
            min_length=1,
            max_length=16,
            description="where attention is compared: stage1..stage4, or modules' paths",
        )
        teacher_stages: tuple[str, ...] | None = Field(
            None, description="the same in the teacher, in the same order, where they are others; null: as stages"
        )
        power: float = Field(2.0, ge=1, le=8, description="p: the larger, the more the strongest channels count")

    config: Config
    terms = ("ce", "at")
    requires = Requires(labels=False, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"at": 1000.0}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The stages of both networks.

        Raises:
            ConfigError: there are not as many of the teacher's as of the student's.
        """
        assert isinstance(config, cls.Config)
        theirs = config.stages if config.teacher_stages is None else config.teacher_stages
        if len(theirs) != len(config.stages):
            raise ConfigError(
                f"method 'at': {len(config.stages)} stages and {len(theirs)} teacher_stages",
                allowed="one of the teacher's for each of the student's",
            )
        return Taps(config.stages, theirs)

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Check that every pair of stages has an attention to compare.

        Raises:
            MethodError: a feature is no map, or a pair has a single pixel; with taps and shapes.
        """
        super().__init__(config, info)
        taps = self.taps(config)
        self._pairs = list(zip(taps.student, taps.teacher, strict=True))
        for ours, theirs in self._pairs:
            shapes = info.student_shapes[ours], info.teacher_shapes[theirs]
            student = map_shape(shapes[0], f"the student's {ours}")
            teacher = map_shape(shapes[1], f"the teacher's {theirs}")
            if smaller_size(student[1:], teacher[1:]) == (1, 1):
                raise MethodError(
                    f"method 'at' compares pixels, and there is a single one in the student's {ours} {list(shapes[0])} "
                    f"or the teacher's {theirs} {list(shapes[1])}",
                    allowed="stages with more than one pixel in both networks",
                    remedy="leave it out, as with --set method.stages=[stage2,stage3], or use a larger --img-size",
                )

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``at``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("at"):
            student, teacher = self.pair(student, teacher)
            ours, theirs, power = student.features, teacher.features, self.config.power
            errors = [attention_error(ours[s], theirs[t], power) for s, t in self._pairs]
            terms["at"] = sum(errors[1:], start=errors[0])
        return terms
