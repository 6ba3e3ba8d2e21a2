"""Distillation of softened answers (KD).

The student copies the teacher's probabilities at a raised temperature, which shows how the teacher relates
the wrong classes. With ``standardize`` logits are z-scored per image first (LSKD), so that the student
copies their order and spacing but not their scale.

Family: logits
Paper: Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531
Year: 2015
Formula: L = w_ce CE(z_s, y) + w_kd T^2 KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch. Where an image
    may have several labels: w_ce BCE + w_kd T^2 KL of sigmoid(z / T), each a mean over images and labels
Defaults: T = 4, weights 1 and 1: the labels keep the weight that they have in the student alone. Nearly the recipe kdt4
    of the repository of DIST and DiffKD (hunto/image_classification_sota: 0.9 and 1). mdistiller and RepDistiller take
    ce 0.1, kd 0.9 on CIFAR-100 (--alpha 0.1), mdistiller on ImageNet T = 1, 0.5, 0.5; LSKD (Sun, Ren, Li, Wang, Cao:
    Logit Standardization in Knowledge Distillation, arXiv:2403.01427, CVPR 2024) in its repository standardize, T = 2,
    ce 0.1, kd 9. From teachers that were trained with mixup students with those weights are several points below the
    control (AID), with the default they are not; trials and figures are in docs/methods/measured.md.
Departures: --alpha A gives the labels A and the teacher 1 - A; some repositories let alpha multiply the teacher's
    term. With standardize, T stays 4 and both weights 1 unless they are given: setting one option never changes
    another. Sigmoids in place of the softmax are the common form for several labels per image; the defaults are those
    of one class per image and were not tuned for it. With standardize they are refused: the score over the logits of
    an image would take away how many labels it has.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 70.66, ResNet-32x4 -> 8x4 73.33 (alone 69.06 and 72.50; teachers
    72.34 and 79.42); RepDistiller's README. With standardize 71.43 and 76.62; LSKD's README. ImageNet: ResNet-34 ->
    18 71.03; mdistiller's README.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from sapling.errors import ConfigError
from sapling.losses.divergence import check_standardize, kl_divergence, sigmoid_kl, standardize_logits
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step


class KD(Method):
    """Cross-entropy on the labels, KL divergence to the teacher's softened answer."""

    class Config(MethodConfig):
        """Settings of kd."""

        temperature: float = Field(4.0, gt=0, le=1000, description="softens both answers; 1 leaves them as they are")
        standardize: bool = Field(False, description="z-score the logits of each image first (LSKD)")
        reduction: Literal["batchmean", "mean"] = Field(
            "batchmean", description="sum over classes and mean over images, or mean over both, K times smaller (TAKD)"
        )

    config: Config
    terms = ("ce", "kd")
    requires = Requires(labels=False, multi_label=True)

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Yes."""
        return True

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build it; see :class:`Method`.

        Raises:
            ConfigError: ``standardize`` with several labels or two classes, ``reduction`` with several labels.
        """
        super().__init__(config, info)
        if info.multi_label and config.standardize:
            raise ConfigError(
                f"method {self.name!r}: standardize compares the classes of an image, and these images may have "
                "several labels",
                remedy="leave standardize away",
            )
        if info.multi_label and config.reduction == "mean":
            raise ConfigError(f"method {self.name!r}: reduction: several labels per image are averaged over as it is")
        if config.standardize:
            check_standardize(info.num_classes, self.name)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``kd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("kd"):
            student, teacher = self.pair(student, teacher)
            z_s, z_t = student.logits, teacher.logits
            if self.config.standardize:
                z_s, z_t = standardize_logits(z_s), standardize_logits(z_t)
            if self.info.multi_label:
                terms["kd"] = sigmoid_kl(z_s, z_t, self.config.temperature)
            else:
                terms["kd"] = kl_divergence(z_s, z_t, self.config.temperature, self.config.reduction)
        return terms
