"""A hint from the middle of the teacher (FitNet).

The student's feature map, sent through a small regressor that is learned beside it, should be the teacher's. It gives
the student a direction for its inner layers, where labels alone say little.

Family: features
Paper: Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets, arXiv:1412.6550, ICLR
Year: 2015
Formula: L = CE(z_s, y) + 100 mean((r(F_s) - F_t)^2) over all elements; r = convolution, batch norm (, ReLU)
Defaults: hint 100 at the middle stage (of a network with three, stage3): mdistiller and RepDistiller on CIFAR-100.
    Theirs is also relu.
Departures: one stage of training, as in those repositories; the paper trains up to the hint first and distils
    answers afterwards. There is no term on the answers. The regressor is linear unless relu is set: with a ReLU it
    cannot reach the negative values of a teacher whose stages end without one (ConvNeXt, Swin, vision transformers). r
    is a convolution of 1x1, 3x3 with stride 2 where the student's map is twice as large, or a transposed one of 4x4
    where it is half; the repositories bridge any other difference d by a filter of 1 + d pixels, which at 56 against 7
    would hold more weights than the student. Here the larger map is pooled to the smaller, and r is 1x1. Tokens become
    the map of their grid, a vector a map of one pixel.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 69.21, ResNet-32x4 -> 8x4 73.50 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); RepDistiller's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from sapling.losses.maps import as_map, pair_shapes, same_size
from sapling.losses.regression import squared_error
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps


class FitNet(Method):
    """Cross-entropy on the labels, and the squared error to the teacher's map behind a regressor."""

    class Config(MethodConfig):
        """Settings of fitnet."""

        tap: str = Field("stage3", description="where the hint is taken: stage1..stage4, embedding, or a module's path")
        teacher_tap: str | None = Field(None, description="the same in the teacher, where it is another; null: as tap")
        relu: bool = Field(False, description="end the regressor with a ReLU, for a teacher's map that ends with one")

    config: Config
    terms = ("ce", "hint")
    requires = Requires(labels=False, min_batch=2, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"hint": 100.0}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One of each network."""
        assert isinstance(config, cls.Config)
        return Taps((config.tap,), (config.teacher_tap or config.tap,))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Make the regressor from the shapes of the two maps.

        Raises:
            MethodError: of one of the features no map can be made; with its tap and shape.
        """
        super().__init__(config, info)
        (tap,), (teacher_tap,) = self.taps(config).student, self.taps(config).teacher
        student, teacher = pair_shapes(self.taps(config), info)
        self._tap, self._teacher_tap = tap, teacher_tap
        self.regressor = _regressor(student, teacher, relu=config.relu)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``hint``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("hint"):
            student, teacher = self.pair(student, teacher)
            hint = as_map(teacher.features[self._teacher_tap])
            given = as_map(student.features[self._tap])
            if isinstance(self.regressor[0], nn.Conv2d) and self.regressor[0].stride == (1, 1):
                given, hint = same_size(given, hint)
            terms["hint"] = squared_error(self.regressor(given), hint)
        return terms


def _regressor(student: tuple[int, int, int], teacher: tuple[int, int, int], *, relu: bool) -> nn.Sequential:
    """From the student's ``[B,C,H,W]`` to the teacher's, or, by a 1x1 convolution, to its channels only."""
    (channels, *size), (wanted, *goal) = student, teacher
    convolution: nn.Module
    if size == [2 * n for n in goal]:
        convolution = nn.Conv2d(channels, wanted, 3, stride=2, padding=1, bias=False)
    elif goal == [2 * n for n in size]:
        convolution = nn.ConvTranspose2d(channels, wanted, 4, stride=2, padding=1, bias=False)
    else:
        convolution = nn.Conv2d(channels, wanted, 1, bias=False)
    # The norm has a shift of its own, so the convolution needs no bias.
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted), *([nn.ReLU()] if relu else []))
