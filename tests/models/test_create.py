from __future__ import annotations

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from sapling.errors import ModelError
from sapling.models import (
    count_macs,
    count_parameters,
    create_model,
    hub,
    list_models,
    origin_of,
    resolve_name,
    save_model,
)
from tests.models.shaken import CLASSES, loaded


def states_equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_short_names_tags_and_sources_resolve():
    assert resolve_name("cnn3") == "sapling_cnn3"
    assert resolve_name("sapling_cnn4") == "sapling_cnn4"
    assert resolve_name("resnet18") == "resnet18"
    assert resolve_name("resnet18.a1_in1k") == "resnet18.a1_in1k"
    assert resolve_name("hf-hub:someone/net") == "hf-hub:someone/net"


@pytest.mark.parametrize(("wrong", "meant"), [("resnet81", "resnet18"), ("ResNet18", "resnet18"), ("cnn33", "cnn3")])
def test_an_unknown_name_suggests_the_nearest(wrong, meant):
    with pytest.raises(ModelError, match=meant):
        resolve_name(wrong)


def test_an_unknown_tag_lists_the_tags():
    with pytest.raises(ModelError, match="a1_in1k"):
        resolve_name("resnet18.a1_in22k")


def test_own_names_come_first_in_the_list():
    assert list_models("cnn*") == ["cnn3", "cnn4"]
    assert "resnet18" in list_models("resnet*")
    assert list_models("no such*") == []


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = create_model("cnn3", num_classes=5, img_size=32, seed=11)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(7)
    assert states_equal(first, create_model("cnn3", num_classes=5, img_size=32, seed=11))
    assert not states_equal(first, create_model("cnn3", num_classes=5, img_size=32, seed=12))


def test_a_size_is_given_only_to_networks_that_are_bound_to_one():
    vit = create_model("vit_tiny_patch16_224", num_classes=3, img_size=64, seed=0)
    assert vit(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert origin_of(vit).model_args == {"img_size": 64}
    assert origin_of(create_model("resnet18", num_classes=3, img_size=64, seed=0)).model_args == {}


def test_a_size_that_cannot_be_says_so():
    with pytest.raises(ModelError, match="img_size=8"):
        create_model("vit_tiny_patch16_224", num_classes=3, img_size=8)


def test_thirteen_bands():
    model = create_model("cnn3", num_classes=4, in_chans=13, img_size=32, seed=0)
    assert model(torch.zeros(2, 13, 32, 32)).shape == (2, 4)


def test_one_class_is_refused():
    with pytest.raises(ModelError, match="at least 2"):
        create_model("cnn3", num_classes=1, img_size=32)


def test_small_networks_have_the_promised_size():
    assert count_parameters(create_model("cnn3", num_classes=10, img_size=64)) == 94_762
    assert count_parameters(create_model("cnn4", num_classes=10, img_size=64)) == 391_466


def test_small_networks_follow_timms_interface():
    for name, stages in (("sapling_cnn3", 3), ("sapling_cnn4", 4)):
        model = timm.create_model(name, num_classes=6)
        images = torch.rand(2, 3, 40, 56)
        features = model.forward_features(images)
        assert torch.equal(model.eval()(images), model.forward_head(model.forward_features(images)))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        assert len(model.feature_info) == stages
        pyramid = timm.create_model(name, features_only=True)
        maps = pyramid(images)
        assert [m.shape[1] for m in maps] == pyramid.feature_info.channels()
        assert [40 // m.shape[2] for m in maps] == pyramid.feature_info.reduction()
        model.reset_classifier(9)
        assert model(images).shape == (2, 9)
        assert model.get_classifier().out_features == model.num_classes == 9
        model.reset_classifier(0)
        assert model(images).shape == (2, model.num_features)


@pytest.mark.parametrize("side", [1, 3, 8, 33])
def test_small_networks_take_any_size(side):
    assert create_model("cnn4", num_classes=3, img_size=side)(torch.rand(2, 3, side, side)).shape == (2, 3)


def test_macs_of_a_plain_network_by_hand():
    model = create_model("cnn3", num_classes=10, img_size=64)
    by_hand = 64 * 64 * 3 * 32 * 9 + 32 * 32 * 32 * 64 * 9 + 16 * 16 * 64 * 128 * 9 + 128 * 10
    assert count_macs(model, (3, 64, 64)) == by_hand
    assert model.training, "counting leaves the mode as it was"


def test_macs_of_known_networks():
    # torchvision's table says 1.81 G for resnet18 at 224 pixels.
    resnet = create_model("resnet18", num_classes=1000, img_size=224)
    assert count_macs(resnet, (3, 224, 224)) == pytest.approx(1.814e9, rel=1e-3)
    # A ViT block with width d and t tokens: 12 d^2 t in linear layers and 2 d t^2 in attention.
    vit = create_model("vit_tiny_patch16_224", num_classes=7, img_size=64)
    d, t = 192, 17
    assert count_macs(vit, (3, 64, 64)) == 12 * (12 * d * d * t + 2 * d * t * t) + 16 * 768 * d + d * 7


# ---- published weights ------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A published resnet18 for ImageNet's 1000 classes, as the hub's client would find it."""
    teacher = timm.create_model("resnet18", num_classes=1000)
    save_file({key: value.contiguous() for key, value in teacher.state_dict().items()}, tmp_path / "model.safetensors")
    asked = []

    def cached(repo, filename, revision=None):
        asked.append((repo, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    teacher.asked = asked
    return teacher


def test_offline_says_what_to_do(offline):
    with pytest.raises(ModelError, match="pretrained=False") as caught:
        create_model("resnet18", num_classes=5, img_size=64, pretrained=True)
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_a_machine_without_network_does_not_wait(monkeypatch):
    def no_name(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "getaddrinfo", no_name)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("it asked the hub"))
    with pytest.raises(ModelError, match="cannot be downloaded"):
        create_model("resnet18", num_classes=5, img_size=64, pretrained=True)


def test_pretrained_keeps_the_body_and_records_a_fresh_head(published):
    model = create_model("resnet18", num_classes=5, img_size=64, pretrained=True, seed=1)
    assert published.asked[0][1] == "model.safetensors", "never the pickled file"
    assert torch.equal(model.layer3[0].conv1.weight, published.layer3[0].conv1.weight)
    assert model.fc.weight.shape == (5, 512)
    origin = origin_of(model)
    assert (origin.weights, origin.head, origin.source) == ("pretrained", "fresh", "resnet18")
    again = create_model("resnet18", num_classes=5, img_size=64, pretrained=True, seed=1)
    assert torch.equal(model.fc.weight, again.fc.weight)


def test_pretrained_with_the_published_number_of_classes_has_a_fresh_head_too(published):
    model = create_model("resnet18", num_classes=1000, img_size=64, pretrained=True, seed=1)
    assert origin_of(model).head == "fresh"
    assert not torch.equal(model.fc.weight, published.fc.weight)


def test_pretrained_first_layer_is_adapted_to_more_bands(published):
    model = create_model("resnet18", num_classes=5, in_chans=4, img_size=64, pretrained=True, seed=1)
    assert model.conv1.weight.shape[1] == 4
    assert torch.equal(model.layer1[0].conv1.weight, published.layer1[0].conv1.weight)


def test_a_network_without_published_weights_says_so():
    with pytest.raises(ModelError, match="no published weights"):
        create_model("cnn3", num_classes=5, img_size=64, pretrained=True)


# ---- saved networks as a start -----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    what = loaded()
    folder = tmp_path / "teacher"
    save_model(folder, what.model, architecture=what.architecture, classes=what.classes, preprocess=what.preprocess)
    return folder, what.model


def test_a_saved_network_of_the_same_classes_keeps_its_head(saved):
    folder, original = saved
    model = create_model(f"local-dir:{folder}", num_classes=len(CLASSES), img_size=64)
    assert states_equal(model, original)
    assert origin_of(model).head == "loaded"
    assert model.training


def test_a_saved_network_of_other_classes_is_never_given_a_random_head_unasked(saved):
    folder, original = saved
    with pytest.raises(ModelError, match="7 classes, not 5"):
        create_model(str(folder), num_classes=5, img_size=64)
    model = create_model(str(folder), num_classes=5, img_size=64, pretrained=True, seed=0)
    assert origin_of(model).head == "fresh"
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    assert torch.equal(model.blocks[0].conv.weight, original.blocks[0].conv.weight)


def test_a_saved_network_of_other_channels_is_refused(saved):
    with pytest.raises(ModelError, match="3 channels, not 13"):
        create_model(str(saved[0]), num_classes=7, in_chans=13, img_size=64)


def test_timm_alone_gives_random_weights_without_pretrained(saved):
    """The trap that every place which shows the loading line must warn of."""
    folder, original = saved
    assert states_equal(timm.create_model(f"local-dir:{folder}", pretrained=True), original)
    assert not states_equal(timm.create_model(f"local-dir:{folder}"), original)
