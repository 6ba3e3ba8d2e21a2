"""Attention-based fusion of a feature map with what the deeper ones said (Chen et al. 2021, ReviewKD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sapling.grids import resize


class AttentionFusion(nn.Module):
    """One level of the review: mixes a student's map with what was carried from the deeper levels.

    ``x = BN(conv1x1(map))``; where there is something deeper, it is resized to ``x`` and both are added, each times an
    attention map of its own, ``sigmoid(conv1x1([x, deeper]))``. What comes out is ``BN(conv3x3(x))`` at the teacher's
    size and width; ``x`` itself is carried to the next level.

    Args:
        in_channels: of the student's map.
        mid_channels: of what is carried.
        out_channels: of the teacher's map.
        fuses: whether anything deeper will be given; the deepest level has nothing.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, fuses: bool) -> None:
        super().__init__()
        narrow = nn.Conv2d(in_channels, mid_channels, 1, bias=False)
        widen = nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False)
        for part in (narrow, widen):
            nn.init.kaiming_uniform_(part.weight, a=1)
        self.enter = nn.Sequential(narrow, nn.BatchNorm2d(mid_channels))
        self.attention = nn.Conv2d(2 * mid_channels, 2, 1) if fuses else None
        self.leave = nn.Sequential(widen, nn.BatchNorm2d(out_channels))

    def forward(self, maps: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Give the map to compare with the teacher's, and what is carried on.

        Args:
            maps: the student's, ``[B,in,H,W]``.
            deeper: carried from the level below, ``[B,mid,h,w]``; None at the deepest.
            size: height and width of the teacher's map.

        Returns:
            ``[B,out,*size]`` and ``[B,mid,H,W]``.
        """
        x: Tensor = self.enter(maps)
        if self.attention is not None and deeper is not None:
            deeper = resize(deeper, (x.shape[2], x.shape[3]))
            share = torch.sigmoid(self.attention(torch.cat([x, deeper], dim=1)))
            x = x * share[:, :1] + deeper * share[:, 1:]
        return self.leave(resize(x, size)), x
