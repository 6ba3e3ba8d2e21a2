from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sapling.data.loader import load_data
from sapling.data.mixing import draw_mix, mix_images, mix_probabilities, mix_targets
from sapling.data.mixspec import MixSpec
from sapling.methods import build
from sapling.types import Outputs, PairInfo, Step

BOTH = MixSpec(mixup=0.4, cutmix=1.0, share=0.8)
specs = st.builds(MixSpec, st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


def mix_of(spec, *, batch=16, img_size=32, **numbers):
    return draw_mix(spec, **{"seed": 0, "epoch": 0, "number": 0, **numbers}, batch=batch, img_size=img_size)


def images_of(batch, size=32, channels=3):
    generator = torch.Generator().manual_seed(batch)
    return torch.rand((batch, channels, size, size), generator=generator).to(memory_format=torch.channels_last)


@settings(max_examples=40)
@given(specs, st.integers(1, 9), st.integers(2, 20), st.integers(0, 5), st.integers(2, 7))
def test_targets_and_pixels_are_what_a_plain_loop_mixes(spec, batch, size, number, num_classes):
    mix = mix_of(spec, batch=batch, img_size=size, number=number)
    images, labels = images_of(batch, size), torch.arange(batch) % num_classes
    found, targets = mix_images(images, mix), mix_targets(labels, mix, num_classes)
    assert batch == 1 or found.is_contiguous(memory_format=torch.channels_last)
    assert targets.dtype == found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1
    torch.testing.assert_close(targets.sum(1), torch.ones(batch), rtol=0, atol=1e-6)
    for k in range(batch):
        other = (k + 1) % batch
        share, blend = mix.share[k], mix.blend[k]
        top, bottom, left, right = mix.box[:, k].tolist()
        expected = images[k] * blend + images[other] * (1 - blend)
        expected[:, top:bottom, left:right] = images[other][:, top:bottom, left:right]
        torch.testing.assert_close(found[k], expected, rtol=0, atol=1e-6)
        if bottom * right:  # CutMix: the share is that of the pixels
            assert blend == 1
            assert float(share) == pytest.approx(1 - (bottom - top) * (right - left) / size**2, abs=1e-6)
        else:
            assert share == blend
        expected = torch.zeros(num_classes)
        expected[labels[k]] += share
        expected[labels[other]] += 1 - share
        torch.testing.assert_close(targets[k], expected, rtol=0, atol=1e-6)


def test_pixels_of_the_partner_are_as_many_as_its_share_says():
    """Counted in the mixed image itself: one image is 0, its partner 1."""
    images = (torch.arange(64) % 2).float()[:, None, None, None].expand(-1, 3, 40, 40)
    for spec, atol in ((MixSpec(cutmix=1.0), 1e-6), (MixSpec(mixup=1.0), 1e-5), (BOTH, 1e-5)):
        mix = mix_of(spec, batch=64, img_size=40)
        mean = mix_images(images, mix).mean((1, 2, 3))
        own = torch.where(images[:, 0, 0, 0] == 1, mean, 1 - mean)
        torch.testing.assert_close(own, mix.share, rtol=0, atol=atol)


def test_shares_follow_the_beta_distribution():
    mix = mix_of(MixSpec(mixup=0.4), batch=5000)
    assert stats.kstest(mix.share.numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 1e-4
    # CutMix: what is cut off at the border makes the partner's share smaller, never larger
    mix = mix_of(MixSpec(cutmix=1.0), batch=5000, img_size=200)
    assert mix.share.mean() > 0.55
    height, width = mix.box[1] - mix.box[0], mix.box[3] - mix.box[2]
    inner = (mix.box[0] > 0) & (mix.box[1] < 200) & (mix.box[2] > 0) & (mix.box[3] < 200)
    assert (height[inner] - width[inner]).abs().max() <= 1


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_as_many_are_mixed_as_were_asked_for(share):
    mix = mix_of(MixSpec(mixup=1.0, cutmix=1.0, share=share), batch=10_000, img_size=500)
    cut = (mix.box[1] > 0).numpy()
    blended = (mix.blend < 1).numpy()
    assert not (cut & blended).any()
    for each in (cut, blended):
        assert stats.binomtest(int(each.sum()), 10_000, share / 2).pvalue > 1e-4


def test_every_batch_epoch_and_seed_is_mixed_in_its_own_way():
    found = [mix_of(BOTH, seed=s, epoch=e, number=n).share.numpy().tobytes()
             for s in range(3) for e in range(3) for n in range(3)]  # fmt: skip
    assert len(set(found)) == 27
    assert mix_of(BOTH, seed=2, epoch=1, number=2).share.numpy().tobytes() == found[2 * 9 + 1 * 3 + 2]


def test_soft_answers_are_mixed_as_labels_are():
    mix, labels = mix_of(BOTH), torch.arange(16) % 5
    one_hot = F.one_hot(labels, 5).float()
    torch.testing.assert_close(mix_probabilities(one_hot, mix), mix_targets(labels, mix, 5), rtol=0, atol=0)
    soft = torch.softmax(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), 1)
    torch.testing.assert_close(mix_probabilities(soft, mix).sum(1), torch.ones(16))


# In batches ---------------------------------------------------------------------------------------------


def batches(epoch=0, seed=0, **settings):
    data = load_data("digits", **settings)
    return data, list(data.train_batches(epoch, batch_size=64, seed=seed))


def test_batches_are_mixed_after_the_view_and_keep_their_labels():
    data, plain = batches()
    _, mixed = batches(mixup=0.4, cutmix=1.0)
    assert plain[0].targets is None
    for number, (before, after) in enumerate(zip(plain, mixed, strict=True)):
        mix = draw_mix(MixSpec(0.4, 1.0), seed=0, epoch=0, number=number, batch=64, img_size=data.img_size)
        torch.testing.assert_close(after.images, mix_images(before.images, mix), rtol=0, atol=0)
        torch.testing.assert_close(after.targets, mix_targets(before.labels, mix, 10), rtol=0, atol=0)
        for name in ("labels", "indices", "views"):
            torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=0)


def test_the_same_epoch_is_mixed_the_same_again_and_evaluation_never():
    _, once = batches(epoch=3, seed=1, cutmix=1.0)
    data, again = batches(epoch=3, seed=1, cutmix=1.0)
    for one, other in zip(once, again, strict=True):
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)
        torch.testing.assert_close(one.targets, other.targets, rtol=0, atol=0)
    assert all(batch.targets is None for batch in data.eval_batches("test", batch_size=64))
    assert data.card()["mix"] == {"mixup": 0.0, "cutmix": 1.0, "share": 1.0}


def test_mixing_is_the_same_in_both_memory_formats():
    data = load_data("digits", mixup=0.4, cutmix=1.0)
    last = next(data.train_batches(0, batch_size=32, seed=0))
    first = next(data.train_batches(0, batch_size=32, seed=0, channels_last=False))
    assert last.images.is_contiguous(memory_format=torch.channels_last)
    assert first.images.is_contiguous()
    torch.testing.assert_close(last.images, first.images, rtol=0, atol=0)


def test_the_label_term_of_a_mixed_batch_is_the_mix_of_two_label_terms():
    data, found = batches(mixup=1.0)
    batch = found[0]
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    method = build("kd", PairInfo(num_classes=10, num_samples=100), temperature=1.0)
    term = method(Outputs(logits), None, batch, Step(terms=("ce",)))["ce"]
    mix = draw_mix(MixSpec(1.0), seed=0, epoch=0, number=0, batch=64, img_size=data.img_size)
    own = F.cross_entropy(logits, batch.labels, reduction="none")
    partner = F.cross_entropy(logits, batch.labels.roll(-1), reduction="none")
    torch.testing.assert_close(term, (mix.share * own + (1 - mix.share) * partner).mean())
