"""Distillation through a denoiser that learns along (DiffKD). Experimental.

The student's feature and logits are taken to be noisy versions of the teacher's. A small diffusion model, trained at
the same time to remove noise from the teacher's, cleans them in five steps before they are compared; an adapter says
how noisy they are. All of it is left behind when the student ships. See ``fdbd`` for the same in two phases.

Family: features
Paper: Huang, Zhang, Zheng, You, Wang, Qian, Xu: Knowledge Diffusion for Distillation, arXiv:2305.15712, NeurIPS
Year: 2023
Formula: L = CE(z_s, y) + diffkd + diff + ae, each a sum over the branches; feature: diffkd = MSE(R, E(F_t)), R =
    proj(DDIM(g trans(F_s) + (1 - g) eps)); logits: diffkd = T^2 KL(softmax(z_t / T) || softmax(R / T)); diff = MSE of
    the noise that the denoiser finds in a noisy E(F_t) or z_t at a random timestep, ae = MSE(D(E(F_t)), F_t)
Defaults: T = 1, all weights 1, 5 steps from timestep 400: diffkd_b1.yaml of the authors (ImageNet, ResNet-34 to 18,
    where ae_channels is 1024). Latent: half of the teacher's channels, 64 to 1,024. Nothing was tuned here.
Departures: the authors' code multiplies diffkd, diff and ae by one weight; here each is a term with its own. It
    compares maps of one size only; here the larger is averaged down to the smaller, and patches of a ViT are a map
    without the class token. Its gamma multiplies the feature (not the noise) and blends without square roots: so does
    ours. As in its code the denoiser is trained by diffkd, too; joint: false freezes it, as fdbd does.
Reference: ImageNet, top-1 in %: ResNet-34 -> 18 72.20 (alone 69.76); its README. CIFAR-100: ResNet-56 -> 20 71.92,
    ResNet-32x4 -> 8x4 76.72 (alone 69.06 and 72.50, plain kd 70.66 and 73.33); the paper, recalled and not read
    again.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sapling.methods.base import Requires
from sapling.methods.diffusion import DiffusionMethod
from sapling.methods.diffusion_settings import DiffusionConfig


class DiffKD(DiffusionMethod):
    """One phase, MSE on features and KL on logits."""

    class Config(DiffusionConfig):
        """Settings of diffkd."""

        branches: tuple[Literal["feat", "logit"], ...] = Field(
            ("feat", "logit"),
            min_length=1,
            max_length=2,
            description="what is denoised: the feature, the logits, or both",
        )
        mse_scale: float = Field(1.0, gt=0, le=1e6, description="factor of the squared error of feat_loss mse")
        joint: bool = Field(True, description="train everything at once; false: denoiser first, then frozen, as FDBD")

    config: Config
    requires = Requires(labels=False, min_batch=2)
