"""What every method keeps, built in or not: this suite runs over all that are discovered, and over the
test's toys.

It never looks at a formula; that is what golden values and naive references are for.
"""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from sapling import methods
from sapling.methods.describe import HEADINGS, check_class, describe
from sapling.methods.registry import built_in
from sapling.types import Outputs, Phase, Step, Taps
from tests.methods.toys import TOYS, B, K, batch, outputs, pair_info, write_toy

EVERY = [*methods.names(), *(f"toy:{name}" for name in TOYS)]


@pytest.fixture(params=EVERY)
def name(request, tmp_path_factory):
    kind, _, toy = request.param.partition(":")
    return write_toy(toy, tmp_path_factory.mktemp("toys")) if toy else kind


@pytest.fixture
def method(name):
    return make(name)


def make(name, seed=0, **config):
    torch.manual_seed(seed)
    return methods.build(name, pair_info(), **config)


def ready(method, phase):
    """The method at the start of a phase, and the step and outputs for it."""
    method.train()
    method.begin_phase(phase)
    step = Step(phase.name, 1, 0.5, method.active_terms(phase))
    return step, outputs(1, "student") if phase.uses_student else None, outputs(2, "teacher")


def tensors(given: Outputs | None):
    return [] if given is None else [given.logits, *given.features.values()]


def with_grad(given: Outputs) -> Outputs:
    features = {k: v.clone().requires_grad_() for k, v in given.features.items()}
    return Outputs(given.logits.clone().requires_grad_(), features)


def total(method, terms):
    return sum(method.weights[k] * v for k, v in terms.items())


def test_describes_itself(method):
    said = describe(type(method))
    assert check_class(type(method)) == []
    assert set(map(str.lower, HEADINGS)) <= set(said)
    assert said["year"] is None or 1990 <= said["year"] <= 2100
    assert said["year"] is not None or said["paper"].startswith("none")
    assert json.loads(json.dumps(said)) == said
    assert set(said["default_weights"]) == set(said["terms"]) == set(method.weights)


def test_default_settings_pass_their_own_check(name):
    method = make(name)
    settings = method.config.model_dump()
    assert methods.check_config(name, settings) == []
    assert make(name, **settings).config == method.config


def test_terms_are_those_declared_finite_scalars(method):
    seen = set()
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        terms = method(student, teacher, batch(), step)
        assert set(terms) == set(step.terms)
        seen |= set(terms)
        for term in terms.values():
            assert term.shape == ()
            assert term.dtype == torch.float32
            assert torch.isfinite(term)
    assert seen == {t for t, w in method.weights.items() if w > 0}


def test_a_term_that_is_not_wanted_is_not_given(method):
    for phase in method.phases():
        for wanted in method.active_terms(phase):
            step, student, teacher = ready(method, phase)
            terms = method(student, teacher, batch(), dataclasses.replace(step, terms=(wanted,)))
            assert set(terms) == {wanted}


def test_label_term_alone_needs_no_teacher(method):
    if "ce" not in method.terms:
        pytest.skip("has no label term")
    terms = method(outputs(1, "student"), None, batch(), Step(progress=0.5, terms=("ce",)))
    expected = torch.nn.functional.cross_entropy(outputs(1, "student").logits, batch().labels)
    assert torch.equal(terms["ce"], expected)


def test_alpha_one_is_bit_identical_to_the_control(name):
    method, control = make(name, alpha=1), make("none")
    assert {t: w for t, w in method.weights.items() if w} == {"ce": 1.0}
    phase = method.phases()[-1]
    step, student, teacher = ready(method, phase)
    student = with_grad(student)
    reference = with_grad(outputs(1, "student"))
    total(method, method(student, teacher, batch(), step)).backward()
    total(control, control(reference, None, batch(), Step(terms=("ce",)))).backward()
    assert torch.equal(student.logits.grad, reference.logits.grad)
    assert all(f.grad is None for f in student.features.values())


def test_no_gradient_reaches_the_teacher(method):
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        teacher = with_grad(teacher)
        student = with_grad(student) if student else None
        total(method, method(student, teacher, batch(), step)).backward()
        assert all(t.grad is None for t in tensors(teacher))


def test_it_says_whether_it_asks_for_the_teachers_logits(method):
    if not method.requires.teacher:
        return
    step, student, teacher = ready(method, method.phases()[-1])
    method.eval()  # batch statistics would move between the two calls
    found = []
    for logits in (9 * teacher.logits, -9 * teacher.logits.flip(1)):  # sure ones: doubtful answers may not count
        torch.manual_seed(0)
        terms = method(student, dataclasses.replace(teacher, logits=logits), batch(), step)
        found.append(float(total(method, terms).detach()))
    assert (found[0] != found[1]) == type(method).asks_logits(method.config)


def test_every_term_of_the_student_gives_it_a_gradient(method):
    for phase in method.phases():
        if not phase.uses_student:
            continue
        for wanted in method.active_terms(phase):
            step, student, teacher = ready(method, phase)
            if method.requires.indices:  # at first there is nothing to remember
                method(student, teacher, batch(), step)
            student = with_grad(student)
            method(student, teacher, batch(), dataclasses.replace(step, terms=(wanted,)))[wanted].backward()
            gradients = [t.grad for t in tensors(student) if t.grad is not None]
            assert any(g.abs().sum() > 0 for g in gradients) == (wanted not in method.own_terms), wanted
            assert all(torch.isfinite(g).all() for g in gradients), wanted


def test_own_parameters_get_a_gradient_in_some_phase(method):
    reached = set()
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        method.zero_grad()
        if learns(method):
            total(method, method(student, teacher, batch(), step)).backward()
        reached |= {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {n for n, _ in method.named_parameters()}


def learns(method):
    return any(p.requires_grad for p in method.parameters())


def test_frozen_parts_stand_still(method):
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        before = copy.deepcopy(method.state_dict())
        if not learns(method):
            continue
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(2):
            method.train()  # as the engine does at each epoch
            optimizer.zero_grad()
            total(method, method(student, teacher, batch(), step)).backward()
            optimizer.step()
        for key, value in method.state_dict().items():
            if any(key.startswith(f"{part}.") for part in phase.frozen):
                assert torch.equal(value, before[key]), key


def test_same_seed_same_numbers(name):
    def run():
        method = make(name, seed=7)
        found = []
        for phase in method.phases():
            step, student, teacher = ready(method, phase)
            torch.manual_seed(11)
            found += [method(student, teacher, batch(), step) for _ in range(2)]
        return found

    for first, second in zip(run(), run(), strict=True):
        assert {k: float(v.detach()) for k, v in first.items()} == {k: float(v.detach()) for k, v in second.items()}


def test_state_comes_back(name):
    """A method saved in the middle of training goes on as if nothing had happened."""
    method, other = make(name, seed=1), make(name, seed=2)
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        method(student, teacher, batch(), step)
        other.load_state_dict(method.state_dict())
        other.train()
        other.begin_phase(phase)
        torch.manual_seed(4)
        first = method(student, teacher, batch(), step)
        torch.manual_seed(4)
        second = other(student, teacher, batch(), step)
        for term in step.terms:
            assert torch.equal(first[term], second[term])


def test_a_cached_teacher_says_the_same(method):
    """A cache holds float16: terms may move by 0.2 %, and must not if the cache is exact."""
    if method.requires.live_teacher:
        pytest.skip("needs a live teacher")
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        rounded = Outputs(teacher.logits.half().float(), {k: v.half().float() for k, v in teacher.features.items()})
        kept, start = copy.deepcopy(method.state_dict()), 9
        results = []
        for source in (teacher, Outputs(teacher.logits.clone(), dict(teacher.features)), rounded):
            method.load_state_dict(kept)
            torch.manual_seed(start)
            results.append(method(student, source, batch(), step))
        for term in step.terms:
            assert torch.equal(results[0][term], results[1][term])
            torch.testing.assert_close(results[2][term], results[0][term], rtol=2e-3, atol=1e-5)


# what the student said is a constant in these, so the derivative of the value is not the gradient that is meant
HOLD_STUDENT_STILL = {
    "attention_guided": "tests/methods/test_attention_guided.py::test_gradients_are_right",
    "byot": "tests/methods/test_byot.py::test_gradients_are_right",
}


def test_gradients_are_right(name):
    if name in HOLD_STUDENT_STILL:
        pytest.skip(f"see {HOLD_STUDENT_STILL[name]}")
    method = make(name).double()
    for phase in method.phases():
        if not phase.uses_student:
            continue
        step, _, _ = ready(method, phase)
        size = max(4, method.requires.min_batch)
        student, teacher = outputs(1, "student", size, torch.float64), outputs(2, "teacher", size, torch.float64)
        used = list(type(method).taps(method.config).student)
        inputs = [student.logits, *(student.features[t] for t in used)]

        def value(logits, *features, method=method, step=step, student=student, teacher=teacher, used=used, size=size):
            twin = copy.deepcopy(method)  # batch norm and memories move with every call
            torch.manual_seed(0)
            given = Outputs(logits, {**student.features, **dict(zip(used, features, strict=True))})
            return total(twin, twin(given, teacher, batch(batch_size=size), step))

        inputs = tuple(t.clone().requires_grad_() for t in inputs)
        assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


def test_requirements_are_true(method):
    needs = method.requires
    assert needs.views in (1, 2)
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        kept = copy.deepcopy(method.state_dict())

        def run(data, source=teacher, step=step, student=student, kept=kept):
            method.load_state_dict(kept)
            torch.manual_seed(1)
            return method(student, source, data, step)

        usual = run(batch())
        if not needs.indices:
            other = run(dataclasses.replace(batch(), indices=batch().indices.flip(0)))
            assert all(torch.equal(usual[t], other[t]) for t in usual)
        if not needs.teacher:
            assert set(run(batch(), None)) == set(usual)
        if not needs.labels and phase.uses_student and set(step.terms) != {"ce"}:
            rest = tuple(t for t in step.terms if t != "ce")
            # as targets, as mixed images have them: a term may learn the labels as ``ce`` does
            targets = torch.nn.functional.one_hot(batch().labels, student.logits.shape[1]).to(student.logits)
            soft = dataclasses.replace(batch(), labels=None, targets=targets)
            bare = run(soft, step=dataclasses.replace(step, terms=rest))
            for term in rest:
                torch.testing.assert_close(bare[term], usual[term])


def test_smallest_batch_is_enough(method):
    size = method.requires.min_batch
    for phase in method.phases():
        step, student, _ = ready(method, phase)
        if any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.training for m in method.modules()):
            size = max(size, 2)
        student = outputs(1, "student", size) if student else None
        terms = method(student, outputs(2, "teacher", size), batch(batch_size=size), step)
        assert all(torch.isfinite(t) for t in terms.values())


def test_phases_are_sound(method):
    phases = method.phases()
    assert phases
    assert len({p.name for p in phases}) == len(phases)
    assert phases[-1].uses_student
    assert [p.uses_student for p in phases] == sorted(p.uses_student for p in phases)
    for phase in phases:
        assert isinstance(phase, Phase)
        method.begin_phase(phase)
        assert method.active_terms(phase)


def test_taps_and_deployable(method):
    taps = type(method).taps(method.config)
    assert isinstance(taps, Taps)
    student = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, K))
    student.get_classifier = lambda: student[-1]
    body = copy.deepcopy(student[0].state_dict())
    shipped = method.deployable(student)
    assert isinstance(shipped, torch.nn.Module)
    assert type(method).ships_own_parts() or all(torch.equal(v, student[0].state_dict()[k]) for k, v in body.items())
    assert {k: v.shape for k, v in method.deployable(student).state_dict().items()} == {
        k: v.shape for k, v in shipped.state_dict().items()
    }


def test_holds_no_network(method):
    """Own parts come from shapes; a method that held a student would not be a function of outputs."""
    assert sum(p.numel() for p in method.parameters()) < 1_000_000


def test_inputs_are_left_alone(method):
    for phase in method.phases():
        step, student, teacher = ready(method, phase)
        kept = [t.clone() for t in tensors(student) + tensors(teacher)]
        given = batch()
        method(student, teacher, given, step)
        assert all(torch.equal(a, b) for a, b in zip(kept, tensors(student) + tensors(teacher), strict=True))
        assert torch.equal(given.labels, batch().labels)


def test_all_built_in_methods_are_seen():
    assert {"none", "kd", "dkd", "dist"} <= set(built_in()) <= set(methods.names())
    assert max(methods.load_class(n).requires.min_batch for n in built_in()) <= B
