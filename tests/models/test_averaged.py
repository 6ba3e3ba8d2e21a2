"""``last_map`` is the map whose mean is the embedding, ``class_map`` what the classifier says of each position."""

from __future__ import annotations

import pytest
import torch

from sapling import methods
from sapling.errors import ModelError
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.types import Batch, PairInfo, Phase, Step
from tests.models.shaken import shake

K = 5
PREPROCESS = Preprocess(64, 64, (0.5,) * 3, (0.5,) * 3)
NAMES = ["cnn3", "resnet18", "mobilenetv2_050", "swin_tiny_patch4_window7_224", "pvt_v2_b0"]


@pytest.fixture(scope="module")
def networks():
    found = {}

    def make(name):
        if name not in found:
            found[name] = create_model(name, num_classes=K, in_chans=3, img_size=64, pretrained=False, seed=0).eval()
        return found[name]

    return make


@pytest.mark.parametrize("name", NAMES)
def test_means_are_embedding_and_logits(name, networks):
    """Also after training: a fresh ResNet's last block does nothing yet, and its input has the same mean."""
    model = TappedModel(networks(name), PREPROCESS, ("last_map", "class_map", "embedding"))
    shake(model.model, model.normalise(torch.rand(8, 3, 64, 64)))
    with torch.no_grad():
        found = model(torch.rand(2, 3, 64, 64))
    positions = {k: (2, 3) if v.dim() == 4 else (1,) for k, v in found.features.items()}
    assert found.features["last_map"].shape[positions["last_map"][0] :].numel() > 1 or name == "pvt_v2_b0"
    assert found.features["last_map"].std(dim=positions["last_map"]).max() > 0
    for tap, expected in (("last_map", found.features["embedding"]), ("class_map", found.logits)):
        torch.testing.assert_close(found.features[tap].mean(dim=positions[tap]), expected, rtol=1e-4, atol=1e-4)


def test_class_maps_train_body_and_classifier(networks):
    model = TappedModel(networks("cnn3"), PREPROCESS, ("class_map",))
    model(torch.rand(2, 3, 64, 64)).features["class_map"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("tap", ["last_map", "class_map"])
def test_a_class_token_is_no_mean_of_a_map(tap, networks):
    with pytest.raises(ModelError, match=rf"VisionTransformer has no '{tap}': its classifier does not read the mean"):
        TappedModel(networks("vit_tiny_patch16_224"), PREPROCESS, (tap,))


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050"])
def test_a_layer_behind_the_mean_leaves_no_class_map(name, networks):
    """The last map has 2 x 2 positions; what the classifier reads has one, and is no mean of theirs."""
    model = TappedModel(networks(name), PREPROCESS, ("stage4", "last_map"))
    assert (model.shapes["stage4"][1:], model.shapes["last_map"][1:]) == ((2, 2), (1, 1))
    with pytest.raises(
        ModelError, match=r"has no 'class_map': its classifier does not read the mean[\s\S]*such a network"
    ):
        TappedModel(networks(name), PREPROCESS, ("class_map",))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050"])
def test_a_map_that_has_one_position_because_the_image_is_small_is_one(name, networks):
    model = TappedModel(networks(name), Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3), ("stage4", "class_map"))
    assert (model.shapes["stage4"][1:], model.shapes["class_map"]) == ((1, 1), (K, 1, 1))


def test_stages_that_are_nowhere_do_not_matter(networks):
    """timm names stages of this network that it has not."""
    assert TappedModel(networks("mvitv2_tiny"), PREPROCESS, ("class_map",)).shapes == {"class_map": (4, K)}


def test_they_have_no_pre(networks):
    with pytest.raises(ModelError, match=r"there is no tap 'last_map.pre'"):
        TappedModel(networks("cnn3"), PREPROCESS, ("last_map.pre",))


@pytest.mark.parametrize("name", ["cat_kd", "norm", "kdpp", "mgd"])
@pytest.mark.parametrize(("s", "t"), [("cnn3", "resnet18"), ("mobilenetv2_050", "cnn3")])
def test_real_networks(name, s, t, networks):
    taps = methods.taps(name)
    student = TappedModel(networks(s), PREPROCESS, taps.student)
    teacher = TappedModel(networks(t), PREPROCESS, taps.teacher)
    method = methods.build(name, PairInfo(K, 9, student.shapes, teacher.shapes))
    images = torch.rand(4, 3, 64, 64)
    batch = Batch(images, torch.arange(4), torch.arange(4), torch.zeros(4, dtype=torch.int64))
    with torch.no_grad():
        target = teacher(images)
    terms = method(student(images), target, batch, Step(progress=0.5, terms=method.active_terms(Phase())))
    student.zero_grad()
    sum(v for k, v in terms.items() if k != "ce").backward()
    first = next(student.parameters())
    assert first.grad.abs().sum() > 0
    assert torch.isfinite(first.grad).all()
