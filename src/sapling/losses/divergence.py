"""Divergences between the softened answers of teacher and student.

Shapes: B batch, K classes. ``softmax(z / T)`` is written p for the teacher and q for the student.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sapling.errors import ConfigError, MethodError
from sapling.losses.checks import check_pair, check_temperature, full_precision

Reduction = Literal["batchmean", "positionmean", "mean", "none"]


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float | Tensor = 1.0,
    reduction: Reduction = "batchmean",
) -> Tensor:
    """``T^2 * sum_k p_k (log p_k - log q_k)``, p of ``softmax(teacher / T)``, q of ``softmax(student / T)``.

    The factor T^2 is included: it keeps the size of the gradient when T changes (Hinton et al. 2015).

    Args:
        student_logits: ``[B,K]``, or ``[B,K,..]`` with a divergence at each position; K is always axis 1.
        teacher_logits: the same shape.
        temperature: T; a tensor must broadcast against the logits (``[B,1]`` for one T per image).
        reduction: ``batchmean``: sum over everything / B, as most papers do. ``positionmean``: mean over
            B and positions. ``mean``: over all elements, so K times smaller (TAKD). ``none``: ``[B,..]``.

    Raises:
        MethodError: the shapes differ, or the temperature is not above 0.
    """
    check_pair(student_logits, teacher_logits)
    check_temperature(temperature, per_image=True)
    log_p = torch.log_softmax(full_precision(teacher_logits) / temperature, dim=1)
    log_q = torch.log_softmax(full_precision(student_logits) / temperature, dim=1)
    terms = log_p.exp() * (log_p - log_q) * temperature**2
    if reduction == "mean":
        return terms.mean()
    return _reduce(terms.sum(dim=1), reduction)


def spatial_kl(student_map: Tensor, teacher_map: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """``T^2 *`` mean over B and C of the divergence between the softmax over the positions of each channel.

    Where in the picture does each channel answer? (Shu et al. 2021, channel-wise distillation, CWD; equation 6.)

    Args:
        student_map: ``[B,C,H,W]``.
        teacher_map: the same shape, with 2 positions or more.
        temperature: T, one number.

    Raises:
        MethodError: the shapes differ or have one position, or the temperature is not above 0.
    """
    check_pair(student_map.flatten(2).flatten(0, 1), teacher_map.flatten(2).flatten(0, 1), "positions of channels")
    return kl_divergence(student_map.flatten(2).flatten(0, 1), teacher_map.flatten(2).flatten(0, 1), temperature)


def sigmoid_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 * mean over B and K of KL(Bernoulli(p) || Bernoulli(q))``, p and q of ``sigmoid(z / T)``, p the teacher's.

    For images with several labels: each logit answers for itself. The factor T^2 keeps the size of the gradient when
    T changes, as in :func:`kl_divergence`. Log-sigmoids are used, so a certain teacher gives no log of 0.

    Args:
        student_logits: ``[B,K]``.
        teacher_logits: ``[B,K]``.
        temperature: T.

    Raises:
        MethodError: the shapes differ, or the temperature is not above 0.
    """
    check_pair(student_logits, teacher_logits)
    check_temperature(temperature)
    student, teacher = full_precision(student_logits) / temperature, full_precision(teacher_logits) / temperature
    log_p, log_not_p = F.logsigmoid(teacher), F.logsigmoid(-teacher)
    log_q, log_not_q = F.logsigmoid(student), F.logsigmoid(-student)
    terms = log_p.exp() * (log_p - log_q) + log_not_p.exp() * (log_not_p - log_not_q)
    return terms.mean() * temperature**2


def decoupled(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 1.0,
    reduction: Literal["batchmean", "none"] = "batchmean",
) -> tuple[Tensor, Tensor]:
    """Split the KL divergence into a target and a non-target half, each times T^2 (Zhao et al. 2022, DKD).

    With y the label: ``target = KL([p_y, 1 - p_y] || [q_y, 1 - q_y])``, and ``non_target`` is the divergence
    over the K - 1 other classes, each side renormalised among them. Exact identity per image:
    ``kl_divergence = target + (1 - p_y) * non_target``.

    log(1 - p_y) is a log-sum-exp over the other classes, so a teacher that is certain gives no log of 0 (the
    authors' code takes the log of a sum of probabilities and subtracts 1000 from the target logit).

    Args:
        student_logits: ``[B,K]``.
        teacher_logits: ``[B,K]``.
        labels: ``[B]`` int64, in [0,K).
        temperature: T, one number.
        reduction: ``batchmean`` or ``none``; with ``[B,K]`` there is no other mean to take.

    Returns:
        ``(target, non_target)``.

    Raises:
        MethodError: the shapes do not fit, or the temperature is not above 0.
    """
    check_pair(student_logits, teacher_logits)
    check_temperature(temperature)
    if student_logits.dim() != 2 or labels.shape != student_logits.shape[:1]:
        raise MethodError(
            f"labels have the shape {list(labels.shape)}, logits {list(student_logits.shape)}",
            allowed="labels [B] and logits [B,K]",
        )
    student = full_precision(student_logits) / temperature
    teacher = full_precision(teacher_logits) / temperature
    log_p_target, log_p_rest = _target_and_rest(teacher, labels)
    log_q_target, log_q_rest = _target_and_rest(student, labels)
    target = log_p_target.exp() * (log_p_target - log_q_target) + log_p_rest.exp() * (log_p_rest - log_q_rest)
    log_p = torch.log_softmax(_others(teacher, labels), dim=1)
    log_q = torch.log_softmax(_others(student, labels), dim=1)
    non_target = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    scale = temperature**2
    return _reduce(target * scale, reduction), _reduce(non_target * scale, reduction)


def standardize_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """``(z - mean) / (std + eps)`` per image, with the unbiased std (Sun et al. 2024, LSKD).

    Unchanged by ``z -> a z + b`` for a > 0 (up to eps): the student need not copy the scale of the teacher.

    Args:
        logits: ``[B,K]``; of a map ``[B,K,H,W]`` each position is standardised alone.
        eps: keeps equal logits finite.
    """
    values = full_precision(logits)
    centred = values - values.mean(dim=1, keepdim=True)
    # the root has no gradient at 0, where a fresh zero classifier stands: a floor far below eps^2
    variance = centred.square().sum(dim=1, keepdim=True) / (values.shape[1] - 1)
    return centred / (variance.clamp_min(1e-30).sqrt() + eps)


def check_standardize(num_classes: int, method: str) -> None:
    """Refuse to standardise the logits of two classes: all images would get the same two numbers, but for the sign.

    Raises:
        ConfigError: names ``method``.
    """
    if num_classes == 2:
        raise ConfigError(
            f"method {method!r}: of two classes, standardised logits are the same two numbers for every image but for "
            "their order, so that nothing could be learned from them",
            remedy="leave standardising away (standardize; normalise; the weight kd of norm)",
        )


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits without the labelled class, ``[B,K-1]``; by index, as a mask would make the GPU wait."""
    index = torch.arange(logits.shape[1] - 1, device=logits.device).expand(logits.shape[0], -1)
    return logits.gather(1, index + (index >= labels[:, None]))


def _target_and_rest(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``log p_y`` and ``log(1 - p_y)``, each ``[B]``."""
    total = logits.logsumexp(dim=1)
    target = logits.gather(1, labels[:, None]).squeeze(1)
    return target - total, _others(logits, labels).logsumexp(dim=1) - total


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Reduce ``[B,..]``, already summed over classes."""
    if reduction == "none":
        return values
    if reduction == "batchmean":
        return values.sum() / values.shape[0]
    if reduction == "positionmean":
        return values.mean()
    raise MethodError(f"reduction {reduction!r} is unknown", allowed="batchmean, positionmean, mean, none")
