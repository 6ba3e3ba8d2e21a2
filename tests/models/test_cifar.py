from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

from sapling.models import TappedModel, count_macs, count_parameters, create_model, stage_modules
from tests.models.shaken import loaded, pictures

# With 100 classes: He et al. 2016 (table 6, there for 10), RepDistiller's and CRD's tables, weiaicunzai's.
MILLIONS = {
    "resnet20": 0.28,
    "resnet32": 0.47,
    "resnet44": 0.67,
    "resnet56": 0.86,
    "resnet110": 1.74,
    "resnet8x4": 1.23,
    "resnet32x4": 7.43,
    "wrn_16_1": 0.18,
    "wrn_16_2": 0.70,
    "wrn_40_1": 0.57,
    "wrn_40_2": 2.26,
    "resnet20_s2": 0.28,
    "resnet8x4_s2": 1.23,
    "wrn_40_2_s2": 2.26,
    "resnet18_cifar": 11.22,
    "resnet34_cifar": 21.33,
    "resnet50_cifar": 23.71,
}
# On CIFAR-10, from the first paper.
MILLIONS_OF_TEN = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7}


def bare(name, **arguments):
    with torch.device("meta"):
        return timm.create_model(f"sapling_{name}", **arguments)


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_are_those_that_were_published(name):
    assert round(count_parameters(bare(name, num_classes=100)) / 1e6, 2) == MILLIONS[name]


@pytest.mark.parametrize("name", MILLIONS_OF_TEN)
def test_the_paper_s_shortcuts_without_parameters(name):
    model = bare(name, num_classes=10, shortcut="pad")
    digits = 1 if name == "resnet110" else 2
    assert round(count_parameters(model) / 1e6, digits) == MILLIONS_OF_TEN[name]
    assert not any("downsample" in key for key in model.state_dict())


@pytest.mark.parametrize(("name", "side"), [("resnet20", 32), ("resnet20_s2", 64)])
def test_macs_of_resnet20_are_the_published_41_million(name, side):
    assert count_macs(bare(name, num_classes=10), (3, side, side)) == pytest.approx(40.8e6, rel=0.02)


STAGES = ("stage1", "stage2", "stage3", "stage4")
TAPPED = {
    "resnet20": ("act1", "layer1", "layer2", "layer3"),
    "resnet8x4": ("act1", "layer1", "layer2", "layer3"),
    "wrn_16_2": ("conv1", "layer1", "layer2", "act1"),
    "resnet20_s2": ("act1", "layer1", "layer2", "layer3"),
    "resnet18_cifar": ("layer1", "layer2", "layer3", "layer4"),
}


@pytest.mark.parametrize("name", TAPPED)
def test_stages_and_what_comes_before_their_activation(name):
    what = loaded(name, img_size=32, store_size=32)
    assert tuple(path for path, _ in stage_modules(what.model).values()) == TAPPED[name]
    taps = (*STAGES, *(f"{stage}.pre" for stage in STAGES), "embedding")
    model = TappedModel(what.model, what.preprocess, taps)
    outputs = model(pictures(side=32))
    sides = [32 // entry["reduction"] for entry in what.model.feature_info[-4:]]
    assert [outputs.features[stage].shape[-1] for stage in STAGES] == sides
    last = outputs.features["stage4"]
    assert torch.allclose(last.mean((2, 3)), outputs.features["embedding"], atol=1e-5), "what the classifier pools"
    assert torch.equal(F.relu(outputs.features["stage4.pre"]), last)
    assert outputs.features["stage4.pre"].min() < 0
    flagged = ("stage1.pre", "stage2.pre", "stage3.pre") if name.startswith("wrn") else ()
    assert model.taps_without_activation == flagged


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_1", "wrn_16_2_s2", "resnet18_cifar"])
def test_they_follow_timm_s_interface(name):
    model = timm.create_model(f"sapling_{name}", num_classes=6, in_chans=5).eval()
    images = torch.rand(2, 5, 24, 40)
    features = model.forward_features(images)
    assert torch.equal(model(images), model.forward_head(features))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    pyramid = timm.create_model(f"sapling_{name}", features_only=True)
    maps = pyramid(images[:, :3])
    assert [m.shape[1] for m in maps] == pyramid.feature_info.channels()
    assert [24 // m.shape[2] for m in maps] == pyramid.feature_info.reduction()
    model.reset_classifier(9)
    assert model(images).shape == (2, 9)
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)


@pytest.mark.parametrize("side", [1, 7, 33])
def test_they_take_any_size(side):
    assert create_model("resnet20", num_classes=3, img_size=side)(torch.rand(2, 3, side, side)).shape == (2, 3)


def test_an_unknown_shortcut_is_refused():
    with pytest.raises(ValueError, match="conv, pad"):
        timm.create_model("sapling_resnet20", shortcut="zero")
