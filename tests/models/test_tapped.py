from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapling.errors import ModelError
from sapling.models import Preprocess, TappedModel, create_model, stage_modules
from tests.models.shaken import loaded, pictures, preprocess

STAGES = ("stage1", "stage2", "stage3", "stage4")


def tapped(name="cnn3", taps=(), **kwargs):
    what = loaded(name, **kwargs)
    return TappedModel(what.model, what.preprocess, taps)


def normalised_by_hand(images, settings):
    planes = [(images[:, i] - settings.mean[i]) / settings.std[i] for i in range(images.shape[1])]
    return torch.stack(planes, dim=1)


# ---- pixels ----------------------------------------------------------------------------------------------------


def test_mean_and_std_are_applied_per_channel():
    model = tapped()
    images = pictures(3)
    expected = model.model(normalised_by_hand(images, model.preprocess))
    assert torch.allclose(model(images).logits, expected, atol=1e-5)
    assert not torch.allclose(model(images).logits, model.model(images), atol=1e-2)


def test_images_of_another_size_are_resized_with_antialias():
    model = tapped()
    images = torch.rand(2, 3, 160, 160)
    small = F.interpolate(images, (64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.allclose(model(images).logits, model(small).logits, atol=1e-6)
    stripes = torch.zeros(1, 3, 160, 160)
    stripes[..., ::2] = 1.0
    middle = model.normalise(stripes)[..., 8:-8, 8:-8]
    grey = normalised_by_hand(torch.full_like(middle, 0.5), model.preprocess)
    assert torch.allclose(middle, grey, atol=0.15), "fine stripes become grey, not other stripes"


def test_thirteen_bands_and_one_band():
    for channels in (1, 13):
        model = tapped(channels=channels)
        assert model(torch.rand(2, channels, 64, 64)).logits.shape == (2, 7)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 4, 64, 64), torch.zeros(3, 64, 64)]
)
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(ModelError, match=r"\[B,3,H,W\] in \[0,1\]"):
        tapped()(images)


def test_a_network_of_other_channels_is_refused_when_it_is_wrapped():
    model = create_model("cnn3", num_classes=7, img_size=64, seed=0)
    with pytest.raises(ModelError, match="cannot read images"):
        TappedModel(model, preprocess(channels=4))


def test_the_state_dict_is_that_of_the_network():
    model = tapped(taps=("stage4",))
    assert set(model.state_dict()) == {f"model.{name}" for name in model.model.state_dict()}


# ---- taps ------------------------------------------------------------------------------------------------------


def test_stage_names_of_pyramids_and_of_a_plain_vit():
    resnet = create_model("resnet18", num_classes=3, img_size=64)
    assert [path for path, _ in stage_modules(resnet).values()] == ["layer1", "layer2", "layer3", "layer4"]
    vit = create_model("vit_tiny_patch16_224", num_classes=3, img_size=64)
    assert [path for path, _ in stage_modules(vit).values()] == [f"blocks.{i}" for i in (2, 5, 8, 11)]
    assert stage_modules(create_model("cnn3", num_classes=3, img_size=64)).keys() == {"stage2", "stage3", "stage4"}
    assert stage_modules(nn.Linear(2, 2)) == {}


SHAPES = {
    "resnet18": ((64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512,)),
    "cnn4": ((32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 8, 8), (256,)),
    "vit_tiny_patch16_224": ((16, 192), (16, 192), (16, 192), (16, 192), (192,)),
    "swin_tiny_patch4_window7_224": ((96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2), (768,)),
    "mobilenetv3_small_100": ((16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2), (1024,)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_stages_and_embedding(name):
    model = tapped(name, (*STAGES, "embedding"))
    assert tuple(model.shapes[tap] for tap in (*STAGES, "embedding")) == SHAPES[name]
    outputs = model(torch.rand(2, 3, 64, 64))
    assert {tap: tuple(f.shape[1:]) for tap, f in outputs.features.items()} == model.shapes
    assert all(f.dtype == torch.float32 and f.shape[0] == 2 for f in outputs.features.values())


def test_values_of_stages_follow_timms_own_features():
    model = tapped("resnet18", STAGES)
    images = torch.rand(2, 3, 64, 64)
    _, features = model.model.forward_intermediates(model.normalise(images), indices=[1, 2, 3, 4])
    outputs = model(images)
    for stage, expected in zip(STAGES, features, strict=True):
        assert torch.allclose(outputs.features[stage], expected, atol=1e-5)


def test_swin_maps_are_channels_first():
    model = tapped("swin_tiny_patch4_window7_224", ("stage1", "layers.1"))
    images = torch.rand(1, 3, 64, 64)
    _, features = model.model.forward_intermediates(model.normalise(images), indices=[0, 1], output_fmt="NCHW")
    outputs = model(images)
    assert torch.allclose(outputs.features["stage1"], features[0], atol=1e-5)
    assert torch.allclose(outputs.features["layers.1"], features[1], atol=1e-5)


@pytest.mark.parametrize("name", ["cnn3", "resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_card_and_embedding_make_the_logits(name):
    model = tapped(name, ("embedding",))
    outputs, card = model(torch.rand(2, 3, 64, 64)), model.classifier_card
    again = outputs.features["embedding"] @ card["classifier.weight"].T + card["classifier.bias"]
    assert torch.allclose(again, outputs.logits, atol=1e-4)
    card["classifier.bias"].add_(5.0)
    assert not torch.equal(card["classifier.bias"], model.classifier_card["classifier.bias"]), "it is a copy"


def test_a_module_path_can_be_tapped_and_a_wrong_one_suggests():
    assert tapped("resnet18", ("layer2.0.conv1",)).shapes == {"layer2.0.conv1": (128, 8, 8)}
    with pytest.raises(ModelError, match=r"layer2\.0\.conv2"):
        tapped("resnet18", ("layer2.0.conv9",))
    with pytest.raises(ModelError, match="stage2, stage3, stage4, embedding"):
        tapped("cnn3", ("stage1",))


def test_no_taps_no_features_and_nothing_is_kept():
    model = tapped(taps=("stage4",))
    model(torch.rand(2, 3, 64, 64))
    model.model(torch.rand(2, 3, 64, 64))
    assert all(recorder.tensor is None for recorder in model._recorders.values())
    assert tapped()(torch.rand(2, 3, 64, 64)).features == {}


def test_the_dry_run_leaves_modes_statistics_and_the_generator_alone():
    model = create_model("resnet18", num_classes=3, img_size=64, seed=0)
    model.layer1.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    torch.manual_seed(2)
    expected = torch.rand(2)
    torch.manual_seed(2)
    TappedModel(model, preprocess(), ("stage4.pre", "embedding"))
    assert torch.equal(torch.rand(2), expected)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_gradients_reach_the_network_through_features():
    model = tapped("resnet18", ("stage2",)).train()
    model(torch.rand(2, 3, 64, 64)).features["stage2"].square().mean().backward()
    assert model.model.layer2[0].conv1.weight.grad.abs().sum() > 0
    assert model.model.layer3[0].conv1.weight.grad is None


def test_a_copy_records_its_own_features():
    model = tapped(taps=("stage4",))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.blocks[2].conv.weight.zero_()
    images = torch.rand(1, 3, 64, 64)
    one, two = model(images), twin(images)
    assert not torch.equal(one.features["stage4"], two.features["stage4"])
    assert torch.equal(model(images).features["stage4"], one.features["stage4"])


# ---- precision -------------------------------------------------------------------------------------------------


def test_outputs_are_float32_under_autocast():
    model = tapped("resnet18", ("stage1", "stage4", "embedding"))
    images = torch.rand(2, 3, 64, 64)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images)
    assert outputs.logits.dtype == torch.float32
    assert all(feature.dtype == torch.float32 for feature in outputs.features.values())
    error = (outputs.logits - expected.logits).abs().max()
    assert 0 < error < 0.05 * expected.logits.abs().max(), "bf16 was on, and its error is small"


def test_a_network_with_bf16_weights_gives_float32():
    model = tapped("cnn3", ("stage4",))
    model.model.bfloat16()
    assert model(torch.rand(2, 3, 64, 64)).logits.dtype == torch.float32


def test_inference_mode_and_channels_last_give_the_same():
    model = tapped("cnn3", ("stage3", "embedding"))
    images = torch.rand(2, 3, 64, 64)
    expected = model(images)
    with torch.inference_mode():
        outputs = model(images.to(memory_format=torch.channels_last))
    assert torch.allclose(outputs.logits, expected.logits, atol=1e-5)
    assert torch.allclose(outputs.features["stage3"], expected.features["stage3"], atol=1e-5)


def test_it_compiles_to_one_graph():
    model = tapped("cnn3", ("stage3", "embedding")).eval()
    images = torch.rand(2, 3, 64, 64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected, outputs = model(images), compiled(images)
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(outputs.features["stage3"], expected.features["stage3"])


# ---- layers that work in place -----------------------------------------------------------------------------------


class InPlace(nn.Module):
    """A tiny classifier with a timm-like interface, whose ReLU overwrites what the norm gave."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(4, 2)
        self.num_classes = 2

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.fc(self.act(self.norm(self.conv(x))).mean((2, 3)))


def test_a_tap_that_is_overwritten_in_place_is_copied():
    settings = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3)
    torch.manual_seed(0)
    network = InPlace()
    model = TappedModel(network, settings, ("norm",)).eval()
    images = torch.rand(2, 3, 8, 8)
    expected = network.norm(network.conv(model.normalise(images)))
    assert expected.min() < 0
    assert torch.equal(model(images).features["norm"], expected)
    with torch.inference_mode():
        assert torch.equal(model(images).features["norm"], expected)


def test_a_tap_that_comes_to_be_overwritten_raises():
    settings = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3)
    network = InPlace(inplace=False)
    model = TappedModel(network, settings, ("norm",))
    model(torch.rand(2, 3, 8, 8))
    network.act.inplace = True
    with pytest.raises(ModelError, match="overwritten in place"):
        model(torch.rand(2, 3, 8, 8))
    network.act.inplace = False
    assert model(torch.rand(2, 3, 8, 8)).features["norm"].shape == (2, 4, 8, 8), "and it recovers"


@pytest.mark.parametrize("name", ["cnn4", "resnet18"])
def test_pre_is_the_input_of_the_activation(name):
    model = tapped(name, ("stage2", "stage2.pre", "stage4", "stage4.pre"))
    assert model.taps_without_activation == ()
    for outputs in (model.eval()(torch.rand(2, 3, 64, 64)), model.train()(torch.rand(2, 3, 64, 64))):
        for stage in ("stage2", "stage4"):
            before = outputs.features[f"{stage}.pre"]
            assert before.min() < 0
            assert torch.equal(F.relu(before), outputs.features[stage])


def test_pre_without_an_activation_is_the_output_and_is_flagged():
    model = tapped("vit_tiny_patch16_224", ("stage4", "stage4.pre", "embedding.pre"))
    outputs = model(torch.rand(1, 3, 64, 64))
    assert torch.equal(outputs.features["stage4"], outputs.features["stage4.pre"])
    assert model.taps_without_activation == ("stage4.pre", "embedding.pre")


class Twice(InPlace):
    def forward(self, x):
        return self.fc(self.act(self.act(self.norm(self.conv(x)))).mean((2, 3)))


def test_a_module_that_is_called_twice_is_refused():
    with pytest.raises(ModelError, match="2 tensors in one forward"):
        TappedModel(Twice(), Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3), ("act",))


def test_taps_do_not_change_the_answer():
    images = torch.rand(2, 3, 64, 64)
    plain = tapped("resnet18")(images).logits
    full = tapped("resnet18", (*STAGES, "stage3.pre", "embedding", "act1"))(images).logits
    assert torch.equal(plain, full)
