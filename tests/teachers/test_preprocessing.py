"""Wrong mean, range, order of colours or size is named; good teachers pass. The networks are exact, not trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sapling.models import Preprocess
from sapling.teachers.preprocessing import CAFFE_MEAN, NUM_FIRST, check_preprocessing, other_ways

IMAGENET = Preprocess(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LEVELS = (0.15, 0.4, 0.6, 0.85)


class Exact(nn.Module):
    """Names the nearest of 16 pairs of red and blue levels; right only for images prepared as in ``way``."""

    def __init__(self, way, *, counts_pixels=False):
        super().__init__()
        mean, std = torch.tensor(way.mean), torch.tensor(way.std)
        pairs = torch.tensor([[red, 0.5, blue] for red in LEVELS for blue in LEVELS])
        self.head = nn.Linear(3, 16)
        with torch.no_grad():
            scale = std / std.max()  # distances in pixels, whatever the way
            targets = (pairs - mean) / std
            self.head.weight.copy_(2 * targets * scale**2)
            self.head.bias.copy_(-(targets**2 * scale**2).sum(1))
        self.pixels = float(way.img_size**2) if counts_pixels else None

    def forward(self, x):
        return self.head(x.sum((2, 3)) / self.pixels if self.pixels else x.mean((2, 3)))


def coloured(num=300, *, side=16, seed=0, wrong=0.05):
    """Images of red and blue levels in random order, and labels of which some are wrong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(16, (num,), generator=generator)
    levels = torch.tensor(LEVELS)
    centre = torch.stack([levels[labels // 4], torch.full((num,), 0.5), levels[labels % 4]], 1)[..., None, None]
    images = (centre + 0.1 * torch.randn(num, 3, side, side, generator=generator)).clamp(0, 1)
    given = labels.clone()
    noisy = torch.rand(num, generator=generator) < wrong
    given[noisy] = torch.randint(16, (int(noisy.sum()),), generator=generator)
    return images, given.numpy()


WAYS = {
    "mean and std 0.5": replace(IMAGENET, mean=(0.5,) * 3, std=(0.5,) * 3),
    "no mean and std": replace(IMAGENET, mean=(0.0,) * 3, std=(1.0,) * 3),
    "values from 0 to 255": replace(IMAGENET, mean=(0.0,) * 3, std=(1 / 255,) * 3),
    "ImageNet's mean and std": IMAGENET,
}


@pytest.mark.parametrize("true", WAYS)
@pytest.mark.parametrize("declared", WAYS)
def test_wrong_mean_and_std_are_named_and_right_ones_pass(true, declared):
    images, labels = coloured()
    result = check_preprocessing(Exact(WAYS[true]), WAYS[declared], images, labels)
    if true == declared:
        assert result.check.passed
        assert "no other way is clearly better" in result.check.detail
    else:
        assert not result.check.passed
        assert f" % as declared, 97.0 % with {true}" in result.check.detail


def test_blue_first_is_named():
    images, labels = coloured()
    result = check_preprocessing(Exact(IMAGENET), IMAGENET, images.flip(1), labels)
    assert "blue first (BGR)" in result.check.detail
    caffe = replace(IMAGENET, mean=CAFFE_MEAN, std=(1 / 255,) * 3)
    result = check_preprocessing(Exact(caffe), IMAGENET, images.flip(1), labels)
    assert "Caffe's way" in result.check.detail


def test_another_size_is_named():
    images, labels = coloured(side=32)
    large = replace(IMAGENET, img_size=32, store_size=37)
    result = check_preprocessing(Exact(large, counts_pixels=True), replace(large, img_size=16), images, labels)
    assert not result.check.passed
    assert "32 px" in result.check.detail


def test_the_images_own_statistics_are_tried():
    images, labels = coloured()
    images = images * 0.3 + 0.1
    own = replace(IMAGENET, mean=tuple(images.mean((0, 2, 3)).tolist()), std=tuple(images.std((0, 2, 3)).tolist()))

    class Shrunk(Exact):
        def forward(self, x):
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (own.mean, own.std))
            return super().forward(((x * std + mean) - 0.1) / 0.3)

    raw = replace(IMAGENET, mean=(0.0,) * 3, std=(1.0,) * 3)
    result = check_preprocessing(Shrunk(raw), IMAGENET, images, labels)
    assert "the images' own mean and std" in result.check.detail


@pytest.mark.parametrize("seed", range(12))
def test_honest_teachers_pass_however_weak(seed):
    images, labels = coloured(seed=seed, wrong=0.05 + 0.07 * seed)
    assert check_preprocessing(Exact(IMAGENET), IMAGENET, images, labels).check.passed


@pytest.mark.parametrize("seed", range(5))
def test_a_random_head_is_not_called_wrong_preprocessing(seed):
    torch.manual_seed(seed)
    images, _ = coloured(seed=seed)
    labels = np.random.default_rng(seed).choice(16, 300, p=[0.55, *[0.03] * 15])  # one class is most of the data
    assert check_preprocessing(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 16)), IMAGENET, images, labels
    ).check.passed


def test_always_naming_the_largest_class_is_no_gain():
    images, _ = coloured()
    labels = np.array([0] * 200 + [1] * 100)

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            dark = (x.mean((1, 2, 3)) < 5).float() * self.scale  # as declared: always class 1; bytes: always class 0
            return torch.stack([1 - dark, dark], 1)

    result = check_preprocessing(Constant(), IMAGENET, images, labels)
    trial = next(t for t in result.trials if "255" in t.name and "Caffe" not in t.name)
    assert trial.accuracy > trial.declared + 0.3
    assert trial.p_value < 1e-4
    assert result.check.passed


def test_a_good_teacher_is_asked_little():
    images, labels = coloured(wrong=0.0)
    network, seen = Exact(IMAGENET), [0]
    network.register_forward_hook(lambda _m, inputs, _o: seen.__setitem__(0, seen[0] + len(inputs[0])))
    result = check_preprocessing(network, IMAGENET, images, labels)
    dry_runs = len(result.trials) + 2
    assert seen[0] <= len(labels) + NUM_FIRST * len(result.trials) + dry_runs
    assert {t.num_images for t in result.trials} == {NUM_FIRST}


def test_modes_weights_and_hooks_are_left_as_they_were():
    images, labels = coloured(40)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 16)
    )
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    check_preprocessing(network, IMAGENET, images, labels)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(m.training for m in network.modules())
    assert not network[1]._forward_pre_hooks


def test_the_first_batch_norm_tells_of_other_inputs():
    images, labels = coloured()
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 16))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    network.train()((images - mean) / std)
    network.eval()
    assert check_preprocessing(network, IMAGENET, images, labels).input_shift < 0.05
    wrong = replace(IMAGENET, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    assert check_preprocessing(network, wrong, images, labels).input_shift > 1
    assert check_preprocessing(Exact(IMAGENET), IMAGENET, images, labels).input_shift is None


def test_of_ways_that_do_equally_well_the_one_that_the_batch_norm_knows_is_named():
    class Brightest(nn.Module):
        """Names the brightest colour, whatever the range."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3, momentum=None)

        def forward(self, x):
            return x.mean((2, 3)) + 0 * self.norm(x).mean((2, 3))

    labels = torch.arange(300) % 3
    images = torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    images[torch.arange(300), labels] += 0.2
    for name, (mean, std) in {"no mean and std": (0.0, 1.0), "mean and std 0.5": (0.5, 0.5)}.items():
        network = Brightest()
        network.train()((images - mean) / std)
        wrong = replace(IMAGENET, mean=(0.9, 0.1, 0.1), std=(0.2,) * 3)
        result = check_preprocessing(network.eval(), wrong, images, labels.numpy())
        assert result.trials[0].name.startswith(name)
        assert result.trials[0].gain == pytest.approx(result.trials[1].gain)
        assert name in result.check.detail


def test_other_bands_have_their_ways_too():
    images = torch.rand(8, 5, 16, 16)
    declared = Preprocess(16, 16, (0.2,) * 5, (0.1,) * 5)
    names = [way.name for way in other_ways(declared, images)]
    assert not [n for n in names if "blue" in n or "ImageNet" in n]
    assert "mean and std 0.5" in names
    sizes = {way.preprocess.img_size for way in other_ways(declared, torch.rand(2, 5, 24, 24))}
    assert sizes == {16, 24, 32}
