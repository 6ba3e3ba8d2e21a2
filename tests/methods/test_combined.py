"""Several methods as one: each part does what it does alone, and the labels count once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.methods.combined import combine
from sapling.types import Step
from tests.contract import test_methods as contract
from tests.methods.toys import HEAD, batch, outputs, pair_info, write_toy

EVERY_STEP = Step(progress=0.5)


def build(name, seed=0, info=None, **options):
    torch.manual_seed(seed)
    return methods.build(name, info or pair_info(), **options)


def terms_of(method, step=EVERY_STEP, **given):
    torch.manual_seed(11)
    return method(outputs(1, "student"), outputs(2, "teacher"), given.get("batch", batch()), step)


def with_student(method):
    phase = method.phases()[-1]
    return terms_of(method, Step(phase.name, 1, 0.5, method.active_terms(phase)))


@pytest.mark.parametrize("name", ["kd", "fdbd", "fitnet", "nuclear", "crd"])
def test_a_combination_of_one_is_that_method_bit_for_bit(name):
    torch.manual_seed(3)
    joined = combine([name])
    whole = joined(joined.Config(), pair_info())
    after, plain = torch.rand(1), build(name, seed=3)
    assert torch.equal(after, torch.rand(1)), "as many random numbers were drawn"
    ours, theirs = whole.parts.state_dict(), plain.state_dict()
    assert list(ours) == [f"{name}.{k}" for k in theirs]
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))
    assert joined.requires == plain.requires
    if name == "nuclear":  # beside others it stands without kd; alone that has to be said
        return
    assert list(whole.weights.items()) == list(plain.weights.items())
    for mine, own in zip(whole.phases(), plain.phases(), strict=True):
        whole.begin_phase(mine)
        plain.begin_phase(own)
        assert list(whole.weights_in(mine).items()) == list(plain.weights_in(own).items())
        step = Step(own.name, 1, 0.5, plain.active_terms(own))
        found, expected = terms_of(whole, step), terms_of(plain, step)
        assert list(found) == list(expected)
        assert all(torch.equal(found[t], expected[t]) for t in expected)


def test_terms_are_those_of_the_parts():
    parts = {"fdbd": {"denoise_steps": 2}, "kd": {"temperature": 2}, "fitnet": {}, "at": {"stages": ["stage3"]}}
    whole = with_student(build("+".join(parts), **parts))
    for name, options in parts.items():
        alone = with_student(build(name, **options))
        assert all(torch.equal(whole[term], value) for term, value in alone.items()), name
        alone.pop("ce")
        whole = {k: v for k, v in whole.items() if k not in alone}
    assert set(whole) == {"ce"}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("kd+at", {}, {"ce": 1, "kd": 1, "at": 1000}),
        ("at+kd", {}, {"ce": 1, "at": 1000, "kd": 1}),
        ("ctkd+at", {}, {"ce": 0.1, "kd": 0.9, "at": 1000}),
        ("at+fitnet", {}, {"ce": 1, "at": 1000, "hint": 100}),
        ("kd+at", {"at": {"weight": 0.5}}, {"ce": 1, "kd": 1, "at": 500}),
        ("kd+at", {"kd": {"alpha": 0.3, "weight": 2}}, {"ce": 0.3, "kd": 1.4, "at": 1000}),
        ("kd+at", {"kd": {"weights": {"ce": 1, "kd": 4}}}, {"ce": 1, "kd": 4, "at": 1000}),
        ("kd+at", {"alpha": 0.5}, {"ce": 0.5, "kd": 0.5, "at": 500}),
        ("kd+at", {"alpha": 0.5, "at": {"weight": 3}}, {"ce": 0.5, "kd": 0.5, "at": 1500}),
        ("kd+at", {"alpha": 1}, {"ce": 1, "kd": 0, "at": 0}),
        ("kd+at", {"weights": {"ce": 0.5}}, {"ce": 0.5, "kd": 1, "at": 1000}),
        ("kd+at", {"weights": {"at": 7}, "at": {"weight": 3}}, {"ce": 1, "kd": 1, "at": 7}),
        ("kd+fdbd", {"fdbd": {"weight": 0.5}}, {"ce": 1, "kd": 1, "diffkd": 0.5, "diff": 1, "ae": 1}),
        ("dist+nuclear", {}, {"ce": 1, "inter": 2, "intra": 2, "kd": 0, "nuclear": 0.05}),
        ("kd+nuclear", {}, {"ce": 1, "kd": 1, "nuclear_kd": 0, "nuclear": 0.05}),
        ("at+nuclear", {"nuclear": {"base": "kd"}}, {"ce": 0.1, "at": 1000, "kd": 0.9, "nuclear": 0.045}),
        ("ctkd+kd", {"weights": {"ctkd_kd": 3}}, {"ce": 0.1, "ctkd_kd": 3, "kd": 1}),
        ("function_matching+at", {}, {"ce": 0, "kd": 1, "at": 1000}),
    ],
)
def test_weights(name, options, expected):
    weights = build(name, **options).weights
    assert next(iter(weights)) == "ce"
    assert weights == pytest.approx(expected)


def test_the_label_term_is_counted_once_and_is_the_controls():
    method, control = build("kd+at+dkd"), build("none")
    assert torch.equal(terms_of(method)["ce"], terms_of(control)["ce"])
    weighted = torch.tensor([0.5, 2.0, 1.0, 1.0, 1.0])
    method.label_loss = lambda logits, target: (logits * weighted).sum() + target.sum()
    assert float(terms_of(method)["ce"]) == float(method.label_loss(outputs(1, "student").logits, batch().labels))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kd+at", {"kd": {"alpha": 0.5}, "weights": {"kd": 1}}, "weights.kd: given together with kd.alpha"),
        ("fdbd+kd", {"weights": {"diff": 0}}, "leaves the denoiser untrained"),
        ("fdbd+kd", {"fdbd": {"denoiser": False}, "weights": {"diff": 1}}, "weights.diff can do nothing"),
        ("kd+nuclear", {"weights": {"nuclear_kd": 1}}, "weights.kd: base is none"),
        ("kd+at", {"kd": {"temprature": 1}, "at": {"weight": -1}}, r"kd.temprature[\s\S]*at.weight"),
        ("fdbd+kd", {"fdbd": {"joint": True, "phase1_epochs": 3}}, r"fdbd.*phase1_epochs: changes nothing"),
        ("kd+at", {"at": {"stages": ["stage2"], "teacher_stages": ["stage2", "stage3"]}}, "1 stages and 2 teacher"),
    ],
)
def test_settings_that_contradict_each_other(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **options)


def test_parts_that_cannot_stand_together(tmp_path):
    with pytest.raises(MethodError, match="two of its parts have a phase 'denoiser'"):
        build("fdbd+diffkd", diffkd={"joint": False})
    shipping = HEAD.format(title="It ships another network", formula="none") + (
        "\nclass Ships(Method):\n    terms = ('ce', 'own')\n    {extra}\n"
        "    def forward(self, student, teacher, batch, step):\n"
        "        return {{**self.label_terms(student, batch, step), 'own': student.logits.square().mean()}}\n"
    )
    wrap = "\n    def deployable(self, student):\n        return nn.Sequential(student, nn.Identity())\n"
    stages = "\n    def phases(self):\n        return [Phase('warm', 1), Phase('train')]\n"
    own = "\n    class Config(MethodConfig):\n        weight: float = Field(1.0, description='its own')\n"
    label = "\n    def label_terms(self, student, batch, step):\n        return {}\n"
    files = {}
    for file, extra in (("one", wrap), ("long", stages), ("heavy", own), ("label", label)):
        files[file] = str(tmp_path / f"{file}.py")
        (tmp_path / f"{file}.py").write_text(shipping.format(extra=extra).replace("{{", "{").replace("}}", "}"))
    with pytest.raises(MethodError, match="'one' trains the labels through parts of its own and ships them"):
        build(f"kd+{files['one']}", one={"weight": 2.0})
    with pytest.raises(MethodError, match="long trains the student in phases of its own"):
        build(f"kd+{files['long']}")
    with pytest.raises(MethodError, match="'label' has label_terms of its own"):
        build(f"kd+{files['label']}")
    with pytest.raises(MethodError, match="has a setting 'weight' of its own"):
        build(f"kd+{files['heavy']}")


def test_several_labels_only_if_every_part_can():
    info = dataclasses.replace(pair_info(), multi_label=True, train_labels=None)
    method = build("kd+at", info=info)
    assert method.weights == {"bce": 1, "kd": 1, "at": 1000}
    many = dataclasses.replace(batch(), labels=None, targets=torch.ones(16, 5))
    assert set(terms_of(method, batch=many)) == {"bce", "kd", "at"}
    with pytest.raises(MethodError, match="needs one class per image"):
        build("kd+dkd", info=info)


def test_needs_and_taps_are_those_of_all_parts():
    needs = methods.requires("crd+kd")
    assert (needs.labels, needs.min_batch, needs.multi_label) == (True, 8, False)
    assert methods.requires("kd+nuclear", nuclear={"mode": "ole"}).labels
    assert not methods.requires("kd+nuclear").labels
    taps = methods.taps("at+fdbd+kd", at={"stages": ["stage3", "stage4"]})
    assert taps.student == taps.teacher == ("stage3", "stage4")
    assert [place for place, _, _ in methods.parts("kd+at", kd={"temperature": 2})] == ["method.kd", "method.at"]
    assert [(place, own.temperature) for place, _, own in methods.parts("kd", temperature=2)] == [("method", 2.0)]


def test_observations_are_handed_on():
    method = build("kd+nuclear+ctkd")
    terms_of(method)
    assert set(method.observations()) == {"effective_rank"}


WHOLE = ["nuclear+at", "kd+toy:two_phases", "rkd+toy:memory"]


@pytest.fixture(params=WHOLE)
def whole(request, tmp_path):
    name, _, toy = request.param.partition("toy:")
    return name + write_toy(toy, tmp_path) if toy else name


@pytest.mark.parametrize(
    "promise",
    [
        contract.test_alpha_one_is_bit_identical_to_the_control,
        contract.test_same_seed_same_numbers,
        contract.test_state_comes_back,
        contract.test_default_settings_pass_their_own_check,
    ],
)
def test_a_combination_keeps_what_every_method_keeps(whole, promise):
    promise(whole)


@pytest.mark.parametrize(
    "promise",
    [
        contract.test_terms_are_those_declared_finite_scalars,
        contract.test_a_term_that_is_not_wanted_is_not_given,
        contract.test_label_term_alone_needs_no_teacher,
        contract.test_no_gradient_reaches_the_teacher,
        contract.test_every_term_of_the_student_gives_it_a_gradient,
        contract.test_own_parameters_get_a_gradient_in_some_phase,
        contract.test_frozen_parts_stand_still,
        contract.test_requirements_are_true,
        contract.test_smallest_batch_is_enough,
        contract.test_phases_are_sound,
        contract.test_inputs_are_left_alone,
    ],
)
def test_a_built_combination_keeps_them_too(whole, promise):
    promise(contract.make(whole))


def test_the_denoiser_stands_still_in_eval_mode_beside_the_others():
    method = build("kd+fdbd")
    first, last = method.phases()
    assert (first.uses_student, first.parts) == (
        False,
        ("parts.fdbd.branches.feat.autoencoder", "parts.fdbd.branches.feat.denoiser"),
    )
    method.train()
    method.begin_phase(last)
    branch = method.parts["fdbd"].branches["feat"]
    assert not branch.denoiser.training
    assert not any(p.requires_grad for p in branch.denoiser.parameters())
    assert branch.translator.weight.requires_grad
    plain = build("fdbd")
    assert method.phase_inputs(first) == plain.phase_inputs(plain.phases()[0])
    held_out = [outputs(k, "teacher") for k in range(2)]
    found, alone = method.examine(first, held_out), plain.examine(plain.phases()[0], held_out)
    assert found.pop("problems") == [p.replace("method.", "method.fdbd.") for p in alone.pop("problems")]
    assert found == alone


def test_what_a_part_proposes_names_its_place_in_the_whole():
    small = {"stage4": (8, 1, 1)}
    info = pair_info()
    info = dataclasses.replace(info, student_shapes={**info.student_shapes, **small})
    with pytest.raises(MethodError, match=r"--set method\.at\.stages=\[stage2,stage3\]"):
        build("kd+at", info=info)
    with pytest.raises(MethodError, match=r"--set method\.stages=\[stage2,stage3\]"):
        build("at", info=info)
    whole = build("kd+fdbd")
    teacher = [outputs(seed, "teacher") for seed in range(2)]
    check = whole.examine(whole.phases()[0], teacher)  # a fresh denoiser cleans nothing
    assert "method.fdbd.phase1_epochs" in " ".join(check["problems"])


def test_a_method_that_answers_itself_is_no_part():
    """Its classifier learns from the labels, and the labels of a combination train the plain student."""
    with pytest.raises(
        MethodError, match=r"'norm' trains the labels through parts of its own[\s\S]*--method norm alone"
    ):
        build("kd+norm")
    assert not methods.load_class("kd+at").ships_own_parts()


@pytest.mark.parametrize("name", ["ctkd+ps_kd", "function_matching+ps_kd"])
def test_the_past_takes_no_more_from_the_labels_than_they_have(name):
    with pytest.raises(ConfigError, match=r"the term past takes 0\.8 from the true label"):
        build(name)
    method = build("kd+ps_kd", kd={"alpha": 0.5}, ps_kd={"weight": 0.5})
    assert method.weights["past"] * 0.8 <= method.weights["ce"]
    build("at+ps_kd")
    build("kd+ps_kd")
