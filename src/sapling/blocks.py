"""Small networks that methods are made of: autoencoder, denoiser, noise adapter, projector, and the DDIM schedule.

Shapes: B batch, C channels of a map, L channels of a latent, H and W pixels, T tokens. Source of all of them: Huang et
al., Knowledge Diffusion for Distillation (DiffKD), NeurIPS 2023, arXiv:2305.15712, and its code; layers, biases,
initial values (those of PyTorch) and the order of parts are the code's, so that its weights can be compared with ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sapling.errors import MethodError

TRAIN_STEPS = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02
EMBEDDED_STEPS = 1280
"""Rows of the table of time embeddings: as in DiffKD's code, although only the first 1,000 are ever used."""


class Bottleneck(nn.Module):
    """``x + block(x)`` with a narrow 3x3 convolution in the middle, and no activation behind the sum.

    Args:
        channels: of input and output.
        reduction: the middle has ``channels // reduction``, 1 at least.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.block = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]`` to the same shape."""
        out: Tensor = x + self.block(x)
        return out


class Autoencoder(nn.Module):
    """A linear code of a map, position by position: 1x1 convolution and batch norm; back by a 1x1 convolution.

    Args:
        channels: C of the map.
        latent: L of the code.
    """

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(channels, latent, 1), nn.BatchNorm2d(latent))
        self.decoder = nn.Sequential(nn.Conv2d(latent, channels, 1))

    def encode(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]`` to ``[B,L,H,W]``."""
        latent: Tensor = self.encoder(x)
        return latent

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Code ``[B,L,H,W]`` and reconstruction ``[B,C,H,W]``."""
        latent = self.encode(x)
        return latent, self.decoder(latent)


class Denoiser(nn.Module):
    """Says which noise is in a noisy latent.

    Args:
        latent: L.
        kernel_size: 3 for maps (two bottlenecks, a 1x1 convolution and a batch norm at the end), 1 for vectors that
            are held as ``[B,L,1,1]`` (1x1 convolutions of width 4 L).
    """

    def __init__(self, latent: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.time_embedding = nn.Embedding(EMBEDDED_STEPS, latent)
        if kernel_size == 3:
            self.pred = nn.Sequential(
                Bottleneck(latent, 4), Bottleneck(latent, 4), nn.Conv2d(latent, latent, 1), nn.BatchNorm2d(latent)
            )
        else:
            wide = 4 * latent
            self.pred = nn.Sequential(
                nn.Conv2d(latent, wide, 1),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.Conv2d(wide, latent, 1),
                nn.BatchNorm2d(latent),
                nn.Conv2d(latent, wide, 1),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.Conv2d(wide, latent, 1),
            )

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Predicted noise, of the shape of ``noisy`` ``[B,L,H,W]``; ``timestep`` is ``[B]`` int64 in [0,1000)."""
        noise: Tensor = self.pred(noisy + self.time_embedding(timestep)[:, :, None, None])
        return noise


class NoiseAdapter(nn.Module):
    """Says for each image how much of its latent to keep: gamma in (0,1), about 0.5 at the start.

    Args:
        latent: L.
        kernel_size: as of :class:`Denoiser`.
    """

    def __init__(self, latent: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size == 3:
            self.feat = nn.Sequential(Bottleneck(latent, 8), nn.AdaptiveAvgPool2d(1))
        else:
            self.feat = nn.Sequential(
                nn.Conv2d(latent, 2 * latent, 1),
                nn.BatchNorm2d(2 * latent),
                nn.ReLU(),
                nn.Conv2d(2 * latent, latent, 1),
                nn.BatchNorm2d(latent),
            )
        self.pred = nn.Linear(latent, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``[B,L,H,W]`` to gamma ``[B]``."""
        return torch.softmax(self.pred(self.feat(x).flatten(1)), dim=1)[:, 0]


def projector(channels: int) -> nn.Sequential:
    """1x1 convolution and batch norm, from ``channels`` to as many."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


class DiffusionSchedule(nn.Module):
    """Linear betas of 1,000 training steps, and a deterministic DDIM chain (eta 0) from their middle to 0.

    With n steps the stride is ``1000 // (2 n)`` and the chain visits ``(n - 1) * stride, .., stride, 0``: 400, 300,
    200, 100, 0 with the customary 5. That is the second half of a chain of 2 n steps, as in DiffKD's code: a student's
    latent is taken to be half noise, not noise alone. Nothing is clipped; behind step 0 no noise is left.

    Args:
        num_steps: n.
    """

    alpha_bar: Tensor

    def __init__(self, num_steps: int = 5) -> None:
        super().__init__()
        betas = torch.linspace(FIRST_BETA, LAST_BETA, TRAIN_STEPS, dtype=torch.float64)
        products = torch.cumprod(1 - betas, dim=0)
        self.register_buffer("alpha_bar", products.float(), persistent=False)
        stride = TRAIN_STEPS // (2 * num_steps)
        self.timesteps = tuple(range((num_steps - 1) * stride, -1, -stride))
        self._products = products.tolist()
        self._stride = stride

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """``sqrt(a_t) clean + sqrt(1 - a_t) noise``; ``clean`` and ``noise`` ``[B,L,H,W]``, ``timestep`` ``[B]``."""
        kept = self.alpha_bar[timestep].view(-1, 1, 1, 1)
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def denoise(self, noisy: Tensor, predict: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Run the chain on ``noisy`` ``[B,L,H,W]``; gradients flow through every step.

        Args:
            noisy: taken to be at the first of ``timesteps``, whatever noise is really in it.
            predict: gives the noise in its first argument at the timestep ``[B]`` of its second.
        """
        x = noisy
        for timestep in self.timesteps:
            now = torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)
            noise = predict(x, now)
            kept = self._products[timestep]
            after = self._products[timestep - self._stride] if timestep >= self._stride else 1.0
            clean = (x - math.sqrt(1 - kept) * noise) / math.sqrt(kept)
            x = math.sqrt(after) * clean + math.sqrt(1 - after) * noise
        return x


def blend(x: Tensor, noise: Tensor, gamma: Tensor) -> Tensor:
    """``gamma x + (1 - gamma) noise`` with a gamma ``[B]`` per image: linear, so the variance is not kept.

    Gamma multiplies ``x``, as in DiffKD's code (its author says so in issue 7, and the opposite in issue 3).
    """
    share = gamma.view(-1, 1, 1, 1)
    return share * x + (1 - share) * noise


def default_latent(channels: int) -> int:
    """Channels of a latent for few images: half of the teacher's, a multiple of 8 from 64 to 1,024."""
    return min(1024, max(64, channels // 2 // 8 * 8))


def map_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(C,H,W)`` that :func:`as_map` makes of a feature of this shape (without B).

    Raises:
        MethodError: tokens that lie on no square.
    """
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        side = math.isqrt(shape[0])
        if side == 0 or side**2 != shape[0]:
            raise MethodError(
                f"{shape[0]} tokens lie on no square",
                allowed="a network whose patches form a square",
                remedy="square images, or another tap (method.tap)",
            )
        return shape[1], side, side
    return shape[0], 1, 1


def as_map(feature: Tensor) -> Tensor:
    """A feature as a map: ``[B,C,H,W]`` as it is, tokens ``[B,T,D]`` as ``[B,D,h,h]``, a vector ``[B,D]`` as 1x1.

    Tokens are the patches of a ViT, row by row; what has no place (class token, registers) is no part of a tap.

    Raises:
        MethodError: tokens that lie on no square.
    """
    if feature.dim() == 4:
        return feature
    if feature.dim() == 2:
        return feature[:, :, None, None]
    channels, height, width = map_shape(tuple(feature.shape[1:]))
    return feature.transpose(1, 2).reshape(len(feature), channels, height, width)


def pooled(feature: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[B,C,H,W]`` averaged down to ``grid`` where it is larger."""
    return feature if feature.shape[2:] == grid else F.adaptive_avg_pool2d(feature, grid)
