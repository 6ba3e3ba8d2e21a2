"""Losses that ask which of many vectors belongs to the same image.

Shapes: B batch, D embedding.
"""

from __future__ import annotations

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
