"""The check of a first phase: what it measures, and what it finds too bad."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sapling.blocks import Autoencoder, Denoiser
from sapling.methods.denoising import examine_branch, judge_branch
from sapling.methods.diffusion import Branch
from tests.methods.test_diffusion import make
from tests.methods.toys import outputs


def smooth_maps(num, channels=8, rank=2, seed=0):
    """Maps of low rank over channels and smooth over positions: what a denoiser can learn."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, channels, generator=torch.Generator().manual_seed(99))
    coarse = torch.randn(num, rank, 2, 2, generator=g)
    fine = torch.nn.functional.interpolate(coarse, (4, 4), mode="bilinear")
    return torch.einsum("brhw,rc->bchw", fine, basis)


def new_branch():
    torch.manual_seed(0)
    return Branch(Autoencoder(8, 8), Denoiser(8, 3), 4, 8, kernel_size=3, steps=5)


@pytest.fixture(scope="module")
def trained():
    branch, maps = new_branch(), smooth_maps(256)
    optimizer = torch.optim.Adam([*branch.autoencoder.parameters(), *branch.denoiser.parameters()], lr=1e-2)
    for number in range(150):
        torch.manual_seed(number)
        chosen = maps[torch.randint(0, 256, (32,))]
        latent, rebuilt = branch.autoencoder(chosen)
        z = latent.detach()
        loss = (rebuilt - chosen).square().mean()
        loss = loss + branch.noise_loss(z, torch.randn_like(z), torch.randint(0, 1000, (32,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return branch


def test_a_denoiser_that_learned_passes(trained):
    found = examine_branch(trained, [smooth_maps(40, seed=1), smooth_maps(24, seed=2)])
    assert found["num_images"] == 64
    assert found["ae_r2"] > 0.95
    assert found["cosine_after"] > found["cosine_before"] + 0.02
    assert found["noise_loss"]["200-400"] < 0.9
    assert found["noise_loss"]["700-1000"] < found["noise_loss"]["0-100"]
    assert judge_branch("feat", found) == []


def test_one_that_learned_nothing_does_not():
    found = examine_branch(new_branch(), [smooth_maps(64, seed=1)])
    autoencoder, denoiser = judge_branch("feat", found)
    assert "autoencoder" in autoencoder
    assert "method.ae_channels" in autoencoder
    assert "does not denoise" in denoiser
    assert "Remedy" in denoiser


def test_explained_variance_is_the_naive_one(trained):
    maps = smooth_maps(10, seed=3) + 5  # an offset that a decoder's bias could claim
    trained.eval()
    with torch.no_grad():
        error = (trained.autoencoder(maps)[1] - maps).double().numpy()
    spread = sum(float(((c := maps[:, k].double().numpy()) - c.mean()).__pow__(2).sum()) for k in range(8))
    assert examine_branch(trained, [maps])["ae_r2"] == pytest.approx(1 - np.square(error).sum() / spread, abs=1e-4)


def test_it_draws_the_same_and_changes_nothing(trained):
    trained.train()
    maps, before = [smooth_maps(16, seed=4)], {k: v.clone() for k, v in trained.state_dict().items()}
    torch.manual_seed(5)
    first, drawn = examine_branch(trained, maps), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert examine_branch(trained, maps) == first
    assert trained.training
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())


GOOD = {
    "num_images": 9,
    "ae_r2": 0.95,
    "noise_loss": {"0-100": 1.2, "100-200": 0.8, "200-400": 0.5, "400-700": 0.4, "700-1000": 0.4},
    "cosine_before": 0.83,
    "cosine_after": 0.86,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"ae_r2": 0.89}, "explains 0.89"),
        ({"ae_r2": float("nan")}, "explains nan"),
        ({"cosine_after": 0.83}, r"cosine to the clean latent 0\.830 before and 0\.830 after"),
        ({"noise_loss": {**GOOD["noise_loss"], "100-200": 0.9}}, "timesteps 100-200"),
    ],
)
def test_thresholds(change, message):
    problems = judge_branch("feat", {**GOOD, **change})
    assert len(problems) == (message is not None)
    if message:
        assert re.search(message, problems[0])


def test_a_method_examines_its_branches():
    method = make("fdbd", branches=["feat", "logit"])
    found = method.examine(method.phases()[0], [outputs(2, "teacher"), outputs(3, "teacher")])
    assert set(found["branches"]) == {"feat", "logit"}
    assert "ae_r2" not in found["branches"]["logit"]
    assert found["passed"] is False
    assert len(found["problems"]) >= 2
    alone = make("fdbd", denoiser=False)
    assert set(alone.examine(alone.phases()[0], [outputs(2, "teacher")])["branches"]["feat"]) == {"num_images", "ae_r2"}
