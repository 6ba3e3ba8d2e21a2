"""Batch norm folded into convolutions: the same function, the original untouched, and never where it is not exact."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.teachers import folding
from sapling.teachers.ensemble import Ensemble, Symmetrised, Symmetry
from sapling.teachers.folding import folded
from sapling.teachers.live import LiveTeacher
from sapling.types import Batch, Outputs

SIZE = 32
PREPROCESS = Preprocess(SIZE, SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TAPS = ("stage1", "stage3.pre", "embedding")


def lived(model, seed=0):
    """Statistics and weights as of a trained network: no channel is like another."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) * 2 + 0.5)
            if module.affine:
                module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
    return model.eval().requires_grad_(False)


def tapped(name="resnet18", taps=TAPS, seed=0):
    return TappedModel(
        lived(create_model(name, num_classes=5, img_size=SIZE, seed=seed), seed), PREPROCESS, taps
    ).eval()


def images(number=3, seed=7):
    return torch.rand(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def norms(model):
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def assert_close(one, other):
    assert one.features.keys() == other.features.keys()
    for a, b in [(one.logits, other.logits), *((one.features[t], other.features[t]) for t in one.features)]:
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


@pytest.mark.parametrize(
    ("name", "before", "left"),
    # cnn4 pools between convolution and norm in three of its blocks
    [("resnet18", 20, 0), ("cnn4", 4, 3), ("efficientnet_b0", 49, 0), ("mobilenetv2_100", 52, 0), ("resnet20", 21, 0)],
)
def test_the_answer_is_the_same_and_no_norm_is_left(name, before, left):
    network = tapped(name, TAPS if name != "cnn4" else ("embedding",))
    assert norms(network) == before
    quick = folded(network, images())
    assert quick is not network
    assert norms(quick) == left
    with torch.no_grad():
        for seed in (1, 2):
            assert_close(network(images(seed=seed)), quick(images(seed=seed)))


def test_the_network_itself_is_not_changed_and_the_rest_is_shared():
    network = tapped()
    state = {k: v.clone() for k, v in network.state_dict().items()}
    quick = folded(network, images())
    assert norms(network) == 20
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert quick.model.fc.weight is network.model.fc.weight
    with torch.no_grad():
        network.model.conv1.weight.zero_()
        assert quick.model.conv1.weight.abs().sum() > 0


def test_a_tap_between_the_two_keeps_them_apart():
    network = tapped(taps=("layer1.0.conv1", "layer2.0.bn1", "layer3.0.conv2"))
    quick = folded(network, images())
    assert norms(quick) == 3
    with torch.no_grad():
        assert_close(network(images(seed=3)), quick(images(seed=3)))


class Odd(nn.Module):
    """A map that its batch norm and something else read; a batch norm that serves two convolutions."""

    def __init__(self, kind):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.norm, self.kind, self.calls = nn.BatchNorm2d(4), kind, 0

    def forward(self, x):
        one = self.one(x)
        if self.kind == "read twice":
            return Outputs((self.norm(one) + one).mean((2, 3)))
        return Outputs((self.norm(one) * self.norm(self.two(x))).mean((2, 3)))


@pytest.mark.parametrize("kind", ["read twice", "shared norm"])
def test_what_only_looks_like_a_pair_is_left(kind):
    network = lived(Odd(kind))
    assert folded(network, images()) is network


def test_a_copy_that_answers_otherwise_is_not_used(monkeypatch):
    network, fold = tapped(), folding._fold

    def spoil(model, convolution, norm):
        fold(model, convolution, norm)
        model.get_submodule(convolution).bias.add_(1e-2)

    monkeypatch.setattr(folding, "_fold", spoil)
    assert folded(network, images()) is network


def test_norms_without_weights_and_convolutions_with_a_bias():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=True), nn.BatchNorm2d(6, affine=False, eps=0.1)

        def forward(self, x):
            return Outputs(self.norm(self.conv(x)).mean((2, 3)))

    network = lived(Plain())
    quick = folded(network, images())
    assert isinstance(quick.norm, nn.Identity)
    by_hand = (network.conv(images()) - network.norm.running_mean.view(-1, 1, 1)) / (
        network.norm.running_var.view(-1, 1, 1) + 0.1
    ).sqrt()
    assert torch.allclose(quick(images()).logits, by_hand.mean((2, 3)), atol=1e-5)


def test_networks_without_such_pairs_are_used_as_they_are():
    model = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=5).eval().requires_grad_(False)
    network = TappedModel(model, PREPROCESS, ["embedding"]).eval()
    assert folded(network, images()) is network


def live(model, **changes):
    return LiveTeacher(model, **{"device": "cpu", "bf16": False, "channels_last": True, **changes})


def batch():
    return Batch(images(), torch.zeros(3, dtype=torch.int64), torch.arange(3), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["one", "symmetrised", "ensemble"])
def test_the_live_teacher_answers_folded_and_draws_no_random_number(kind):
    network = tapped()
    if kind == "symmetrised":
        network = Symmetrised(network, (Symmetry(), Symmetry(1)))
    if kind == "ensemble":
        network = Ensemble([network, tapped(seed=1)])
    before = torch.random.get_rng_state()
    teacher = live(network)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert norms(teacher.model) == 0
    assert norms(network) in (20, 40)
    with torch.no_grad():
        assert_close(network(batch().images), teacher.outputs(batch()))
    assert torch.equal(teacher.outputs(batch()).logits, live(network).outputs(batch()).logits)


def test_in_bf16_the_layers_stay_apart():
    network = tapped()
    assert live(network, bf16=True).model is network


def test_folded_layers_are_those_of_timm():
    # the pair of batch norm and activation in one layer, which stays as dropout and activation
    quick = folded(tapped("efficientnet_b0"), images())
    assert not any(isinstance(m, BatchNormAct2d) for m in quick.modules())
    assert any(isinstance(m, nn.SiLU) for m in quick.modules())
