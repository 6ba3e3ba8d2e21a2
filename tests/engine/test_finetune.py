"""Fine-tuning: a frozen backbone stands still to the bit, and earlier layers learn more slowly."""

from __future__ import annotations

import copy

import pytest
import torch

from sapling.engine.optim import OptimSettings, learning_rate, make_optimizer
from sapling.engine.trainer import fit
from sapling.models import Preprocess, TappedModel, create_model
from tests.engine.conftest import PREPROCESS


def rebuilt(member, **optim):
    """The member with other optimiser settings."""
    values = {name: getattr(member.optim, name) for name in OptimSettings.__slots__}
    return type(member)(
        member.name, member.arm, member.seed, member.student, member.method, OptimSettings(**{**values, **optim})
    )


def frozen(member):
    member.student.freeze_backbone()
    return rebuilt(member)


def head_and_body(member):
    state = {name: value.clone() for name, value in member.student.model.state_dict().items()}
    heads = {name for name in state if name.startswith(("fc.", "head."))}
    return {n: state[n] for n in heads}, {n: v for n, v in state.items() if n not in heads}


# ---- frozen backbone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["cnn3", "resnet8x4"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_the_classifier_learns(data, make_member, settings, architecture, optimizer):
    member = frozen(make_member("a", architecture=architecture, optimizer=optimizer))
    head, body = head_and_body(member)
    fit([member], data, settings(2), evaluate=lambda m: {"training": m.student.eval().training})
    new_head, new_body = head_and_body(member)
    assert any("running_mean" in name for name in body)
    assert all(torch.equal(body[name], new_body[name]) for name in body), "weights and batch-norm statistics"
    assert all(not torch.equal(head[name], new_head[name]) for name in head)
    free = make_member("a", architecture=architecture, optimizer=optimizer)
    fit([free], data, settings(2))
    assert not all(torch.equal(body[name], head_and_body(free)[1][name]) for name in body)


def test_the_optimiser_holds_the_classifier_alone(make_member):
    member = frozen(make_member("a"))
    held = {id(p) for group in member.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in member.student.model.fc.parameters()}


def test_the_mode_of_the_frozen_part_is_eval_whatever_is_asked(make_member):
    student = make_member("a").student
    student.train()
    student.freeze_backbone()
    for training in (True, False, True):
        student.train(training)
        assert student.training is student.model.fc.training is training
        assert not any(module.training for module in student.model.blocks.modules())
    assert not any(module.training for module in copy.deepcopy(student).train().model.blocks.modules())
    student.eval()
    assert not student.model.fc.training


def test_both_heads_of_a_distilled_vit_learn():
    model = create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, seed=0)
    student = TappedModel(model, Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3))
    student.freeze_backbone()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


# ---- layer-wise learning rates -------------------------------------------------------------------------------------


def scales(model, decay=0.5):
    settings = OptimSettings("sgd", 0.1, 1e-3, "cosine", 0, 10, layer_decay=decay)
    optimizer = make_optimizer([TappedModel(model, PREPROCESS)], settings)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values()), "each parameter once"
    return found


def test_each_layer_learns_at_a_share_of_the_one_behind_it():
    small = scales(create_model("cnn3", num_classes=4, img_size=16, seed=0))
    assert [small[f"blocks.{i}.conv.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert small["fc.weight"] == small["fc.bias"] == 1.0
    resnet = scales(create_model("resnet20", num_classes=4, img_size=16, seed=0))
    assert resnet["conv1.weight"] == resnet["bn1.bias"] == 0.5**10
    assert resnet["layer3.2.conv2.weight"] == 0.5
    assert resnet["layer3.0.downsample.0.weight"] == resnet["layer3.0.conv1.weight"] == 0.125
    wide = scales(create_model("wrn_16_1", num_classes=4, img_size=16, seed=0))
    assert wide["conv1.weight"] == 0.5**7
    assert wide["bn1.weight"] == wide["fc.weight"] == 1.0


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "torchvision:shufflenet_v2_x0_5"])
def test_networks_of_others_have_layers_too(name):
    found = scales(create_model(name, num_classes=4, img_size=16, seed=0))
    first = next(iter(found))
    assert found[first] == min(found.values()) < 0.3
    assert found[list(found)[-1]] == max(found.values()) == 1.0


def test_weight_decay_spares_the_same_parameters_as_without():
    model = create_model("vit_tiny_patch16_224", num_classes=4, img_size=32, seed=0)
    student = TappedModel(model, Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3))
    plain, decayed = (
        {
            id(p)
            for g in make_optimizer([student], OptimSettings("sgd", 0.1, 1e-3, "cosine", 0, 10, **more)).param_groups
            for p in g["params"]
            if g["weight_decay"]
        }
        for more in ({}, {"layer_decay": 0.7})
    )
    assert plain == decayed


def test_a_share_of_one_changes_no_bit(data, make_member, settings):
    plain = make_member("a")
    alike = rebuilt(make_member("a"), layer_decay=1.0)
    for member in (plain, alike):
        fit([member], data, settings(2))
    for name, value in plain.student.state_dict().items():
        assert torch.equal(value, alike.student.state_dict()[name]), name


def test_the_first_layer_moves_less(data, make_member, settings):
    def moved(**changes):
        member = rebuilt(make_member("a"), weight_decay=0.0, warmup_steps=0, **changes)
        before = member.student.model.blocks[0].conv.weight.clone()
        fit([member], data, settings(1, batch_size=40))
        rates = {group.get("lr_scale", 1.0): group["lr"] for group in member.optimizer.param_groups}
        assert all(rate == learning_rate(member.optim, 0) * scale for scale, rate in rates.items())
        return float((member.student.model.blocks[0].conv.weight - before).detach().norm())

    assert moved(layer_decay=0.1) == pytest.approx(1e-3 * moved(), rel=1e-2)


def test_a_method_s_own_parts_learn_at_the_full_rate(make_member):
    member = make_member("a")
    own = torch.nn.Linear(3, 3)
    optimizer = make_optimizer([member.student, own], rebuilt(member, layer_decay=0.5).optim)
    groups = [g for g in optimizer.param_groups if any(p is q for p in g["params"] for q in own.parameters())]
    assert {g.get("lr_scale", 1.0) for g in groups} == {1.0}


class Killed(Exception):
    pass


def test_a_killed_pass_goes_on_to_the_same_bits(data, make_member, settings, tmp_path):
    def fresh():
        return rebuilt(frozen(make_member("a")), layer_decay=0.5)

    whole, first, second = fresh(), fresh(), fresh()
    fit([whole], data, settings(3))

    def die(rows):
        if rows[0]["epoch"] == 1:
            raise Killed

    with pytest.raises(Killed):
        fit([first], data, settings(3), report=die, checkpoint=tmp_path / "c.safetensors")
    fit([second], data, settings(3), checkpoint=tmp_path / "c.safetensors")
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, second.student.state_dict()[name]), name
