"""Cross-entropy with labels of which some are rare: weighted classes, and logits adjusted by the prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sapling.errors import MethodError
from sapling.losses.checks import full_precision


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """``[K]`` float64: how many of ``labels`` (``[N]`` int64) each class has, 1 at least.

    A class without any would have no weight and no prior.
    """
    if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise MethodError(f"the labels are no numbers of {num_classes} classes, or there are none")
    return torch.bincount(labels, minlength=num_classes).to(torch.float64).clamp(min=1)


def inverse_frequency(labels: Tensor, num_classes: int, power: float = 1.0) -> Tensor:
    """``[K]`` float32: weights of classes, ``n_k ** -power``, whose mean over the labels is 1.

    With a mean of 1 the learning rate means what it meant without weights.

    Args:
        labels: ``[N]`` int64, of all training images.
        num_classes: K.
        power: 1 gives every class the same share of the loss, 0.5 the square root of that, 0 all images the same.
    """
    weights = class_counts(labels, num_classes) ** -power
    return (weights / weights[labels].mean()).to(torch.float32)


def log_prior(labels: Tensor, num_classes: int, power: float = 1.0) -> Tensor:
    """``[K]`` float32: ``power * log(n_k / N)``, which is ``tau log pi`` in Menon et al.

    Args:
        labels: ``[N]`` int64, of all training images.
        num_classes: K.
        power: tau; 1 is what is right for balanced accuracy.
    """
    counts = class_counts(labels, num_classes)
    return (power * torch.log(counts / counts.sum())).to(torch.float32)


def positive_weights(targets: Tensor, power: float = 1.0) -> Tensor:
    """``[K]`` float32: ``(images without the label / images with it) ** power``, as torch's ``pos_weight``.

    Args:
        targets: ``[N,K]`` 0 or 1, of all training images.
        power: 1 gives images with and without a label the same share of its loss, 0 weighs all alike.
    """
    if targets.dim() != 2 or not len(targets):
        raise MethodError(f"targets have the shape {list(targets.shape)}", allowed="[N,K] with N of 1 or more")
    positive = targets.to(torch.float64).sum(0)
    # A label that no image has, or every image, would have no weight or none at all.
    counts = positive.clamp(1, max(len(targets) - 1, 1))
    return (((len(targets) - counts) / counts) ** power).to(torch.float32)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean over the batch of ``- sum_k w_k t_k log softmax(z)_k``, in nats.

    The mean is over images, not over weights as in torch: there a batch of rare classes alone would weigh no more
    than one of frequent classes.

    Args:
        logits: ``[B,K]``.
        target: ``[B]`` int64 or ``[B,K]`` float32, of mixed images.
        weights: ``[K]``, see :func:`inverse_frequency`.
    """
    return F.cross_entropy(full_precision(logits), target, weight=weights, reduction="none").mean()


def adjusted_cross_entropy(logits: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """Mean cross-entropy in nats of ``logits + prior``; the network that is kept gives ``logits``.

    Source: Menon, Jayasumana, Rawat, Jain, Veit, Kumar: Long-tail learning via logit adjustment, arXiv:2007.07314,
    ICLR 2021, equation 10.

    Args:
        logits: ``[B,K]``.
        target: ``[B]`` int64 or ``[B,K]`` float32, of mixed images.
        prior: ``[K]``, see :func:`log_prior`.
    """
    return F.cross_entropy(full_precision(logits) + prior, target)
