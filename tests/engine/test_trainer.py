"""Members of one pass, exact resume, and stopping at what is not finite."""

from dataclasses import replace

import pytest
import torch

from sapling.engine import checkpoint
from sapling.engine.checkpoint import numeric_environment
from sapling.engine.trainer import fit
from sapling.errors import MethodError, RunError, TrainingError
from tests.engine.conftest import NUM


def bits(member):
    return {k: v.clone() for k, v in member.student.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_training_learns(data, make_member, settings):
    member, losses = make_member("m", lr=0.1, steps=40), []
    fit([member], data, settings(10), report=lambda rows: losses.append(rows[0]["train"]["ce"]))
    assert losses[-1] < 0.6 * losses[0]


def test_alpha_one_is_the_control_to_the_bit(data, make_member, teacher, settings):
    control, distilled, other = make_member("control"), make_member("a1", "kd", alpha=1), make_member("kd", "kd")
    fit([control, distilled, other], data, settings(), teacher=teacher)
    assert same(bits(control), bits(distilled))
    assert not same(bits(control), bits(other))


def test_a_member_does_not_depend_on_its_neighbours(data, make_member, teacher, settings):
    together = [make_member("control"), make_member("kd", "kd")]
    fit(together, data, settings(), teacher=teacher)
    alone = make_member("kd", "kd")
    fit([alone], data, settings(), teacher=teacher)
    assert same(bits(alone), bits(together[1]))


def test_initial_weights_and_dropout_are_shared_by_a_seed(data, make_member, teacher, settings):
    a, b, c = make_member("a"), make_member("b", "kd"), make_member("c", seed=1)
    assert same(bits(a), bits(b))
    assert not same(bits(a), bits(c))
    draws = {}

    def watch(name):
        def hook(module, inputs, output):
            draws.setdefault(name, []).append(torch.rand(1).item())

        return hook

    a.student.register_forward_hook(watch("a"))
    b.student.register_forward_hook(watch("b"))
    fit([a, b], data, settings(1), teacher=teacher)
    assert draws["a"] == draws["b"]
    assert len(set(draws["a"])) == len(draws["a"])


def test_the_teacher_answers_once_per_batch_and_stands_still(data, make_member, teacher, settings):
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    calls = []
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    fit(
        [make_member("control"), make_member("kd", "kd"), make_member("dist", "dist")],
        data,
        settings(2),
        teacher=teacher,
    )
    assert len(calls) == 2 * data.num_batches(10)
    assert same(before, teacher.model.state_dict())  # batch-norm statistics too
    assert all(p.grad is None for p in teacher.model.parameters())


def test_no_teacher_is_asked_when_nobody_learns_from_it(data, make_member, teacher, settings):
    calls = []
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    fit([make_member("control"), make_member("a1", "kd", alpha=1)], data, settings(1), teacher=teacher)
    assert not calls


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_is_bit_identical(data, make_member, teacher, settings, tmp_path, optimizer):
    def members():
        return [make_member("control", optimizer=optimizer), make_member("kd", "kd", optimizer=optimizer)]

    straight, broken, resumed = members(), members(), members()
    fit(straight, data, settings(), teacher=teacher)

    class Stop(Exception):
        pass

    def stop(rows):
        if rows[0]["epoch"] == 2:
            raise Stop

    path = tmp_path / "seed0.safetensors"
    with pytest.raises(Stop):
        fit(broken, data, settings(), teacher=teacher, report=stop, checkpoint=path)
    data.seen.clear()
    clock = fit(resumed, data, settings(), teacher=teacher, checkpoint=path)
    assert {epoch for epoch, _ in data.seen} == {2, 3}  # epochs 0 and 1 were not repeated
    for a, b in zip(straight, resumed, strict=True):
        assert same(bits(a), bits(b))
    assert clock["control"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["seed0.safetensors"]


def test_a_finished_checkpoint_trains_nothing(data, make_member, settings, tmp_path):
    first, second = make_member("m"), make_member("m")
    fit([first], data, settings(2), checkpoint=tmp_path / "c.safetensors")
    data.seen.clear()
    fit([second], data, settings(2), checkpoint=tmp_path / "c.safetensors")
    assert not data.seen
    assert same(bits(first), bits(second))


def test_a_foreign_checkpoint_is_refused(data, make_member, settings, tmp_path):
    path = tmp_path / "c.safetensors"
    fit([make_member("m")], data, settings(1), checkpoint=path)
    with pytest.raises(RunError, match="does not fit member 'other'"):
        fit([make_member("other")], data, settings(2), checkpoint=path)
    with pytest.raises(RunError, match="does not fit member 'm'"):
        fit([make_member("m", architecture="cnn4")], data, settings(2), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be read"):
        fit([make_member("m")], data, settings(2), checkpoint=path)


def test_resume_with_other_versions_is_refused(data, make_member, settings, tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    fit([make_member("m")], data, settings(1), checkpoint=path)
    monkeypatch.setattr(checkpoint, "numeric_environment", lambda: {**numeric_environment(), "torch": "9.9"})
    with pytest.raises(RunError, match=r"torch was .*, is 9\.9"):
        fit([make_member("m")], data, settings(2), checkpoint=path)


def test_resume_restores_the_threads(data, make_member, settings, tmp_path):
    path, before = tmp_path / "c.safetensors", torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        fit([make_member("m")], data, settings(1), checkpoint=path)
        torch.set_num_threads(2)
        fit([make_member("m")], data, settings(2), checkpoint=path)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_nan_stops_with_term_epoch_and_remedy(data, make_member, teacher, settings, tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(TrainingError, match=r"^training diverged: .*'ce' of member 'm' became nan in epoch 2, batch 2"):
        images = data.images

        def report(rows):
            if rows[0]["epoch"] == 0:
                data.images = images.clone()
                data.images[data_order(1)[10]] = float("nan")

        fit([make_member("m")], data, settings(), report=report, checkpoint=path)
    assert path.exists()  # what was good is kept


def test_divergence_stops_before_a_checkpoint_keeps_it(data, make_member, settings, tmp_path):
    member, path = make_member("m"), tmp_path / "c.safetensors"

    variance = next(v for k, v in member.student.model.state_dict().items() if "running_var" in k)
    member.optimizer.step = lambda: variance.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"^training diverged: .*running_var of member 'm' .* after epoch 1"):
        fit([member], data, settings(), checkpoint=path)
    assert not path.exists()


@pytest.mark.parametrize(
    "batch_size", [10, NUM]
)  # seen in a term of the second batch, or in weights after the only one
@pytest.mark.parametrize(("weight", "advised"), [(500.0, True), (0.9, False)])
def test_a_weight_far_above_its_usual_one_is_named_before_the_learning_rate(
    data, make_member, teacher, settings, weight, advised, batch_size
):
    member = make_member("m", "kd", weights={"ce": 0.1, "kd": weight}, lr=1e25)
    member.optim = replace(member.optim, clip_norm=None)
    if batch_size == NUM:
        member.optimizer.step = lambda: next(member.student.parameters()).data.fill_(float("inf"))
    with pytest.raises(TrainingError) as caught:
        fit([member], data, settings(batch_size=batch_size), teacher=teacher)
    remedy = caught.value.remedy
    assert ("lower the weight of 'kd': it is 500, by itself 1 (--set method.weights.kd=1)" in remedy) == advised
    assert "--lr" in remedy


def test_clipping_leaves_the_student_alone_when_the_method_has_large_gradients(data, make_member, settings):
    from torch import nn

    from sapling.engine.optim import OptimSettings

    def trained(extra):
        member = make_member("m")
        if extra:
            member.method.part = nn.Linear(1, 1)
            member.method.part.weight.register_hook(lambda g: g * 1e6)
        object.__setattr__(member, "optim", OptimSettings("sgd", 0.02, 1e-3, "cosine", 2, 16, clip_norm=0.01))
        forward = member.method.forward

        def with_part(*args):
            terms = forward(*args)
            if extra:
                terms["ce"] = terms["ce"] + member.method.part.weight.sum() - member.method.part.weight.sum().detach()
            return terms

        member.method.forward = with_part
        fit([member], data, settings(1))
        return bits(member)

    assert same(trained(False), trained(True))


def data_order(epoch):
    import numpy as np

    return np.random.default_rng([0, epoch]).permutation(40)


def test_a_pass_holds_one_seed(data, make_member, settings):
    with pytest.raises(RunError, match="one seed"):
        fit([make_member("a"), make_member("b", seed=1)], data, settings())
    with pytest.raises(RunError, match="different names"):
        fit([make_member("a"), make_member("a")], data, settings())


def test_losses_are_float32_under_bf16(data, make_member, teacher, settings):
    kinds = []
    member = make_member("kd", "kd")
    forward = member.method.forward

    def spy(student, target, batch, step):
        assert not torch.is_autocast_enabled("cpu")
        terms = forward(student, target, batch, step)
        kinds.extend([student.logits.dtype, target.logits.dtype, *(t.dtype for t in terms.values())])
        return terms

    member.method.forward = spy
    fit([member], data, settings(1, bf16=True), teacher=teacher)
    assert set(kinds) == {torch.float32}


def test_an_error_in_a_method_of_ones_own_names_its_line(data, make_member, teacher, settings, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "from sapling.methods import Method\n\n\nclass Wrong(Method):\n    terms = ('ce', 'x')\n\n"
        "    def forward(self, student, teacher, batch, step):\n        return {'ce': student.nothing}\n"
    )
    with pytest.raises(MethodError, match=r"wrong\.py failed in forward: AttributeError[\s\S]*wrong\.py, line 8"):
        fit([make_member("a", str(path))], data, settings(), teacher=teacher)
