from __future__ import annotations

import json

import pytest
import timm
import torch
import torchvision

from sapling.errors import ModelError
from sapling.models import (
    LoadedModel,
    Preprocess,
    TappedModel,
    create_model,
    hub,
    list_models,
    load_model,
    origin_of,
    resolve_name,
    save_model,
)
from sapling.models.foreign import fit_weights
from sapling.models.wrapped import PLANS
from tests.models.elsewhere import trained

# One of each family; the others differ in widths only.
FAMILIES = ("alexnet", "googlenet", "mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1")
STAGES = ("stage1", "stage2", "stage3", "stage4")
CLASSES = ("a", "b", "c")


def test_they_are_all_that_timm_lacks():
    known = set(torchvision.models.list_models(module=torchvision.models))
    assert set(PLANS) <= known
    lacking = {name for name in known if not timm.is_model(name) and not timm.list_pretrained(f"{name}.tv_*")}
    assert {name for name in lacking if name.startswith(("alex", "goog", "mnas", "shuf", "sque"))} == set(PLANS)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_answers_as_torchvision_s_and_its_weights_fit(name):
    arguments = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    network = trained(getattr(torchvision.models, name)(num_classes=3, **arguments), side=64)
    fit = fit_weights(network.state_dict(), f"torchvision:{name}")
    assert fit.num_classes == 3
    model = create_model(f"torchvision:{name}", num_classes=3, img_size=64).eval()
    model.load_state_dict(fit.weights)
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(model(images), network(images), atol=1e-5)


@pytest.mark.parametrize("name", PLANS)
def test_stages_have_the_promised_channels_and_sizes(name):
    with torch.device("meta"):
        model = timm.create_model(resolve_name(f"torchvision:{name}"), num_classes=3)
        maps = {}
        for entry in model.feature_info:
            module = model.get_submodule(entry["module"])
            module.register_forward_hook(lambda _m, _i, out, path=entry["module"]: maps.update({path: out.shape}))
        assert model.eval()(torch.zeros(2, 3, 224, 224)).shape == (2, 3)
    for entry in model.feature_info:
        shape = maps[entry["module"]]
        assert shape[1] == entry["num_chs"]
        assert abs(shape[2] - 224 / entry["reduction"]) <= 3, "stems and poolings without padding lose a pixel"


@pytest.mark.parametrize("name", FAMILIES[1:])  # AlexNet's file has 228 MB
def test_taps_bands_and_a_folder_that_loads_again(name, tmp_path):
    model = create_model(f"torchvision:{name}", num_classes=3, in_chans=4, img_size=64, seed=0)
    trained_model = model.eval()
    preprocess = Preprocess(64, 64, (0.4,) * 4, (0.2,) * 4)
    tapped = TappedModel(trained_model, preprocess, (*STAGES, "stage4.pre", "embedding"))
    images = torch.rand(2, 4, 64, 64)
    outputs = tapped(images)
    assert [outputs.features[s].shape[1] for s in STAGES] == [entry["num_chs"] for entry in model.feature_info]
    assert outputs.features["embedding"].shape == (2, model.num_features)
    card = tapped.classifier_card
    if name.startswith("squeezenet"):
        assert card is None, "its classifier is no linear layer"
    else:
        again = outputs.features["embedding"] @ card["classifier.weight"].T + card["classifier.bias"]
        assert torch.allclose(again, outputs.logits, atol=1e-5)
    save_model(
        tmp_path, model, architecture=resolve_name(f"torchvision:{name}"), classes=CLASSES, preprocess=preprocess
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == f"sapling_torchvision_{name}"
    assert config["model_args"] == {"in_chans": 4}
    back = load_model(tmp_path)
    assert isinstance(back, LoadedModel)
    normalised = tapped.normalise(images)
    assert torch.equal(back.model(normalised), outputs.logits)
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(by_timm(normalised), outputs.logits)


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_another_classifier(name):
    model = create_model(f"torchvision:{name}", num_classes=3, img_size=32).eval()
    model.reset_classifier(5)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    model.reset_classifier(0)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, model.num_features)
    with pytest.raises(ValueError, match="taps only"):
        timm.create_model(resolve_name(f"torchvision:{name}"), features_only=True)


# ---- names ---------------------------------------------------------------------------------------------------------


def test_names():
    assert resolve_name("torchvision:alexnet") == "sapling_torchvision_alexnet"
    assert list_models("squeezenet*") == ["torchvision:squeezenet1_0", "torchvision:squeezenet1_1"]
    assert list_models("torchvision:mnasnet1*") == ["torchvision:mnasnet1_0", "torchvision:mnasnet1_3"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("alexnet", "torchvision:alexnet"),
        ("squeezenet1_2", "torchvision:squeezenet1_1"),
        ("torchvision:alxnet", "torchvision:alexnet"),
        ("torchvision:resnet18", "timm has it: resnet18.tv_in1k"),
        ("torchvision:resnext", "torchvision: is for the few networks"),
    ],
)
def test_wrong_names_lead_to_the_right_ones(wrong, meant):
    with pytest.raises(ModelError, match=meant):
        resolve_name(wrong)


# ---- published weights ---------------------------------------------------------------------------------------------


@pytest.fixture
def torch_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_published_weights_come_from_torch_s_cache(torch_hub):
    published = torchvision.models.shufflenet_v2_x0_5(num_classes=1000)
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    torch_hub.mkdir(parents=True)
    torch.save(published.state_dict(), torch_hub / url.rpartition("/")[2])
    model = create_model("torchvision:shufflenet_v2_x0_5", num_classes=5, in_chans=4, img_size=64, pretrained=True)
    assert torch.equal(model.net.stage2[0].branch1[0].weight, published.stage2[0].branch1[0].weight)
    assert model.net.conv1[0].weight.shape[1] == 4
    assert model.net.fc.out_features == 5
    origin = origin_of(model)
    assert (origin.weights, origin.head, origin.licence) == ("pretrained", "fresh", "bsd-3-clause")
    assert origin.started_from == "torchvision:shufflenet_v2_x0_5"
    assert "state_dict" not in model.pretrained_cfg, "it would be copied with the model"


def test_offline_without_a_cache_says_what_to_do(torch_hub, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="pretrained=False"):
        create_model("torchvision:alexnet", num_classes=5, img_size=64, pretrained=True)
    assert not torch_hub.exists()
