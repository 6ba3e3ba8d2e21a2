"""Softened answers at a temperature that works against the student (CTKD).

As in KD, but the temperature is learned, and to make the loss larger: the task gets harder while the student learns.

Family: logits
Paper: Li, Li, Yang, Zhao, Song, Luo, Li, Yang: Curriculum Temperature for Knowledge Distillation,
    arXiv:2211.16231, AAAI
Year: 2023
Formula: L = alpha CE(z_s, y) + (1 - alpha) T^2 KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch; T =
    1 + 20 sigmoid(a), a starts at 1 (T = 15.6); the gradient of a is multiplied by a factor that falls from 0 to -1
    like a cosine
Defaults: ce 0.1, kd 0.9, the factor reaches -1 after 1/24 of training (10 of 240 epochs): the authors' on CIFAR-100.
Departures: the factor is a share of the run and changes with every batch; the authors count epochs. One temperature for
    all images, as in the authors' code; that for each image has none. No weight decay on a, as on all single numbers
    here; the authors' optimiser has it.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 71.19, ResNet-32x4 -> 8x4 73.39 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); LSKD's README.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from sapling.losses.divergence import kl_divergence
from sapling.methods.base import Method, MethodConfig, Requires, warmup
from sapling.types import Batch, Outputs, PairInfo, Step


class CTKD(Method):
    """Cross-entropy on the labels, KL divergence at an adversarial temperature."""

    class Config(MethodConfig):
        """Settings of ctkd."""

        min_temperature: float = Field(1.0, gt=0, le=100, description="the lowest that the temperature can become")
        temperature_range: float = Field(20.0, gt=0, le=100, description="how far above that it can rise")
        reversal_share: float = Field(
            1 / 24, ge=0, le=1, description="share of training in which the temperature begins to work against it"
        )

    config: Config
    terms = ("ce", "kd")
    requires = Requires(labels=False)
    default_alpha = 0.1

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the temperature."""
        super().__init__(config, info)
        self.raw = nn.Parameter(torch.tensor(1.0))

    @property
    def temperature(self) -> Tensor:
        """The temperature now, one number."""
        return self.config.min_temperature + self.config.temperature_range * torch.sigmoid(self.raw)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``kd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("kd"):
            student, teacher = self.pair(student, teacher)
            factor = (math.cos(math.pi * warmup(step, self.config.reversal_share)) - 1) / 2
            temperature = self.temperature
            # the value of T, with `factor` times its gradient
            reversed_temperature = temperature.detach() + factor * (temperature - temperature.detach())
            terms["kd"] = kl_divergence(student.logits, teacher.logits, reversed_temperature)
        return terms
