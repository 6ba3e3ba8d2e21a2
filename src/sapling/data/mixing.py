"""Mixup and CutMix: images of a batch are mixed in pairs, and their labels with them.

Views are mixed after they were drawn. Who is mixed with whom, and how much, comes from (training seed, epoch, number
of the batch), so that all members of a pass see the same images and a resumed run draws the same. The partner of an
image is the next one of its batch, which is as random as the order of the epoch is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sapling.data.mixspec import MixSpec
from sapling.data.workspace import moved

_STREAM = 0x6D697801  # tells these random numbers from those of the epoch's order


@dataclass(frozen=True, slots=True)
class Mix:
    """How each of B images is mixed with its partner, the image after it (the last one's is the first).

    Attributes:
        share: ``[B]`` float32, weight of the image itself in its target, 0 to 1.
        blend: ``[B]`` float32, weight of its pixels everywhere; 1 for CutMix.
        box: ``[4,B]`` int64, first row, row after the last, first and after the last column of what comes from the
            partner; empty (all 0) for mixup.
    """

    share: Tensor
    blend: Tensor
    box: Tensor

    def to(self, device: torch.device) -> Mix:
        """Move it to where the images are."""
        return Mix(*(moved(values, device) for values in (self.share, self.blend, self.box)))


def draw_mix(spec: MixSpec, *, seed: int, epoch: int, number: int, batch: int, img_size: int) -> Mix:
    """Draw how the images of a batch are mixed.

    Args:
        spec: what may be drawn.
        seed: of the training, 0 or more.
        epoch: its number, from 0.
        number: of the batch in the epoch, from 0.
        batch: B.
        img_size: side of the views in pixels.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, _STREAM, number])))
    # all are always drawn, so that one setting does not change what another draws
    mixed, cut = rng.random(batch) < spec.share, rng.random(batch)
    by_mixup = rng.beta(spec.mixup or 1.0, spec.mixup or 1.0, batch)
    by_cutmix = rng.beta(spec.cutmix or 1.0, spec.cutmix or 1.0, batch)
    centre = rng.random((2, batch))
    is_cut = mixed & (cut < (0.5 if spec.mixup and spec.cutmix else 1.0 if spec.cutmix else 0.0))
    blend = np.where(mixed & ~is_cut, by_mixup, 1.0).astype(np.float32)
    # Yun et al. 2019: a square's share of the area is 1 - lambda; what lies outside of the image is cut off
    half = np.sqrt(1 - by_cutmix) * img_size / 2
    middle = centre * img_size
    low = np.clip(np.rint(middle - half), 0, img_size).astype(np.int64)
    high = np.clip(np.rint(middle + half), 0, img_size).astype(np.int64)
    box = np.where(is_cut, np.stack([low[0], high[0], low[1], high[1]]), 0)
    area = (box[1] - box[0]) * (box[3] - box[2])
    share = np.where(is_cut, 1 - area / img_size**2, blend).astype(np.float32)
    return Mix(torch.from_numpy(share), torch.from_numpy(blend), torch.from_numpy(box))


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Mix ``[B,C,H,W]`` float32 images; their range and memory format stay."""
    partner = images.roll(-1, 0)
    blend = mix.blend[:, None, None, None]
    top, bottom, left, right = mix.box[:, :, None, None, None]
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    column = torch.arange(images.shape[3], device=images.device)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    # product and sum apart: a fused one may round differently from thread to thread
    blended = (images * blend).add_(partner * (1 - blend))
    return torch.where(inside, partner, blended)


def mix_targets(labels: Tensor, mix: Mix, num_classes: int) -> Tensor:
    """``[B,K]`` float32 soft targets of ``[B]`` int64 labels: rows that sum to 1."""
    return mix_probabilities(F.one_hot(labels, num_classes).to(torch.float32), mix)


def mix_probabilities(probabilities: Tensor, mix: Mix) -> Tensor:
    """Mix ``[B,K]`` rows that belong to the unmixed views as their images were mixed.

    This is for a teacher whose answers are kept: it never saw the mixed image, so its soft target is the mix of what
    it said of the two views. It approximates what a live teacher says of the mixed image; reports must say so.
    """
    share = mix.share[:, None]
    return (probabilities * share).add_(probabilities.roll(-1, 0) * (1 - share))
