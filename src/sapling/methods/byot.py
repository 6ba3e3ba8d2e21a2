"""The student's last layers teach its earlier ones (be your own teacher, BYOT).

Behind each earlier stage stands a small exit with a classifier of its own. It learns the labels, the answer of the
network's end, and the end's embedding. So earlier layers are taught directly, without a teacher; the exits are thrown
away afterwards and the plain student ships.

Family: self-distillation
Paper: Zhang, Song, Gao, Chen, Bao, Ma: Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks
    via Self Distillation, arXiv:1905.08094, ICCV
Year: 2019
Formula: L = CE(z_s, y) + sum over exits i of 0.9 CE(z_i, y) + 0.1 T^2 KL(softmax(z_s / T) || softmax(z_i / T)) +
    1.28e-4 |h_i - e_s|^2, means over images; z_s and e_s (logits and embedding of the end) are constants in the last
    two; where an image may have several labels, CE and KL are binary, over sigmoids
Defaults: T = 3, 0.9 and 0.1: the authors of the code at luanyunteng/pytorch-be-your-own-teacher, CIFAR-100; its feature
    weight 1e-6 belongs to a sum over the 128 images of a batch, so 1.28e-4 to a mean over images.
Departures: exits behind stage2 and stage3, because networks of three maps have no stage1. An exit is a depthwise 3x3
    convolution (stride 2 where the map is larger than a pixel), batch norm, ReLU, a 1x1 convolution to the width of the
    embedding, batch norm, mean over positions and a linear classifier; the code has one such step per halving. The
    end's CE counts 1, as in the paper (the code: 0.9). KL for soft cross-entropy: the same gradient.
Reference: none at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from sapling.grids import Grid, as_vector, different, grid_of, width_of
from sapling.losses.divergence import kl_divergence, sigmoid_kl
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

EMBEDDING = "embedding"


class BYOT(Method):
    """Cross-entropy on the labels at the end and at exits, which also copy the end."""

    class Config(MethodConfig):
        """Settings of byot."""

        stages: Annotated[list[str], AfterValidator(different)] = Field(
            ["stage2", "stage3"], min_length=1, description="maps of the student behind which an exit stands"
        )
        temperature: float = Field(3.0, gt=0, le=1000, description="softens the end's answers and the exits'")

    config: Config
    terms = ("ce", "exits", "kd", "feature")
    requires = Requires(labels=False, min_batch=2, teacher=False, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"exits": 0.9, "kd": 0.1, "feature": 1.28e-4}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The student's stages and its embedding."""
        assert isinstance(config, cls.Config)
        return Taps((*config.stages, EMBEDDING), ())

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build an exit for each stage.

        Raises:
            MethodError: a feature cannot be placed on a grid.
        """
        super().__init__(config, info)
        self._grids = {
            tap: grid_of(tap, info.student_shapes, side="student", method=self.name) for tap in config.stages
        }
        width = width_of(info.student_shapes[EMBEDDING])
        self.exits = nn.ModuleList(_exit(grid, width) for grid in self._grids.values())
        self.classifiers = nn.ModuleList(nn.Linear(width, info.num_classes) for _ in self._grids)
        self._divergence = sigmoid_kl if info.multi_label else kl_divergence

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``exits``, ``kd`` and ``feature``; the teacher is not looked at."""
        terms = self.label_terms(student, batch, step)
        if not any(step.wants(term) for term in self.terms[1:]):
            return terms
        student = self.present(student)
        hidden = [
            as_vector(leave(grid.read(student.features[tap])))
            for (tap, grid), leave in zip(self._grids.items(), self.exits, strict=True)
        ]
        if step.wants("feature"):
            end = as_vector(student.features[EMBEDDING]).detach()
            terms["feature"] = _sum([(h - end).square().sum(dim=1).mean() for h in hidden])
        if not (step.wants("exits") or step.wants("kd")):
            return terms
        answers = [classify(h) for h, classify in zip(hidden, self.classifiers, strict=True)]
        if step.wants("exits"):
            only = Step(terms=(self.label_term,))
            terms["exits"] = _sum([self.label_terms(Outputs(z), batch, only)[self.label_term] for z in answers])
        if step.wants("kd"):
            target = student.logits.detach()
            terms["kd"] = _sum([self._divergence(z, target, self.config.temperature) for z in answers])
        return terms


def _exit(grid: Grid, width: int) -> nn.Sequential:
    """From a map ``[B,C,H,W]`` to one of ``width`` channels."""
    stride = 2 if max(grid.size) > 1 else 1
    return nn.Sequential(
        nn.Conv2d(grid.channels, grid.channels, 3, stride=stride, padding=1, groups=grid.channels, bias=False),
        nn.BatchNorm2d(grid.channels),
        nn.ReLU(),
        nn.Conv2d(grid.channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
    )


def _sum(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).sum()
