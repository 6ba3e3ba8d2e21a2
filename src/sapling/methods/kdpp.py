"""Softened answers, and embeddings that point where the teacher's class does, at least as far (KD++, with the ND loss).

Students' embeddings are shorter than their teacher's and less aligned with the mean embedding of their class. Both are
asked for at once, beside plain distillation of answers.

Family: logits and features
Paper: Wang, Cheng, Duan, Wang, Feng, Kong: Improving Knowledge Distillation via Regularizing Feature Norm and
    Direction, arXiv:2305.17007
Year: 2023
Formula: L = CE(z_s, y) + r T^2 KL(softmax(z_t / T) || softmax(z_s / T)) + w mean over images of 1 - (s c_y / |c_y|) /
    max(|s|, |e_t|); s the student's embedding, c_y the mean of the teacher's over the class y, r rising from 0 to 1 in
    the warm-up
Defaults: ce 1, kd 1, nd 1, T = 4, warm-up 1/12 (20 of 240 epochs): the defaults of the authors' script for CIFAR-100.
    Their README lists nd 0.5 to 4 by pair; with it, 72.53 % for ResNet-56 -> 20 and 75.54 % for ResNet-32x4 -> 8x4
    (plain KD 70.66 and 73.33).
Departures: class means are those of the embeddings seen so far in training, this batch among them, each view counted
    once; the authors compute them before training, over all training images. Where the widths of both embeddings
    differ, s is a batch norm and a linear layer of the student's, as theirs, without their dropout. The warm-up rises
    with every batch; the authors count epochs.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 72.53, ResNet-32x4 -> 8x4 75.54 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); ND's README.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sapling.grids import as_vector, width_of
from sapling.losses.divergence import kl_divergence
from sapling.losses.embeddings import norm_and_direction
from sapling.methods.base import Method, MethodConfig, Requires, warmup
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

EMBEDDING = "embedding"


class KDpp(Method):
    """Cross-entropy on the labels, KL divergence of answers, norm and direction of embeddings."""

    class Config(MethodConfig):
        """Settings of kdpp."""

        temperature: float = Field(4.0, gt=0, le=1000, description="softens both answers; 1 leaves them as they are")
        warmup_share: float = Field(1 / 12, ge=0, le=1, description="share of training in which kd rises from 0")

    config: Config
    terms = ("ce", "kd", "nd")
    requires = Requires(labels=True, min_batch=2)
    sums: Tensor
    counts: Tensor

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """Both embeddings."""
        return Taps((EMBEDDING,), (EMBEDDING,))

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """Its term kd compares them."""
        return True

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Yes."""
        return True

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the projector, where widths differ, and empty class means."""
        super().__init__(config, info)
        own, theirs = width_of(info.student_shapes[EMBEDDING]), width_of(info.teacher_shapes[EMBEDDING])
        self.projector = nn.Identity() if own == theirs else nn.Sequential(nn.BatchNorm1d(own), nn.Linear(own, theirs))
        self.register_buffer("sums", torch.zeros(info.num_classes, theirs))
        self.register_buffer("counts", torch.zeros(info.num_classes))

    def centres(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean embedding ``[B,D]`` of each image's class: of all seen in training and of this batch.

        Args:
            embeddings: ``[B,D]``, the teacher's; in training they are remembered.
            labels: ``[B]``.
        """
        # a product with ones and zeros: sums by index come out differently each time on a GPU
        belongs = F.one_hot(labels, len(self.counts)).to(self.sums)
        sums, counts = self.sums + belongs.T @ embeddings.to(self.sums), self.counts + belongs.sum(dim=0)
        if self.training:
            self.sums, self.counts = sums, counts
        return sums[labels] / counts[labels, None]

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``kd`` times the warm-up, and ``nd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("kd") or step.wants("nd"):
            student, teacher = self.pair(student, teacher)
            if step.wants("kd"):
                found = kl_divergence(student.logits, teacher.logits, self.config.temperature)
                terms["kd"] = warmup(step, self.config.warmup_share) * found
            if step.wants("nd"):
                theirs = as_vector(teacher.features[EMBEDDING])
                own = self.projector(as_vector(student.features[EMBEDDING]))
                terms["nd"] = norm_and_direction(own, theirs, self.centres(theirs, self.class_numbers(batch)))
        return terms
