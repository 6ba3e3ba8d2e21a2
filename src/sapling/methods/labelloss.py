"""What the label term ``ce`` is where classes are imbalanced; the same for control, student and teacher."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from sapling.errors import ConfigError
from sapling.losses.checks import full_precision
from sapling.losses.labels import (
    adjusted_cross_entropy,
    inverse_frequency,
    log_prior,
    positive_weights,
    weighted_cross_entropy,
)


class LabelLoss(Protocol):
    """Loss of logits ``[B,K]`` and a target, ``[B]`` int64 or ``[B,K]`` float32: a scalar in nats."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch."""


class _OfClasses(nn.Module):
    """A loss with one number per class, which goes to the device with the method but not into its state."""

    by_class: Tensor

    def __init__(self, by_class: Tensor) -> None:
        super().__init__()
        self.register_buffer("by_class", by_class, persistent=False)


class WeightedClasses(_OfClasses):
    """Cross-entropy in which rare classes weigh more."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :func:`sapling.losses.labels.weighted_cross_entropy`."""
        return weighted_cross_entropy(logits, target, self.by_class)


class WeightedPositives(_OfClasses):
    """Binary cross-entropy in which having a rare label weighs more, mean over images and labels."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :func:`sapling.losses.labels.positive_weights`."""
        return F.binary_cross_entropy_with_logits(full_precision(logits), target, pos_weight=self.by_class)


class AdjustedLogits(_OfClasses):
    """Cross-entropy of logits to which the log prior is added while training."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """See :func:`sapling.losses.labels.adjusted_cross_entropy`."""
        return adjusted_cross_entropy(logits, target, self.by_class)


def make_label_loss(imbalance: str, labels: Tensor, num_classes: int, power: float = 1.0) -> LabelLoss | None:
    """Make the label loss of a setting; None is plain cross-entropy.

    Args:
        imbalance: ``train.imbalance``; what changes the images that are drawn (``sampler``) changes no loss.
        labels: ``[N]`` int64 of all training images, or ``[N,K]`` 0 and 1 where an image may have several labels.
        num_classes: K.
        power: ``train.imbalance_power``.

    Raises:
        ConfigError: there is no such setting, or not for several labels per image.
    """
    if labels.dim() == 2 and imbalance not in ("none", "class_weights"):
        raise ConfigError(
            f"imbalance is {imbalance!r}, which needs one class per image, and these images may have several labels",
            allowed="none, class_weights",
        )
    if labels.dim() == 2 and imbalance == "class_weights":
        return WeightedPositives(positive_weights(labels, power))
    if imbalance in ("none", "sampler"):
        return None
    if imbalance == "class_weights":
        return WeightedClasses(inverse_frequency(labels, num_classes, power))
    if imbalance == "logit_adjustment":
        return AdjustedLogits(log_prior(labels, num_classes, power))
    raise ConfigError(f"imbalance is {imbalance!r}", allowed="none, sampler, class_weights, logit_adjustment")
