"""diffkd and fdbd: the reference's numbers, who learns from what, and features of any shape."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.blocks import Autoencoder, Denoiser, DiffusionSchedule, NoiseAdapter, as_map, default_latent, map_shape
from sapling.errors import ConfigError, MethodError
from sapling.methods.diffusion import Branch
from sapling.types import Outputs, PairInfo, Phase, Step
from tests.golden.diffkd import reference_values
from tests.golden.rows import draw
from tests.losses import naive
from tests.methods.toys import K, batch, outputs, pair_info

PARTS = ("autoencoder", "translator", "denoiser", "noise_adapter", "projector")


def make(name="fdbd", seed=0, info=None, **config):
    torch.manual_seed(seed)
    return methods.build(name, info or pair_info(), **config)


def enter(method, phase, progress=0.5):
    method.train()
    method.begin_phase(phase)
    return Step(phase.name, 1, progress, method.active_terms(phase))


def give(method, step, term=None, student=None):
    wanted = dataclasses.replace(step, terms=(term,)) if term else step
    torch.manual_seed(0)
    return method(student or outputs(1, "student"), outputs(2, "teacher"), batch(), wanted)


@torch.no_grad()
def value(method, term, step=None):
    return float(give(method, step or Step(), term)[term])


def has_gradient(module):
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


# ---- numbers of the reference ----


def test_a_branch_gives_the_numbers_of_the_authors_code():
    found = reference_values(draw)
    refined = found["refined"]
    assert found["gamma"].tolist() == pytest.approx([0.4955011, 0.4962195, 0.4973561, 0.4985125], rel=1e-5)
    assert float((refined - found["latent"]).square().mean()) == pytest.approx(0.006994545, rel=1e-5)
    assert float(found["noise"]) == pytest.approx(0.99434167, rel=1e-5)
    assert float(found["autoencoder"]) == pytest.approx(1.0074679, rel=1e-5)
    assert float(refined.mean()) == pytest.approx(0.0084376, abs=1e-6)
    assert float(refined.std()) == pytest.approx(0.0533058, rel=1e-5)


@pytest.mark.parametrize(
    ("autoencoder", "latent", "kernel", "millions"),
    [((512, 1024), 1024, 3, 7.644), ((64, 1024), 1024, 3, 6.268), ((64, 32), 32, 3, 0.0526), (None, 23, 1, 0.0421)],
)
def test_sizes_are_those_of_the_authors_code(autoencoder, latent, kernel, millions):
    own = Autoencoder(*autoencoder) if autoencoder else None
    channels = autoencoder[0] if autoencoder else latent
    branch = Branch(own, Denoiser(latent, kernel), channels, latent, kernel_size=kernel, steps=5)
    assert sum(p.numel() for p in branch.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_the_chain_is_the_second_half_of_ddim():
    schedule = DiffusionSchedule(5)
    assert schedule.timesteps == (400, 300, 200, 100, 0)
    kept = [float(schedule.alpha_bar[t]) for t in (0, 100, 200, 300, 400)]
    assert kept == pytest.approx([0.9999, 0.89514, 0.65635, 0.39401, 0.19357], abs=1e-5)
    assert DiffusionSchedule(10).timesteps == tuple(range(450, -1, -50))
    assert schedule.state_dict() == {}


def test_the_chain_is_the_naive_one():
    """Loops in float64, from the formula of DDIM with eta 0; the noise that is predicted depends on x and t."""
    schedule, start = DiffusionSchedule(5), draw(5, (2, 3, 2, 2))
    beta = [1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)]

    def kept(t):
        return float(np.prod([1 - b for b in beta[: t + 1]]))

    x = start.double().numpy()
    for t in (400, 300, 200, 100, 0):
        noise = 0.3 * x + t / 1000
        clean = (x - (1 - kept(t)) ** 0.5 * noise) / kept(t) ** 0.5
        after = kept(t - 100) if t >= 100 else 1.0
        x = after**0.5 * clean + (1 - after) ** 0.5 * noise
    ours = schedule.denoise(start, lambda x, t: 0.3 * x + (t / 1000).view(-1, 1, 1, 1))
    np.testing.assert_allclose(ours.numpy(), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("steps", "seed"), [(1, 0), (3, 7), (5, 1), (20, 2), (50, 3)])
def test_an_oracle_gives_the_clean_latent_back(steps, seed):
    schedule = DiffusionSchedule(steps).double()
    clean, start = draw(seed, (2, 3, 2, 2)).double(), draw(seed + 1, (2, 3, 2, 2)).double()

    def oracle(x, timestep):
        kept = torch.tensor([schedule._products[int(t)] for t in timestep], dtype=torch.float64).view(-1, 1, 1, 1)
        return (x - kept.sqrt() * clean) / (1 - kept).sqrt()

    torch.testing.assert_close(schedule.denoise(start, oracle), clean, rtol=1e-9, atol=1e-9)


# ---- the terms ----


def refined_and_latent(method):
    """What the feature branch compares, in the phase in which it does."""
    branch, tap = method.branches["feat"], method.config.tap
    torch.manual_seed(0)
    refined = branch.refine(method._student_map("feat", outputs(1, "student")))
    return refined.detach().double(), branch.encode(outputs(2, "teacher").features[tap]).detach().double()


def test_fdbd_compares_channels_at_every_position():
    method = make(temperature=2.0, feat_loss="kl_channel")
    method.eval()  # batch statistics would move between the two calls
    refined, latent = refined_and_latent(method)
    rows = [m.permute(0, 2, 3, 1).flatten(0, 2).tolist() for m in (refined, latent)]
    assert value(method, "diffkd") == pytest.approx(naive.kl_rows(*rows, 2.0).mean(), rel=1e-4)


def test_the_other_distances():
    refined_latent = {}
    for loss in ("mse", "kl_spatial"):
        method = make(feat_loss=loss, **({"temperature": 2.0} if loss == "kl_spatial" else {}))
        method.eval()
        refined_latent[loss] = refined_and_latent(method), value(method, "diffkd")
    (refined, latent), found = refined_latent["mse"]
    assert found == pytest.approx(10 * float((refined - latent).square().mean()), rel=1e-4)
    assert make().config.feat_loss == make("diffkd").config.feat_loss == "mse"
    assert (make().config.mse_scale, make("diffkd").config.mse_scale) == (10, 1)
    (refined, latent), found = refined_latent["kl_spatial"]
    rows = [m.flatten(2).flatten(0, 1).tolist() for m in (refined, latent)]
    assert found == pytest.approx(naive.kl_rows(*rows, 2.0).mean(), rel=1e-4)


def test_diffkd_adds_its_branches():
    both, feat, logit = (make("diffkd", branches=b) for b in (["feat", "logit"], ["feat"], ["logit"]))
    for method, name in ((feat, "feat"), (logit, "logit")):
        method.branches[name].load_state_dict(both.branches[name].state_dict())
    for method in (both, feat, logit):
        method.eval()
    assert both.weights == {"ce": 1, "diffkd": 1, "diff": 1, "ae": 1}
    assert logit.weights["ae"] == 0
    found = {n: value(m, "ae") for n, m in (("both", both), ("feat", feat))}
    assert found["both"] == found["feat"] > 0
    torch.manual_seed(0)
    logits = outputs(1, "student").logits[:, :, None, None]
    both.branches["feat"].refine(both._student_map("feat", outputs(1, "student")))  # takes its share of the noise
    refined = both.branches["logit"].refine(logits).flatten(1)
    rows = refined.detach().double().tolist(), outputs(2, "teacher").logits.double().tolist()
    expected = value(feat, "diffkd") + naive.kl_rows(*rows, 1.0).mean()
    assert value(both, "diffkd") == pytest.approx(expected, rel=1e-4)


def test_without_denoiser_only_the_projection_is_left():
    method = make(denoiser=False)
    branch = method.branches["feat"]
    assert [type(p).__name__ for p in (branch.denoiser, branch.noise_adapter)] == ["NoneType", "NoneType"]
    assert method.weights["diff"] == 0
    first, last = method.phases()
    assert (first.name, method.active_terms(first)) == ("autoencoder", ("ae",))
    assert last.frozen == ("branches.feat.autoencoder",)
    student = method._student_map("feat", outputs(1, "student"))
    assert torch.equal(branch.refine(student), branch.projector(branch.translator(student)))


# ---- who learns from what (measured on the authors' code, methods 1.5) ----

JOINT = {
    "diffkd": {"translator", "denoiser", "noise_adapter", "projector", "student"},
    "diff": {"denoiser"},
    "ae": {"autoencoder"},
}


def learners(method, step, term):
    """Parts, of any branch, that get a gradient from a term, and ``student`` where the student does."""
    method.zero_grad()
    plain = outputs(1, "student")
    leaf = Outputs(plain.logits.requires_grad_(), {k: v.requires_grad_() for k, v in plain.features.items()})
    give(method, step, student=leaf)[term].backward()
    found = set()
    for branch in method.branches.values():
        found |= {part for part in PARTS if getattr(branch, part) is not None and has_gradient(getattr(branch, part))}
    tensors = [leaf.logits, *leaf.features.values()]
    return found | ({"student"} if any(t.grad is not None and t.grad.abs().sum() > 0 for t in tensors) else set())


@pytest.mark.parametrize("term", JOINT)
def test_gradients_of_diffkd(term):
    method = make("diffkd")
    assert learners(method, enter(method, method.phases()[0]), term) == JOINT[term]


def test_gradients_of_fdbd():
    method = make()
    first, last = method.phases()
    step = enter(method, first)
    assert step.terms == ("diff", "ae")
    assert learners(method, step, "diff") == {"denoiser"}
    assert learners(method, step, "ae") == {"autoencoder"}
    step = enter(method, last)
    assert step.terms == ("ce", "diffkd")
    assert learners(method, step, "diffkd") == {"translator", "noise_adapter", "projector", "student"}


def test_the_autoencoder_has_a_head_start():
    method = make(ae_warmup_share=0.25)
    early, late = (enter(method, method.phases()[0], progress) for progress in (0.2, 0.25))
    for step, learns in ((early, False), (late, True)):
        method.zero_grad()
        sum(give(method, step).values()).backward()
        assert has_gradient(method.branches["feat"].denoiser) == learns
        assert has_gradient(method.branches["feat"].autoencoder)


def test_frozen_parts_stand_still_with_their_statistics():
    method = make()
    step = enter(method, method.phases()[1])
    before = {k: v.clone() for k, v in method.state_dict().items()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        method.train()
        optimizer.zero_grad()
        sum(give(method, step).values()).backward()
        optimizer.step()
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert {k.split(".")[2] for k in moved} == {"translator", "noise_adapter", "projector"}


# ---- shapes ----


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 7, 7), (64, 7, 7)),
        ((196, 192), (192, 14, 14)),
        ((49, 8), (8, 7, 7)),
        ((12,), (12, 1, 1)),
    ],
)
def test_any_feature_becomes_a_map(shape, expected):
    feature = torch.randn(2, *shape)
    assert map_shape(shape) == expected
    assert as_map(feature).shape == (2, *expected)


def test_patches_keep_their_places():
    tokens = torch.arange(6 * 6)[None, :, None].expand(1, 36, 2).float()
    assert torch.equal(as_map(tokens)[0, 0], torch.arange(36).float().view(6, 6))


@pytest.mark.parametrize("num_tokens", [0, 6, 110])
def test_tokens_of_an_oblong_are_refused(num_tokens):
    with pytest.raises(MethodError, match=f"{num_tokens} tokens lie on no square"):
        map_shape((num_tokens, 8))


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (32, 2, 2)), ((8, 2, 2), (32, 4, 4)), ((8, 4, 4), (16, 24))]
)
@pytest.mark.parametrize("name", ["fdbd", "diffkd"])
def test_pairs_of_different_shapes(name, student, teacher):
    info = PairInfo(K, 40, {"stage3": student}, {"stage4": teacher})
    method = make(name, info=info, tap="stage3", teacher_tap="stage4")
    for phase in method.phases():
        step = enter(method, phase)
        torch.manual_seed(1)
        own = Outputs(torch.randn(6, K), {"stage3": torch.randn(6, *student)})
        theirs = Outputs(torch.randn(6, K), {"stage4": torch.randn(6, *teacher)})
        terms = method(own, theirs, batch(batch_size=6), step)
        assert all(torch.isfinite(v) for v in terms.values())
    pooled = method._student_map("feat", own)
    assert pooled.shape[2:] == method._teacher_map("feat", theirs).shape[2:]
    if student == (8, 4, 4) and teacher == (32, 2, 2):
        torch.testing.assert_close(pooled, torch.nn.functional.avg_pool2d(own.features["stage3"], 2))


def test_default_latents():
    assert [default_latent(c) for c in (16, 128, 340, 512, 2048, 4096)] == [64, 64, 168, 256, 1024, 1024]


def test_gamma_is_one_number_in_0_and_1_for_each_image():
    gamma = NoiseAdapter(16)(torch.randn(8, 16, 4, 4)).detach()
    assert gamma.shape == (8,)
    assert bool(((gamma > 0.1) & (gamma < 0.9)).all())


# ---- phases and settings ----


def test_what_the_first_phase_makes_does_not_depend_on_the_student():
    small, wide = pair_info(), dataclasses.replace(pair_info(), student_shapes={"stage4": (24, 2, 2)})
    one, other = make(info=small), make(info=wide)
    first = one.phases()[0]
    assert one.phase_inputs(first) == other.phase_inputs(first)
    assert one.phase_inputs(first) == make(info=small, alpha=0.3, feat_loss="kl_channel", temperature=3.0).phase_inputs(
        first
    )
    assert one.phase_inputs(first) != make(info=small, phase1_lr=0.01).phase_inputs(first)
    assert one.phase_inputs(first) != make(info=small, weights={"ae": 2}).phase_inputs(first)
    for part in first.parts:
        mine, theirs = one.get_submodule(part).state_dict(), other.get_submodule(part).state_dict()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_phases():
    first, last = make().phases()
    assert (first.epochs, first.min_steps, first.optimizer, first.lr, first.weight_decay) == (
        20,
        2000,
        "adamw",
        1e-3,
        0,
    )
    assert first.parts == last.frozen == ("branches.feat.autoencoder", "branches.feat.denoiser")
    first = make(phase1_epochs=3, phase1_optimizer="sgd").phases()[0]
    assert (first.epochs, first.min_steps, first.optimizer, first.lr) == (3, 0, "sgd", 0.1)
    assert make("diffkd").phases() == [Phase()]
    assert make("diffkd", joint=False).phases()[0].parts[-1] == "branches.logit.denoiser"
    assert make(alpha=1).active_terms(first) == ()
    assert make(alpha=0.25).weights_in(first) == {"diff": 1, "ae": 1}
    assert make(alpha=0.25).weights == {"ce": 0.25, "diffkd": 0.75, "diff": 0.75, "ae": 0.75}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": ["feat", "feat"]}, "each at most once"),
        ({"joint": True, "phase1_lr": 0.1}, "phase1_lr: changes nothing while joint is true"),
        ({"feat_loss": "kl_channel", "mse_scale": 5}, "mse_scale: changes nothing unless feat_loss is mse"),
        ({"temperature": 8}, "temperature: changes nothing while squared errors are compared"),
        ({"denoiser": False, "denoise_steps": 9}, "denoise_steps: changes nothing while denoiser is false"),
        ({"denoiser": False, "ae_warmup_share": 0.5}, "ae_warmup_share: changes nothing while denoiser is false"),
        ({"branches": ["logit"], "ae_channels": 16}, "ae_channels: changes nothing unless branches has feat"),
        ({"branches": ["logit"], "mse_scale": 2}, "mse_scale: changes nothing unless branches has feat"),
        ({"denoiser": False, "weights": {"diff": 1}}, "weights.diff can do nothing"),
        ({"branches": ["logit"], "weights": {"ae": 1}}, "weights.ae can do nothing"),
        ({"weights": {"diff": 0}}, "leaves the denoiser untrained"),
        ({"weights": {"ae": 0}}, "leaves the autoencoder untrained"),
        ({"tap": "embedding", "feat_loss": "kl_spatial"}, "has only one"),
        ({"branches": ["features"]}, "branches"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_settings_that_do_work_are_taken():
    make(temperature=8, branches=["feat", "logit"])
    make(temperature=8, feat_loss="kl_channel")
    make("diffkd", temperature=8, denoise_steps=9)


def test_what_the_first_phase_makes_of_one_tap_is_not_that_of_another_of_the_same_shape():
    alike = dataclasses.replace(
        pair_info(), teacher_shapes=dict.fromkeys(pair_info().teacher_shapes, pair_info().teacher_shapes["stage4"])
    )
    one, other = (make(info=alike, teacher_tap=tap) for tap in ("stage4", "stage3"))
    assert one.phase_inputs(one.phases()[0]) != other.phase_inputs(other.phases()[0])


def test_several_labels_per_image():
    info = dataclasses.replace(pair_info(), multi_label=True)
    assert make(info=info).weights["bce"] == 1
    with pytest.raises(ConfigError, match="several labels"):
        make(info=info, branches=["logit"])
    with pytest.raises(ConfigError, match="'diffkd': the branch 'logit'") as refusal:
        make("diffkd", info=info)
    assert "branches=[feat]" in str(refusal.value)
    assert make("diffkd", info=info, branches=["feat"]).weights["bce"] == 1


def test_nothing_is_learned_first_that_nobody_will_hear_of():
    for settings in ({"weights": {"diffkd": 0}}, {"alpha": 1}):
        assert make(**settings).phases() == [Phase(terms=("ce",))]
