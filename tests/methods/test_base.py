from __future__ import annotations

import dataclasses

import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.methods.base import warmup
from sapling.types import Batch, Outputs, Phase, Step
from tests.methods.toys import batch, outputs, pair_info, write_toy


def make(name, **config):
    return methods.build(name, pair_info(), **config)


@pytest.fixture
def two_phases(tmp_path):
    torch.manual_seed(0)
    return make(write_toy("two_phases", tmp_path))


def test_default_weights():
    assert make("none").weights == {"ce": 1.0}
    assert make("kd").weights == {"ce": 1.0, "kd": 1.0}
    assert make("ctkd").weights == {"ce": 0.1, "kd": 0.9}
    assert make("dkd").weights == {"ce": 1.0, "tckd": 1.0, "nckd": 8.0}
    assert make("dist").weights == {"ce": 1.0, "inter": 2.0, "intra": 2.0}


def test_alpha_multiplies_the_label_term(tmp_path):
    assert make("kd", alpha=0.25).weights == {"ce": 0.25, "kd": 0.75}
    assert make("dkd", alpha=0.25).weights == {"ce": 0.25, "tckd": 0.75, "nckd": 6.0}
    assert make(write_toy("hint", tmp_path), alpha=0.25).weights == {"ce": 0.25, "hint": 75.0}
    assert make("kd", alpha=0).weights == {"ce": 0.0, "kd": 1.0}


def test_weights_that_are_not_named_keep_their_default():
    assert make("dkd", weights={"nckd": 2}).weights == {"ce": 1.0, "tckd": 1.0, "nckd": 2.0}
    assert make("ctkd", weights={}).weights == {"ce": 0.1, "kd": 0.9}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"alpha": 0.5, "weights": {"kd": 1}}, "together with weights"),
        ({"weights": {"kd": -1}}, "weights.kd: -1.0 is not allowed"),
        ({"weights": {"dk": 1}}, r"weights.dk: unknown term; did you mean 'kd'\?"),
        ({"weights": {"ce": 0, "kd": 0}}, "nothing to learn"),
        ({"alpha": 1.5}, "alpha: 1.5 is not allowed; must be 1 or less and 0 or more|0 or more and 1 or less"),
    ],
)
def test_wrong_weights_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        make("kd", **config)
    # the class itself checks too, for whoever builds it by hand
    kd = methods.load_class("kd")
    if "alpha: 1.5" not in message:
        with pytest.raises(ConfigError, match=message):
            kd(kd.Config(**config), pair_info())


def test_alpha_of_the_control_says_what_is_wrong():
    with pytest.raises(ConfigError, match="only term 'ce'"):
        make("none", alpha=0.5)
    assert make("none", alpha=1).weights == {"ce": 1.0}


def test_weights_are_a_copy():
    method = make("kd")
    method.weights["kd"] = 7
    assert method.weights["kd"] == 1.0


def test_active_terms():
    method = make("dkd", weights={"tckd": 0})
    assert method.active_terms(Phase()) == ("ce", "nckd")
    assert method.active_terms(Phase(terms=("tckd",))) == ()
    with pytest.raises(MethodError, match="unknown term 'kd'"):
        method.active_terms(Phase("late", terms=("kd",)))


def test_name_is_the_files_name(tmp_path):
    assert [methods.load_class(n).name for n in ("kd", "none")] == ["kd", "none"]
    assert methods.load_class(write_toy("hint", tmp_path)).name == "hint"


def test_mixed_images_use_their_targets():
    given = batch()
    targets = torch.softmax(torch.randn(16, 5), dim=1)
    mixed = dataclasses.replace(given, targets=targets)
    student = outputs(1, "student")
    got = make("none")(student, None, mixed, Step())["ce"]
    expected = -(targets * torch.log_softmax(student.logits, 1)).sum(1).mean()
    torch.testing.assert_close(got, expected)


def test_missing_parts_are_named():
    kd = make("kd")
    nothing = Batch(batch().images, None, batch().indices, batch().views)
    with pytest.raises(MethodError, match="no labels"):
        kd(outputs(1, "student"), outputs(2, "teacher"), nothing, Step())
    with pytest.raises(MethodError, match="teacher's outputs"):
        kd(outputs(1, "student"), None, batch(), Step())
    with pytest.raises(MethodError, match="without the student"):
        kd(None, outputs(2, "teacher"), batch(), Step())
    with pytest.raises(MethodError, match="student's outputs"):
        kd(None, outputs(2, "teacher"), batch(), Step(terms=("kd",)))
    with pytest.raises(MethodError, match="same classes"):
        kd(outputs(1, "student"), Outputs(torch.zeros(16, 9)), batch(), Step())


def test_half_precision_logits_give_a_float32_label_term():
    student = outputs(1, "student", dtype=torch.bfloat16)
    assert make("none")(student, None, batch(), Step())["ce"].dtype == torch.float32


def test_phases_freeze_and_thaw(two_phases):
    first, second = two_phases.phases()
    two_phases.train()
    two_phases.begin_phase(first)
    assert all(p.requires_grad for p in two_phases.parameters())
    two_phases.begin_phase(second)
    still = {n for n, p in two_phases.named_parameters() if not p.requires_grad}
    assert still == {n for n, _ in two_phases.named_parameters() if not n.startswith("adapter")}
    assert [two_phases.encoder.training, two_phases.decoder.training, two_phases.adapter.training] == [
        False,
        False,
        True,
    ]
    two_phases.train()
    assert not two_phases.encoder[1].training
    two_phases.eval()
    assert not two_phases.adapter.training


def test_gradients_flow_through_a_frozen_part(two_phases):
    two_phases.train()
    two_phases.begin_phase(two_phases.phases()[1])
    student = outputs(1, "student")
    student.features["embedding"].requires_grad_()
    terms = two_phases(student, outputs(2, "teacher"), batch(), Step("train", terms=("kd",)))
    terms["kd"].backward()
    assert student.features["embedding"].grad.abs().sum() > 0
    assert two_phases.adapter.weight.grad.abs().sum() > 0
    assert two_phases.encoder[0].weight.grad is None


def test_a_part_thaws_in_a_later_phase(two_phases):
    two_phases.encoder[1].bias.requires_grad_(False)  # never learns, whatever the phase
    two_phases.begin_phase(Phase(frozen=("encoder",)))
    two_phases.begin_phase(Phase(frozen=("decoder", "student")))
    assert two_phases.encoder[0].weight.requires_grad
    assert not two_phases.encoder[1].bias.requires_grad
    assert not two_phases.decoder.weight.requires_grad
    assert two_phases.encoder.training


def test_freezing_drops_an_old_gradient(two_phases):
    for parameter in two_phases.parameters():
        parameter.grad = torch.ones_like(parameter)
    two_phases.begin_phase(Phase(frozen=("encoder",)))
    assert two_phases.encoder[0].weight.grad is None
    assert two_phases.decoder.weight.grad is not None


def test_an_unknown_part_cannot_be_frozen(two_phases):
    with pytest.raises(MethodError, match=r"unknown part 'encodr'[\s\S]*did you mean 'encoder'"):
        two_phases.begin_phase(Phase(frozen=("encodr",)))


def test_defaults_of_the_base():
    method = make("kd")
    student = torch.nn.Linear(2, 2)
    assert method.deployable(student) is student
    assert method.phases() == [Phase()]
    assert methods.Method.taps(method.config).student == ()
    assert not list(method.parameters())


def test_warmup_rises_to_one():
    rises = [warmup(Step(progress=p), 0.25) for p in (0, 0.125, 0.25, 0.9)]
    assert rises == [0, 0.5, 1, 1]
    assert warmup(Step(progress=0.0), 0) == 1
