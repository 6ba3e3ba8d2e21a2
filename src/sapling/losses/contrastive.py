"""Losses that ask which of many vectors belongs to the same image.

Shapes: B batch, D embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sapling.losses.checks import check_pair, check_temperature, full_precision


def info_nce(student: Tensor, teacher: Tensor, labels: Tensor | None = None, temperature: float = 0.07) -> Tensor:
    """Cross-entropy, in nats, of finding the teacher's vector of an image among those of the batch, and the reverse.

    ``-mean_i log(exp(s_i t_i / T) / sum_j exp(s_i t_j / T))`` over unit vectors, plus the same with the sides
    exchanged: both directions are added, as in Tian et al. 2020 (CRD). Equal vectors, which say nothing, give 2 log B.

    Args:
        student: ``[B,D]``; brought to length 1 here.
        teacher: ``[B,D]``; brought to length 1 here.
        labels: ``[B]``; other images of the same class are then no wrong answers and are left out. None: all are.
        temperature: T.

    Raises:
        MethodError: the shapes differ, or the temperature is not above 0.
    """
    check_pair(student, teacher, "embeddings")
    check_temperature(temperature)
    s, t = F.normalize(full_precision(student), dim=1), F.normalize(full_precision(teacher), dim=1)
    scores = s @ t.T / temperature
    own = torch.arange(len(scores), device=scores.device)
    if labels is not None:
        same = (labels[:, None] == labels[None, :]) & (own[:, None] != own[None, :])
        scores = scores.masked_fill(same, -torch.inf)
    return F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)


def noise_contrastive(
    positive: Tensor, negative: Tensor, counts: Tensor, log_partition: Tensor, num_images: int
) -> Tensor:
    """Telling an image's own vector from drawn ones: binary cross-entropy in nats, summed over draws, mean over B.

    Noise-contrastive estimation as in Tian et al. 2020 (CRD, equation 15 and their code): with K draws from N images,
    noise has the density 1/N and ``P = exp(s) / Z``; ``-log(P / (P + K/N))`` for the own vector and ``-log((K/N) / (P +
    K/N))`` for each draw. Here in logarithms, so that nothing overflows (theirs adds 1e-7 to the denominators instead).

    Args:
        positive: ``[B]``, s of the own vector: cosine over temperature.
        negative: ``[B,N]``, s of every vector that may be drawn.
        counts: ``[B,N]``, how often each was drawn; every row sums to K.
        log_partition: log Z, one number, constant.
        num_images: N in the noise's density.
    """
    draws = counts.sum(dim=1).to(positive)
    shift = log_partition + (draws / num_images).log()
    right = F.softplus(shift - positive)
    wrong = (counts * F.softplus(negative - shift[:, None])).sum(dim=1)
    return (right + wrong).mean()


def log_partition(positive: Tensor, negative: Tensor, counts: Tensor, num_images: int) -> Tensor:
    """Log of N times the mean of exp(s) over own and drawn vectors: the authors' estimate of Z from one batch.

    Args:
        positive: ``[B]``, see :func:`noise_contrastive`.
        negative: ``[B,N]``.
        counts: ``[B,N]``.
        num_images: N.
    """
    scores = torch.cat([positive.flatten(), (negative + counts.log()).flatten()])
    number = len(positive) + counts.sum()
    return scores.logsumexp(dim=0) - number.log() + math.log(num_images)
