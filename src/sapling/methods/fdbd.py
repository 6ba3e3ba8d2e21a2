"""Distillation through a denoiser that was trained first and stands still (FDBD). Experimental.

In a first phase an autoencoder and a small diffusion model learn the teacher's features; no student is there yet. Then
both are frozen. In the second phase the student's feature is taken to be a noisy teacher's: an adapter says how noisy,
five steps of the frozen denoiser clean it, and it is compared with the teacher's latent. See ``diffkd`` for the same
in one phase.

Family: features
Paper: Huang et al.: Knowledge Diffusion for Distillation, arXiv:2305.15712, NeurIPS 2023; in two phases by Shi:
    Knowledge Distillation for Urban Tree Image Classification Based on the Diffusion Model (no public code is known)
Year: 2023
Formula: phase 1: L = diff + ae, diff = MSE(eps_theta(sqrt(a_t) z + sqrt(1 - a_t) eps, t), eps), ae = MSE(D(E(F_t)),
    F_t), z = E(F_t) without gradient; phase 2: L = CE(z_s, y) + diffkd, diffkd = 10 MSE(E(F_t), R), or, with feat_loss
    kl_channel, T^2 KL(softmax_c(E(F_t) / T) || softmax_c(R / T)), mean over images and positions; R =
    proj(DDIM(g trans(F_s) + (1 - g) eps)), g of the adapter
Defaults: feat_loss and its scale were chosen on dev images (docs/methods/measured.md). T = 1, all weights 1, 5 steps
    from timestep 400: the paper, DiffKD's code. Latent: half of the teacher's channels, 64 to 1,024; the paper's 1,024
    (ae_channels: 1024) widens the last map of a small teacher. Phase 1: 20 epochs or 2,000 steps, Adam, 0.001, cosine,
    for 0.2 of it the autoencoder alone; the paper is silent on all of these.
Departures: the distance is the squared error, as in DiffKD, times 10; the paper's KL, with feat_loss kl_channel, taught
    less on dev images; of the settings tried with no other method beside it, this was the best over two sets. Where the
    paper is silent or contradicts itself, the softmax is over channels, per position (feat_loss: kl_spatial is over
    positions), latents are compared, the autoencoder is frozen with the denoiser, both in eval mode with the statistics
    of phase 1, and gradients flow through them; the paper lists diff and ae in the second loss too, where nothing is
    left that they could train. Maps of different sizes are averaged down to the smaller; a ViT's patches are a square
    map without its class token. Phase 1 has one fixed seed, and runs with other seeds and students share what it made;
    it learns maps of the size that is compared, so a student whose map is smaller gets one of its own. alpha means the
    second phase: the first has no label term. The denoiser is checked on held-out images, and a warning printed if it
    fails.
Reference: urban trees (the paper's own images), top-1 in %: ResNet-34 -> 18 85.10 (alone 85.86, DIST 84.23), ResNet-50
    -> 34 86.29 (alone 86.98, DIST 85.35); the paper's second table, column DiffKD. One training on some 700 to 1,000
    test images hardly shows such differences.
"""

from __future__ import annotations

from sapling.methods.diffusion import DiffusionMethod
from sapling.methods.diffusion_settings import DiffusionConfig


class FDBD(DiffusionMethod):
    """Two phases, squared error, feature branch."""

    class Config(DiffusionConfig):
        """Settings of fdbd."""

    config: Config
