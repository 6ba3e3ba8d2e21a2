"""Taps of every family of networks: the same promises, one table."""

from __future__ import annotations

import copy
import functools
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapling.bands import Bands
from sapling.errors import ModelError
from sapling.models import Preprocess, TappedModel, create_model
from sapling.models.build import build_network
from sapling.teachers.live import LiveTeacher
from sapling.types import Batch
from tests.models.families import FAMILIES, network, settings
from tests.models.shaken import pictures

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
over_families = pytest.mark.parametrize("name", FAMILIES)


def all_taps(name):
    family = FAMILIES[name]
    plain = (*family.stages, "embedding")
    return (*plain, *(f"{tap}.pre" for tap in plain), family.inner[0])


@functools.cache
def shared(name):
    """One tapped network with all taps, for tests that only look."""
    return TappedModel(copy.deepcopy(network(name)), settings(name), all_taps(name)).eval()


def tapped(name, taps=None):
    return TappedModel(copy.deepcopy(network(name)), settings(name), all_taps(name) if taps is None else taps)


def images_for(name, count=2):
    side = FAMILIES[name].size
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def same(one, two, error=0.0):
    """All logits and features are equal, or differ by a share of their norm."""
    pairs = [(one.logits, two.logits), *((one.features[tap], two.features[tap]) for tap in one.features)]
    return one.features.keys() == two.features.keys() and all((a - b).norm() <= error * b.norm() for a, b in pairs)


# ---- one promise, all families -----------------------------------------------------------------------------------


@over_families
def test_names_and_shapes_are_those_announced_and_those_written_down(name):
    family, model = FAMILIES[name], shared(name)
    expected = dict(zip((*family.stages, "embedding"), (*family.shapes, (family.embedding,)), strict=True))
    assert model.taps == all_taps(name)
    assert model.shapes == {**expected, **{f"{tap}.pre": shape for tap, shape in expected.items()}} | dict(
        [family.inner]
    )
    with torch.no_grad():
        outputs = model(images_for(name))
    assert {tap: tuple(f.shape[1:]) for tap, f in outputs.features.items()} == dict(model.shapes)
    assert all(f.dtype == torch.float32 and len(f) == 2 for f in outputs.features.values())


@over_families
def test_values_are_what_the_modules_give_when_nothing_works_in_place(name):
    family, model = FAMILIES[name], shared(name)
    plain, found = copy.deepcopy(network(name)), {}
    for module in plain.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    for tap, path in [*zip(family.stages, family.modules, strict=True), (family.inner[0],) * 2]:
        plain.get_submodule(path).register_forward_hook(
            lambda _m, _i, output, tap=tap: found.update({tap: output.clone()})
        )
    images = images_for(name)
    with torch.no_grad():
        outputs, logits = model(images), plain(model.normalise(images))
    assert torch.equal(outputs.logits, logits)
    for tap, expected in found.items():
        given = outputs.features[tap]
        if expected.dim() == 3:  # vision transformers: what is not of the patches comes first
            expected = expected[:, -given.shape[1] :]
        if expected.shape != given.shape:  # Swin, and norms inside ConvNeXt: channels last in the network
            expected = expected.permute(0, 3, 1, 2)
        assert torch.equal(given, expected), tap
    assert {tap: f.std() > 1e-4 for tap, f in found.items()} == dict.fromkeys(found, True), "they say something"


@over_families
def test_pre_is_what_the_activation_gets_or_flagged(name):
    family, model = FAMILIES[name], shared(name)
    with torch.no_grad():
        features = model(images_for(name)).features
    for tap in (*family.stages, "embedding"):
        before, after = features[f"{tap}.pre"], features[tap]
        if tap in family.activation:
            assert torch.equal(family.activation[tap](before), after), tap
            assert before.min() < 0
            assert not torch.equal(before, after)
        else:
            assert torch.equal(before, after), tap
    flagged = {f"{tap}.pre" for tap in (*family.stages, "embedding") if tap not in family.activation}
    assert set(model.taps_without_activation) == flagged


@over_families
def test_gradients_flow_through_every_tap_and_nothing_is_kept(name):
    model = tapped(name).train()
    first = next(model.parameters())
    outputs = model(images_for(name))
    for tap, feature in outputs.features.items():
        (gradient,) = torch.autograd.grad(feature.square().mean(), first, retain_graph=True, allow_unused=True)
        assert gradient is not None, tap
        assert gradient.isfinite().all(), tap
        assert gradient.abs().sum() > 0, tap
    kept = [weakref.ref(f) for f in outputs.features.values()]
    del outputs, feature
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)
    assert all(recorder.tensor is None for recorder in model._recorders.values())


@over_families
def test_a_real_in_place_relu_behind_a_tap_is_noticed(name):
    model, relu = tapped(name, ("stage4", "stage3.pre")).eval(), nn.ReLU(inplace=True)
    overwrite = model.model.get_submodule(FAMILIES[name].modules[-1]).register_forward_hook(
        lambda _m, _i, output: relu(output.sub_(0.1))
    )
    with torch.no_grad(), pytest.raises(ModelError, match="'stage4' was overwritten in place"):
        model(images_for(name))
    overwrite.remove()
    with torch.no_grad():
        assert model(images_for(name)).features["stage4"].isfinite().all(), "and it recovers"


@over_families
@pytest.mark.parametrize("device", DEVICES)
def test_features_are_float32_under_bf16_autocast(name, device):
    model = tapped(name).to(device).eval()
    images = images_for(name).to(device)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast(device, torch.bfloat16):
            outputs = model(images)
    assert {f.dtype for f in (outputs.logits, *outputs.features.values())} == {torch.float32}
    # a fresh deep network multiplies rounding; what matters is that the right tensor came, in the right type
    first = FAMILIES[name].stages[0]
    assert (outputs.features[first] - exact.features[first]).norm() < 0.05 * exact.features[first].norm()
    assert all(f.isfinite().all() for f in outputs.features.values())
    last = outputs.features["embedding"]
    assert (last - exact.features["embedding"]).abs().max() > 0, "bf16 was on"


@over_families
def test_equal_networks_give_equal_bits_and_one_image_needs_no_batch(name):
    model, images = shared(name), images_for(name, 3)
    with torch.no_grad():
        whole = model(images)
        assert same(whole, model(images))
        assert same(whole, tapped(name).eval()(images))
        single = model(images[1:2])
    assert {tap: tuple(f.shape) for tap, f in single.features.items()} == {
        tap: (1, *shape) for tap, shape in model.shapes.items()
    }
    part = type(whole)(whole.logits[1:2], {tap: f[1:2] for tap, f in whole.features.items()})
    assert same(single, part, error=1e-3)


@over_families
def test_copies_moves_and_weights_are_those_of_the_network(name):
    model, images = tapped(name).eval(), images_for(name)
    assert set(model.state_dict()) == {f"model.{key}" for key in network(name).state_dict()}
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(images)
        next(twin.parameters()).normal_(generator=torch.Generator().manual_seed(0))
        twin.to("cpu").to(torch.float64)
        changed = twin(images)
        assert same(model(images), expected), "the original knows nothing of its copy"
        assert not torch.allclose(changed.features["stage4"], expected.features["stage4"], rtol=1e-3)
        assert {f.dtype for f in changed.features.values()} == {torch.float32}
        twin.load_state_dict(model.state_dict())
        assert same(twin(images), expected, error=1e-3)


@over_families
def test_embedding_and_classifier_card_make_the_logits(name):
    model = shared(name)
    with torch.no_grad():
        outputs = model(images_for(name))
        card = model.classifier_card
        again = outputs.features["embedding"] @ card["classifier.weight"].T + card["classifier.bias"]
        if "distilled" in name:  # the mean of two heads on two tokens; the card is of the class token's
            second = TappedModel(copy.deepcopy(network(name)), settings(name), ("head_dist",)).eval()
            again = (again + second(images_for(name)).features["head_dist"]) / 2
    assert torch.allclose(again, outputs.logits, atol=1e-4)


# ---- one pair, two inputs --------------------------------------------------------------------------------------


def test_teacher_and_student_read_the_same_view_in_their_own_way():
    views = pictures(3, side=64)
    student_way = Preprocess(32, 37, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    teacher_way = Preprocess(64, 74, (0.6, 0.5, 0.4), (0.2, 0.3, 0.4))
    student = TappedModel(copy.deepcopy(network("cnn3")), student_way, ("stage4",)).eval()
    teacher_net = copy.deepcopy(network("resnet18"))
    teacher = LiveTeacher(
        TappedModel(teacher_net, teacher_way, ("stage4", "stage4.pre", "embedding.pre")),
        device="cpu",
        bf16=False,
        channels_last=False,
    )
    batch = Batch(views, None, torch.arange(3), torch.zeros(3, dtype=torch.int64))
    given = teacher.outputs(batch)
    with torch.no_grad():
        mine = student(views)

        def by_hand(way, images):
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (way.mean, way.std))
            return (images - mean) / std

        small = F.interpolate(views, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        assert torch.allclose(mine.logits, student.model(by_hand(student_way, small)), atol=1e-5)
        expected = teacher_net(by_hand(teacher_way, views))  # its batch norms are not folded
        assert (given.logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert student.shapes == {"stage4": (128, 8, 8)}
    assert teacher.shapes["stage4"] == (512, 2, 2)
    assert not given.logits.requires_grad
    assert teacher.taps_without_activation == ("embedding.pre",)
    assert torch.equal(batch.images, pictures(3, side=64)), "neither changes the view"


def test_teacher_and_student_take_their_own_bands_from_one_view():
    def bands(*chosen):
        return Bands(5, chosen, (0.0,) * len(chosen), (100.0,) * len(chosen))

    views = torch.rand(2, 5, 16, 16)
    student_way = Preprocess(16, 16, (0.1, 0.2), (0.5, 0.6), bands(5, 1))
    teacher_way = Preprocess(16, 16, (0.3, 0.2, 0.1), (0.2, 0.3, 0.4), bands(4, 3, 2))
    student_net, teacher_net = (
        build_network("sapling_cnn3", num_classes=4, arguments={"in_chans": n}, seed=0).eval() for n in (2, 3)
    )
    student = TappedModel(student_net, student_way, ("stage4",), bands=bands(1, 2, 3, 4, 5))
    teacher = TappedModel(teacher_net, teacher_way, ("stage4",), bands=bands(1, 2, 3, 4, 5))
    for model, way, chosen in ((student, student_way, [4, 0]), (teacher, teacher_way, [3, 2, 1])):
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (way.mean, way.std))
        assert torch.allclose(model(views).logits, model.model((views[:, chosen] - mean) / std), atol=1e-6)
        assert torch.equal(TappedModel(model.model, way)(views[:, chosen]).logits, model(views).logits)
        with pytest.raises(ModelError, match=r"\[B,5,H,W\]"):
            model(views[:, chosen])
    with pytest.raises(ModelError, match=r"the network reads bands 4, 3, 2 of 5.*; the images hold bands 1, 2, 3 of 5"):
        TappedModel(teacher_net, teacher_way, bands=bands(1, 2, 3))


# ---- layouts and refusals ----------------------------------------------------------------------------------------


def test_every_map_is_channels_first_wherever_it_is_tapped():
    swin = tapped("swin_tiny_patch4_window7_224", ("patch_embed.proj", "patch_embed", "layers.1.downsample", "norm"))
    assert list(swin.shapes.values()) == [(24, 16, 16), (24, 16, 16), (48, 8, 8), (192, 2, 2)]
    convnext = tapped("convnext_tiny", tuple(f"stages.1.blocks.0{part}" for part in (".conv_dw", ".norm", ".mlp", "")))
    assert list(convnext.shapes.values()) == [(24, 4, 4)] * 4


def test_a_concatenation_as_wide_as_its_last_layer_is_left_alone():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleDict({"one": nn.Conv2d(3, 12, 1), "two": nn.Conv2d(3, 16, 1)})
            self.join, self.fc, self.num_classes = Join(), nn.Linear(28, 2), 2

        def get_classifier(self):
            return self.fc

        def forward(self, x):
            return self.fc(self.join(self.body["one"](x), self.body["two"](x)).mean((2, 3)))

    class Join(nn.Module):
        def forward(self, one, two):
            return torch.cat([one, two], 1)

    assert TappedModel(Joined(), Preprocess(16, 16, (0.5,) * 3, (0.5,) * 3), ("join",)).shapes == {"join": (28, 16, 16)}


def test_attention_within_windows_has_no_row_for_each_image():
    with pytest.raises(ModelError, match="no row for each image"):
        tapped("swin_tiny_patch4_window7_224", ("layers.0.blocks.0.attn.qkv",))


class Shared(nn.Module):
    """One in-place ReLU serves twice, as in many a residual block."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.fc, self.num_classes = nn.Linear(8, 2), 2
        self.feature_info = [{"module": "relu", "num_chs": 8, "reduction": 1}]
        self.uses = 2

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        x = self.relu(self.conv(x))
        if self.uses == 2:
            x = self.relu(self.norm(x))
        return self.fc(x.mean((2, 3)))


def test_an_activation_that_serves_twice_is_tapped_at_the_right_call():
    torch.manual_seed(0)
    block = Shared()
    model = TappedModel(block, Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3), ("stage4.pre",)).eval()
    images = pictures(2, side=8)
    with torch.no_grad():
        before = block.norm.eval()(F.relu(block.conv(model.normalise(images)))).sub(0.5)
        block.norm.bias.sub_(0.5)
        assert before.min() < 0
        assert torch.allclose(model(images).features["stage4.pre"], before, atol=1e-6)
    assert model.taps_without_activation == ()
    block.uses = 1
    with pytest.raises(ModelError, match="gives nothing in one forward"):
        model(images)


@pytest.mark.parametrize("name", ["twins_pcpvt_small", "hrnet_w18_small"])
def test_a_network_without_the_last_stage_names_what_needs_none(name):
    """Twins lists modules that it does not have."""
    model = create_model(name, num_classes=3, img_size=64)
    with pytest.raises(ModelError, match=r"stage4[\s\S]*a method on logits, such as dist"):
        TappedModel(model, Preprocess(64, 64, (0.5,) * 3, (0.5,) * 3), ("stage4",))
