"""Answers at several temperatures, and which images and which classes are answered alike (MLKD).

Beside each answer, softened to five degrees, the student copies how alike two images of the batch are answered, and how
often two classes are answered together. Images and classes of which the teacher is less sure than of most count more.

Family: logits
Paper: Jin, Wang, Lin: Multi-Level Logit Distillation, CVPR
Year: 2023
Formula: L = 0.2 CE(z_s, y) + 0.9 sum over T of [mean over images i of (1 + m_i) T^2 KL(p_t,i || p_s,i) + sum_jk k_k
    (P_t^T P_t - P_s^T P_s)_jk^2 / K + sum_ij m_j (P_t P_t^T - P_s P_s^T)_ij^2 / B]; P [B,K] the probabilities at T, m_i
    = 1 where the teacher's largest probability (T = 1) is at most its median in the batch, k_k = 1 where its
    probabilities of class k sum to at most their median over the classes; else 0
Defaults: T = 2, 3, 4, 5, 6, weights 0.2 and 0.9 as written: the authors' code, with CE 0.1 on each of two views.
Departures: one view stands for both of theirs (a weak one and a RandAugment one of each image): the formula is theirs
    with both views the same. A fresh view comes with each epoch, and --views strong makes it a strong one. In the
    authors' code the masks multiply losses that are already one number, so that they only scale them by the share that
    is masked; here they choose images and classes, as the paper says. reference gives what the code does. Half of the 1
    + m_i is the unmasked loss of their strong view; of cc and bc they use the masked half alone.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 72.19, ResNet-32x4 -> 8x4 77.08 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); LSKD's README. In that code its training was 480 epochs instead of 240.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from sapling.losses.correlation import class_similarity, image_similarity
from sapling.losses.divergence import kl_divergence
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, Step


class MLKD(Method):
    """Cross-entropy on the labels; answers, likeness of images and likeness of classes at several temperatures."""

    class Config(MethodConfig):
        """Settings of mlkd."""

        temperatures: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(
            (2.0, 3.0, 4.0, 5.0, 6.0),
            min_length=1,
            max_length=16,
            description="each soften both answers; losses add up",
        )
        reference: bool = Field(
            False, description="masks only scale whole losses, as in the authors' code, in place of choosing images"
        )

    config: Config
    terms = ("ce", "kd", "cc", "bc")
    requires = Requires(labels=False, min_batch=8)
    default_alpha = 0.2
    scales: ClassVar[Mapping[str, float]] = {"kd": 1.125, "cc": 1.125, "bc": 1.125}

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``kd`` (each image), ``cc`` (classes) and ``bc`` (images of the batch)."""
        terms = self.label_terms(student, batch, step)
        if not any(step.wants(term) for term in self.terms[1:]):
            return terms
        student, teacher = self.pair(student, teacher)
        z_s, z_t = student.logits, teacher.logits
        answers = z_t.softmax(dim=1)
        images, classes = _up_to_median(answers.amax(dim=1)), _up_to_median(answers.sum(dim=0))
        if self.config.reference:
            images, classes = (mask.mean().expand_as(mask) for mask in (images, classes))
        temperatures = self.config.temperatures
        if step.wants("kd"):
            each = sum(kl_divergence(z_s, z_t, t, "none") for t in temperatures)
            terms["kd"] = ((1 + images) * each).mean()
        if step.wants("cc"):
            terms["cc"] = torch.stack([class_similarity(z_s, z_t, t, classes) for t in temperatures]).sum()
        if step.wants("bc"):
            terms["bc"] = torch.stack([image_similarity(z_s, z_t, t, images) for t in temperatures]).sum()
        return terms


def _up_to_median(values: Tensor) -> Tensor:
    """1 where a value is at most the median of all (the mean of the middle two), else 0."""
    return (values <= values.quantile(0.5)).to(values)
