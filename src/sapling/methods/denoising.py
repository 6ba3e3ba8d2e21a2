"""Whether a denoiser denoises: measured on held-out images of the teacher, before a student is taught through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from sapling.methods.diffusion import Branch

BUCKETS = ((0, 100), (100, 200), (200, 400), (400, 700), (700, 1000))
JUDGED = ("100-200", "200-400")
LEAST_R2, MOST_LOSS = 0.9, 0.9
GAMMA, STUDENT_NOISE = 0.7, 0.5


@torch.no_grad()
def examine_branch(branch: Branch, maps: Iterable[Tensor]) -> dict[str, Any]:
    """Measure the autoencoder and the denoiser of a branch, in eval mode, on the teacher's maps.

    Args:
        branch: after its first phase.
        maps: batches ``[B,C,H,W]`` of the teacher's feature on images that no weight was trained on.

    Returns:
        ``num_images``; with an autoencoder ``ae_r2``: 1 - squared error / squared deviation from each channel's mean;
        with a denoiser ``noise_loss`` by bucket of timesteps (1 is a denoiser that says nothing), and ``cosine_before``
        and ``cosine_after``: mean cosine to the clean latent z of ``x = 0.7 (z + 0.5 s e1) + 0.3 s e2``, s the
        deviation of z, before and after the chain of steps. The random numbers are always the same.
    """
    batches = list(maps)
    was_training = branch.training
    branch.eval()
    try:
        with torch.random.fork_rng(devices=_devices(batches)):
            torch.manual_seed(0)
            return _measured(branch, batches)
    finally:
        branch.train(was_training)


def _measured(branch: Branch, batches: list[Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {"num_images": sum(len(b) for b in batches)}
    if branch.autoencoder is not None:
        error = sum(float((branch.autoencoder(b)[1] - b).double().square().sum()) for b in batches)
        spread = _spread(batches)
        found["ae_r2"] = round(1 - error / spread, 4) if spread > 0 else 0.0
    if branch.denoiser is None:
        return found
    latents = [branch.encode(b) for b in batches]
    scale = float(torch.cat([z.flatten() for z in latents]).std(correction=0))
    sums, before, after = [0.0] * len(BUCKETS), 0.0, 0.0
    for z in latents:
        for number, (low, high) in enumerate(BUCKETS):
            timestep = torch.randint(low, high, (len(z),), device=z.device)
            sums[number] += float(branch.noise_loss(z, torch.randn_like(z), timestep)) * len(z)
        seen = z + STUDENT_NOISE * scale * torch.randn_like(z)
        noisy = GAMMA * seen + (1 - GAMMA) * scale * torch.randn_like(z)
        before += float(_cosines(noisy, z).sum())
        after += float(_cosines(branch.schedule.denoise(noisy, branch.denoiser), z).sum())
    num = max(found["num_images"], 1)
    found["noise_loss"] = {f"{a}-{b}": round(s / num, 4) for (a, b), s in zip(BUCKETS, sums, strict=True)}
    found["cosine_before"], found["cosine_after"] = round(before / num, 4), round(after / num, 4)
    return found


def _spread(batches: list[Tensor]) -> float:
    """Summed squared deviation of all values from the mean of their channel."""
    positions = sum(b.numel() // b.shape[1] for b in batches)
    means = torch.stack([b.double().sum(dim=(0, 2, 3)) for b in batches]).sum(dim=0) / positions
    return sum(float((b.double() - means.view(1, -1, 1, 1)).square().sum()) for b in batches)


def judge_branch(name: str, measured: Mapping[str, Any]) -> list[str]:
    """Sentences on what :func:`examine_branch` found too bad; empty if all is well.

    Thresholds: the autoencoder explains 0.9 of the variance; the noise loss is below 0.9 from timestep 100 to 400
    (below 100 it stays near 1 for any denoiser); the cosine to the clean latent rises.
    """
    problems = []
    r2 = measured.get("ae_r2")
    if r2 is not None and not r2 >= LEAST_R2:
        amount = f"nothing (R2 {r2:.2f})" if r2 <= 0 else f"{r2:.2f}"
        problems.append(
            f"The autoencoder of branch {name!r} explains {amount} of the teacher's feature on held-out images "
            f"(wanted: {LEAST_R2} or more). Remedy: a larger method.ae_channels, or a longer method.phase1_epochs."
        )
    if "cosine_after" not in measured:
        return problems
    losses = {bucket: measured["noise_loss"][bucket] for bucket in JUDGED}
    before, after = measured["cosine_before"], measured["cosine_after"]
    weak = [
        f"noise loss {v:.2f} at timesteps {k} (wanted: below {MOST_LOSS})" for k, v in losses.items() if v >= MOST_LOSS
    ]
    if not after > before:
        weak.append(f"cosine to the clean latent {before:.3f} before and {after:.3f} after the steps (wanted: a rise)")
    if weak:
        problems.append(
            f"The denoiser of branch {name!r} does not denoise held-out images: {'; '.join(weak)}. A frozen denoiser "
            "can then not help a student. Remedy: a longer method.phase1_epochs, another method.tap, --method diffkd "
            "(trains it with the student), or method.denoiser=false."
        )
    return problems


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return F.cosine_similarity(first.flatten(1), second.flatten(1))


def _devices(batches: list[Tensor]) -> list[torch.device]:
    return [batches[0].device] if batches and batches[0].is_cuda else []
