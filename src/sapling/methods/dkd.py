"""Decoupled distillation: target and non-target classes weighted apart (DKD).

Plain KD multiplies what the teacher says of the wrong classes by its doubt in the right one, so a sure
teacher teaches little. DKD splits the divergence and gives that part its own weight.

Family: logits
Paper: Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, arXiv:2203.08679, CVPR
Year: 2022
Formula: L = CE(z_s, y) + r (a TCKD + b NCKD), r rising from 0 to 1 in the warm-up; TCKD = T^2 KL between
    [p_y, 1 - p_y] of teacher and student, NCKD = T^2 KL over the other classes, each side renormalised
Defaults: T = 4, ce 1, tckd 1 (a), nckd 8 (b), warm-up 1/12 (20 of 240 epochs): mdistiller on CIFAR-100. The
    authors tune b per pair: 2 to 8; ImageNet: T = 1, b = 0.5. With standardize (LSKD) theirs is T = 2 and
    a, b times 9 to 18.
Departures: a and b are the weights of two terms, not options, so each is logged and swept alone. The
    warm-up is a share of the run and rises with every batch; the authors count epochs (min(epoch / 20, 1)),
    which a short run would never finish. log(1 - p_y) is a log-sum-exp; the authors' log of a sum is -inf
    for a certain teacher. Of two classes nckd is left out: it is 0.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 71.97, ResNet-32x4 -> 8x4 76.32 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); mdistiller's README. Re-runs in mdistiller's issue 40: 75.8 to 76.2 for the second. ImageNet:
    ResNet-34 -> 18 71.70; mdistiller's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sapling.losses.divergence import check_standardize, decoupled, standardize_logits
from sapling.methods.base import Method, MethodConfig, Requires, warmup
from sapling.methods.weights import without
from sapling.types import Batch, Outputs, PairInfo, Step


class DKD(Method):
    """Cross-entropy on the labels, and the two halves of the KL divergence."""

    class Config(MethodConfig):
        """Settings of dkd."""

        temperature: float = Field(4.0, gt=0, le=1000, description="softens both answers; 1 leaves them as they are")
        standardize: bool = Field(False, description="z-score the logits of each image first (LSKD)")
        warmup_share: float = Field(
            1 / 12, ge=0, le=1, description="share of training in which tckd and nckd rise from 0"
        )

    config: Config
    terms = ("ce", "tckd", "nckd")
    requires = Requires(labels=True)
    scales: ClassVar[Mapping[str, float]] = {"nckd": 8.0}

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Yes."""
        return True

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build it; see :class:`Method`. Of two classes ``nckd`` is left out.

        Raises:
            ConfigError: ``standardize`` with two classes, or a weight of ``nckd``.
        """
        super().__init__(config, info)
        if config.standardize:
            check_standardize(info.num_classes, self.name)
        if info.num_classes == 2:
            reasons = {"nckd": "of two classes only one is not the target, and takes all of what is left"}
            self._weights = without(self._weights, reasons, config.weights, self.name)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``tckd`` and ``nckd``, the last two times the warm-up."""
        terms = self.label_terms(student, batch, step)
        if step.wants("tckd") or step.wants("nckd"):
            student, teacher = self.pair(student, teacher)
            z_s, z_t = student.logits, teacher.logits
            if self.config.standardize:
                z_s, z_t = standardize_logits(z_s), standardize_logits(z_t)
            halves = decoupled(z_s, z_t, self.class_numbers(batch), self.config.temperature)
            rise = warmup(step, self.config.warmup_share)
            for name, value in zip(("tckd", "nckd"), halves, strict=True):
                if step.wants(name):
                    terms[name] = rise * value
        return terms
