"""Copy the teacher's maps where it looks, or where the two look differently; its doubtful answers are left out.

A mean over all pixels spends most of itself on background. Here every pixel has a weight, a softmax over the image of
the teacher's attention, or of how far the student's attention is from it. Of the teacher's answers only those count
that it is sure of.

Family: features
Paper: Zhang, Ma: Improve Object Detection with Feature-based Knowledge Distillation: Towards Accurate and Efficient
    Detectors, ICLR, for the weights by attention; masking answers by confidence is customary in semi-supervised
    learning
Year: 2021
Formula: L = CE(z_s, y) + sum over stages of mean over images and pixels of w (mean over channels of (r(F_s) - F_t)^2) +
    T^2 / B sum over images with max softmax(z_t) >= c of KL(softmax(z_t / T) || softmax(z_s / T)); w has mean 1 per
    image: H W softmax(A_t / tau), or H W softmax(|A_s - A_t| / tau), or (both) their mean; A = mean over channels of
    |F|, over its mean over the image; r = 1x1 convolution and batch norm
Defaults: tau = 0.5: the authors'. All weights 1, T = 4, c = 0.5, stages 3 and 4 are ours: their weights are for
    detectors, and theirs has no term on answers.
Departures: attention is a share of the image's mean, so that tau does not depend on the scale of a layer. The authors
    take the softmax of the sum of both attentions; here it is of the teacher's and of the difference. The weights are
    constants: the student must not learn to look away from what it cannot copy. KL is divided by all B images, so that
    the few sure answers of a doubtful teacher do not count more for it. On mixed images teachers are less sure, and
    more is left out: see _kept in metrics.jsonl. Where sizes differ, the larger map is averaged to the smaller; tokens
    become the map of their square grid, without class token and registers.
Reference: none at hand.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from sapling.errors import MethodError
from sapling.grids import different, grid_of, resize, smaller
from sapling.losses.attention import region_weights, regional_error, relative_attention
from sapling.losses.divergence import kl_divergence
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps


class AttentionGuided(Method):
    """Cross-entropy on the labels, maps weighted by pixel, and answers that the teacher is sure of."""

    class Config(MethodConfig):
        """Settings of attention_guided."""

        stages: Annotated[list[str], AfterValidator(different)] = Field(
            ["stage3", "stage4"], min_length=1, description="maps of both networks"
        )
        regions: Literal["teacher", "difference", "both"] = Field(
            "both", description="pixels that count: where the teacher looks, where the two look differently, or both"
        )
        sharpness: float = Field(0.5, gt=0, le=100, description="tau: the smaller, the fewer pixels count")
        temperature: float = Field(4.0, gt=0, le=1000, description="softens the answers")
        min_confidence: float = Field(
            0.5,
            ge=0,
            le=1,
            description="largest probability that the teacher's answer must have to count; 0: all count",
        )

    config: Config
    terms = ("ce", "feature", "kd")
    requires = Requires(labels=False, min_batch=2)

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The stages of both."""
        assert isinstance(config, cls.Config)
        return Taps(tuple(config.stages), tuple(config.stages))

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Yes."""
        return True

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """Its second term compares them."""
        return True

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build a projector for each stage.

        Raises:
            MethodError: a feature cannot be placed on a grid, or has a single pixel, so that there is nothing to weigh.
        """
        super().__init__(config, info)
        self._grids = {
            tap: (
                grid_of(tap, info.student_shapes, side="student", method=self.name),
                grid_of(tap, info.teacher_shapes, side="teacher", method=self.name),
            )
            for tap in config.stages
        }
        for tap, (own, theirs) in self._grids.items():
            if smaller(own, theirs) == (1, 1):
                raise MethodError(
                    f"method {self.name!r} weighs pixels, and there is a single one in the student's {tap} "
                    f"{list(own.shape)} or the teacher's {list(theirs.shape)}",
                    allowed="stages with more than one pixel in both networks",
                    remedy="leave it out, as with --set method.stages=[stage3], or use a larger --img-size",
                )
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(s.channels, t.channels, 1, bias=False), nn.BatchNorm2d(t.channels))
            for s, t in self._grids.values()
        )
        self._kept = torch.zeros(())

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``feature`` and ``kd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("feature"):
            student, teacher = self.pair(student, teacher)
            found: list[Tensor] = []
            for (tap, (own, theirs)), projector in zip(self._grids.items(), self.projectors, strict=True):
                size = smaller(own, theirs)
                given = resize(own.read(student.features[tap]), size)
                target = resize(theirs.read(teacher.features[tap]), size)
                found.append(regional_error(projector(given), target, self._weights_of(given.detach(), target)))
            terms["feature"] = torch.stack(found).sum()
        if step.wants("kd"):
            student, teacher = self.pair(student, teacher)
            is_sure = teacher.logits.softmax(dim=1).amax(dim=1) >= self.config.min_confidence
            each = kl_divergence(student.logits, teacher.logits, self.config.temperature, "none")
            terms["kd"] = (each * is_sure).mean()
            self._kept = is_sure.to(each).mean()
        return terms

    def _weights_of(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Weight of each pixel ``[B,H,W]``, mean 1 per image."""
        theirs = relative_attention(teacher)
        important = {"teacher": theirs, "difference": (relative_attention(student) - theirs).abs()}
        chosen = important if self.config.regions == "both" else {self.config.regions: important[self.config.regions]}
        weights = [region_weights(values, self.config.sharpness) for values in chosen.values()]
        return torch.stack(weights).mean(dim=0)

    def observations(self) -> dict[str, Tensor]:
        """The share of the last batch whose answers the teacher was sure of."""
        return {"kept": self._kept}
