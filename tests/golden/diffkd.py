"""The module of DiffKD's code, with the weights and inputs of the reference run."""

from __future__ import annotations

import torch

from sapling.blocks import Autoencoder, Denoiser
from sapling.methods.diffusion import Branch


def reference_branch(draw):
    """DiffKD(16, 32, kernel 3, latent 24) of the authors' code with the weights of the recipe, in eval mode."""
    branch = Branch(Autoencoder(32, 24), Denoiser(24, 3), 16, 24, kernel_size=3, steps=5)
    for number, (key, value) in enumerate(branch.state_dict().items()):
        if "running" in key:
            value.fill_(float("running_var" in key))
        elif value.is_floating_point():
            value.copy_(draw(1000 + number, tuple(value.shape), 0.05))
    return branch.eval()


@torch.no_grad()
def reference_values(draw):
    """Gamma ``[4]``, refined latent, the teacher's, noise loss and the autoencoder's loss."""
    branch, noise = reference_branch(draw), draw(3, (4, 24, 7, 7))
    student, teacher = draw(1, (4, 16, 7, 7)), draw(2, (4, 32, 7, 7))
    latent, rebuilt = branch.autoencoder(teacher)
    return {
        "gamma": branch.noise_adapter(branch.translator(student)),
        "refined": branch.refine(student, noise),
        "latent": latent,
        "noise": branch.noise_loss(latent, noise, torch.tensor([0, 100, 400, 999])),
        "autoencoder": (rebuilt - teacher).square().mean(),
    }
