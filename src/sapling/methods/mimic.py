"""The teacher's last map, each of its channels on one scale (mimic).

What the teacher sees in an image, just before it decides. A 1x1 convolution and a batch norm, learned beside the
student, make it from the student's map. No training beforehand, and one setting fits teachers whose features are of any
size.

Family: features
Paper: none of its own: the hint of Romero et al.: FitNets, arXiv:1412.6550, ICLR 2015, at the last map and with the
    teacher's features standardised, as Miles, Mikolajczyk: Understanding the Role of the Projector in Knowledge
    Distillation, 2023, do with vectors
Year: none
Formula: L = CE(z_s, y) + 20 mean((BN(conv1x1(F_s)) - n(F_t))^2) over all elements; n takes from each channel its mean
    and divides by its standard deviation, over the images and pixels of the batch
Defaults: 20 at stage4, chosen beside dist on dev images of three sets, from 3 to 50 (docs/methods/measured.md).
Departures: a map instead of their vector, squared error instead of the logarithm of a sum of its powers. Without the
    batch norm it taught as much, and diverged at weight 50 with rate 0.2. Batches below 8 images are refused: scales
    are those of the batch. Where sizes differ, the larger map is averaged to the smaller; the tokens of a ViT are put
    on their grid, a vector is a map of one pixel. A channel that is constant over the batch is 0, and asks for nothing.
Reference: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from sapling.losses.maps import as_map, pair_shapes, same_size
from sapling.losses.regression import squared_error, standardize_channels
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps


class Mimic(Method):
    """Cross-entropy on the labels, and the squared error to the teacher's standardised map."""

    class Config(MethodConfig):
        """Settings of mimic."""

        tap: str = Field("stage4", description="the map: stage1..stage4 (the last), embedding, or a module's path")
        teacher_tap: str | None = Field(None, description="the same in the teacher, where it is another; null: as tap")

    config: Config
    terms = ("ce", "mimic")
    requires = Requires(labels=False, min_batch=8, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"mimic": 20.0}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One of each network."""
        assert isinstance(config, cls.Config)
        return Taps((config.tap,), (config.teacher_tap or config.tap,))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Make the projector from the channels of the two maps.

        Raises:
            MethodError: of one of the features no map can be made; with its tap and shape.
        """
        super().__init__(config, info)
        (tap,), (teacher_tap,) = self.taps(config).student, self.taps(config).teacher
        (channels, *_), (wanted, *_) = pair_shapes(self.taps(config), info)
        self._tap, self._teacher_tap = tap, teacher_tap
        # The norm has a shift of its own, so the convolution needs no bias.
        self.projector = nn.Sequential(nn.Conv2d(channels, wanted, 1, bias=False), nn.BatchNorm2d(wanted))

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``mimic``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("mimic"):
            student, teacher = self.pair(student, teacher)
            given, goal = same_size(as_map(student.features[self._tap]), as_map(teacher.features[self._teacher_tap]))
            terms["mimic"] = squared_error(self.projector(given), standardize_channels(goal))
        return terms
