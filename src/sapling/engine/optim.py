"""Optimiser and learning-rate schedule of one member.

The learning rate is a pure function of the step, so there is no scheduler state to save or to get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from sapling.models.tapped import TappedModel

BASE_LR = {"sgd": 0.05, "adamw": 2e-3}
BASE_BATCH = 64
PRETRAINED_FACTOR = 0.1


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """Everything that decides how weights move.

    Attributes:
        optimizer: ``sgd`` (Nesterov) or ``adamw``.
        lr: highest learning rate.
        weight_decay: on matrices and filters only, not on biases and norms.
        schedule: ``cosine`` to 0, ``step``, or ``constant``.
        warmup_steps: linear, from ``lr / warmup_steps``.
        total_steps: length of the schedule.
        drop_steps: steps between drops of ``step``.
        drop_factor: what a drop multiplies by.
        momentum: of sgd.
        clip_norm: largest gradient norm, or None.
        layer_decay: each layer of a network learns at this share of the rate of the one behind it; None: all alike.
    """

    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    schedule: Literal["cosine", "step", "constant"]
    warmup_steps: int
    total_steps: int
    drop_steps: int = 1
    drop_factor: float = 0.1
    momentum: float = 0.9
    clip_norm: float | None = None
    layer_decay: float | None = None


def default_lr(optimizer: str, batch_size: int, *, pretrained: bool) -> float:
    """0.05 (sgd) or 0.002 (adamw) at batch 64, linear in the batch; a tenth of it from published weights."""
    return BASE_LR[optimizer] * batch_size / BASE_BATCH * (PRETRAINED_FACTOR if pretrained else 1.0)


def learning_rate(settings: OptimSettings, step: int) -> float:
    """Learning rate of ``step`` (from 0)."""
    warm = min(settings.warmup_steps, settings.total_steps)
    if step < warm:
        return settings.lr * (step + 1) / warm
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * settings.drop_factor ** (step // settings.drop_steps)
    done = (step - warm) / max(1, settings.total_steps - warm)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(modules: Iterable[nn.Module], settings: OptimSettings) -> torch.optim.Optimizer:
    """Optimiser over all parameters of ``modules`` that want a gradient; fused (one pass over the weights).

    With ``layer_decay`` the groups of a `TappedModel` carry ``lr_scale``, by which the trainer multiplies the rate; the
    classifier's is 1 (Clark et al., 2020, ELECTRA; timm's groups). A method's own parts always learn at the full rate.
    """
    groups: list[dict[str, Any]] = []
    others: list[nn.Parameter] = []
    for module in modules:
        if settings.layer_decay is not None and isinstance(module, TappedModel):
            network, decay = module.model, settings.layer_decay
            groups += param_groups_layer_decay(network, weight_decay=settings.weight_decay, layer_decay=decay)
        else:
            others += [p for p in module.parameters() if p.requires_grad]
    groups += [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True
    )
