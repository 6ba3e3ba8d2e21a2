"""What may be changed in diffkd and fdbd beside the paper: floor of gamma, normalised latents, a rising weight."""

from __future__ import annotations

import pytest
import torch

from sapling.errors import ConfigError
from tests.losses import naive
from tests.methods.test_diffusion import enter, make, refined_and_latent, value


def test_normalised_latents_are_standard_scores_over_channels():
    method = make(normalise=True, feat_loss="kl_channel")
    method.eval()
    maps = (m.permute(0, 2, 3, 1).flatten(0, 2) for m in refined_and_latent(method))
    rows = [((m - m.mean(1, keepdim=True)) / m.std(1, keepdim=True)).tolist() for m in maps]
    assert value(method, "diffkd") == pytest.approx(naive.kl_rows(*rows, 1.0).mean(), rel=1e-4)


def test_the_distance_may_rise():
    whole, rising = make(), make(warmup_share=0.4)
    first, last = (enter(rising, rising.phases()[1], progress) for progress in (0.1, 0.9))
    for method in (whole, rising):
        method.eval()  # batch statistics would move between the calls
    assert value(rising, "diffkd", first) == pytest.approx(value(whole, "diffkd") / 4, rel=1e-5)
    assert value(rising, "diffkd", last) == pytest.approx(value(whole, "diffkd"), rel=1e-5)


def test_gamma_has_a_floor():
    free, floored = make().branches["feat"], make(gamma_floor=0.5).branches["feat"]
    x, seen = torch.randn(4, free.translator.out_channels, 4, 4), []
    for branch in (free, floored):
        branch.eval()
        branch.translator = torch.nn.Identity()
        branch.schedule.denoise = lambda noisy, denoiser: seen.append(noisy) or noisy
        branch.refine(x, torch.zeros_like(x))
    assert torch.allclose(seen[1], 0.5 * x + 0.5 * seen[0], atol=1e-6)
    with pytest.raises(ConfigError, match="gamma_floor: changes nothing"):
        make(gamma_floor=0.5, denoiser=False)
