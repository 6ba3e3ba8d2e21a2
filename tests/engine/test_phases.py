"""Phases: what comes before the students, what stands still, and resuming in either phase."""

import copy

import pytest
import torch
from safetensors import safe_open

from sapling import methods
from sapling.engine.optim import OptimSettings
from sapling.engine.phases import fit_phase, phase_epochs
from sapling.engine.plan import before_students, stretches
from sapling.engine.trainer import Member, fit
from sapling.errors import RunError, TrainingError
from sapling.models.create import create_model
from sapling.models.tapped import TappedModel
from sapling.teachers.live import LiveTeacher
from sapling.types import PairInfo, Phase
from tests.engine.conftest import CLASSES, NUM, PREPROCESS, SIZE

OPTIM = OptimSettings("adamw", 1e-3, 0.0, "cosine", 0, 16)
FROZEN = ("branches.feat.autoencoder.", "branches.feat.denoiser.")


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def tapped_teacher():
    model = create_model("cnn4", num_classes=CLASSES, img_size=SIZE, seed=9)
    return LiveTeacher(TappedModel(model, PREPROCESS, ["stage4"]), device="cpu", bf16=False, channels_last=True)


def make(tapped_teacher, name="fdbd", seed=0, **options):
    model = create_model("cnn3", num_classes=CLASSES, img_size=SIZE, seed=seed)
    student = TappedModel(model, PREPROCESS, methods.taps(name, **options).student)
    info = PairInfo(CLASSES, NUM, student.shapes, tapped_teacher.shapes)
    torch.manual_seed(seed)
    method = methods.build(name, info, **options)
    return Member(name, name, seed, student, method, OptimSettings("sgd", 0.02, 1e-3, "cosine", 2, 16))


def fdbd(tapped_teacher, **options):
    return make(tapped_teacher, ae_channels=8, phase1_epochs=4, **options)


def state(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def first_phase(method, data, settings, teacher, **more):
    return fit_phase(method, before_students(method)[0], data, settings(4, seed=7), OPTIM, teacher=teacher, **more)


def test_the_first_phase_trains_its_parts_and_no_other(data, settings, tapped_teacher):
    member, rows = fdbd(tapped_teacher), []
    student, before = state(member.student), state(member.method)
    first_phase(member.method, data, settings, tapped_teacher, report=rows.append)
    after = state(member.method)
    moved = {k for k in after if not torch.equal(after[k], before[k])}
    assert {k.split(".")[2] for k in moved} == {"autoencoder", "denoiser"}
    assert same(student, state(member.student))
    assert [r["epoch"] for r in rows] == [0, 1, 2, 3]
    assert {r["phase"] for r in rows} == {"denoiser"}
    assert rows[-1]["train"]["ae"] < rows[0]["train"]["ae"]


def test_the_common_phase_leaves_them_alone_and_the_control_knows_nothing(data, settings, tapped_teacher):
    member, control, alone = (make(tapped_teacher, n) for n in ("fdbd", "none", "none"))
    rows = []
    before = state(member.method)
    fit([control, member], data, settings(2), teacher=tapped_teacher, report=lambda r: rows.extend(copy.deepcopy(r)))
    after = state(member.method)
    moved = {k for k in after if not torch.equal(after[k], before[k])}
    assert moved
    assert not [k for k in moved if k.startswith(FROZEN)]
    fit([alone], data, settings(2))
    assert same(state(control.student), state(alone.student))
    assert {tuple(r["train"]) for r in rows if r["member"] == "fdbd"} == {("ce", "diffkd", "loss")}
    assert {r["phase"] for r in rows} == {"train"}


def test_a_first_phase_that_was_killed_goes_on_to_the_same_bits(data, settings, tapped_teacher, tmp_path):
    straight, broken, resumed = (fdbd(tapped_teacher).method for _ in range(3))
    first_phase(straight, data, settings, tapped_teacher)

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        first_phase(broken, data, settings, tapped_teacher, report=stop, checkpoint=path)
    with safe_open(path, "pt") as file:
        assert '"fdbd": "denoiser"' in file.metadata()["phases"]
    data.seen.clear()
    assert first_phase(resumed, data, settings, tapped_teacher, checkpoint=path) > 0
    assert {epoch for epoch, _ in data.seen} == {2, 3}
    assert same(state(straight), state(resumed))


@pytest.mark.parametrize("name", ["fdbd", "diffkd"])
def test_a_common_phase_that_was_killed_goes_on_to_the_same_bits(data, settings, tapped_teacher, tmp_path, name):
    straight, broken, resumed = (make(tapped_teacher, name, ae_channels=8) for _ in range(3))
    fit([straight], data, settings(3), teacher=tapped_teacher)

    def stop(rows):
        if rows[0]["epoch"] == 1:
            raise Stop

    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        fit([broken], data, settings(3), teacher=tapped_teacher, report=stop, checkpoint=path)
    fit([resumed], data, settings(3), teacher=tapped_teacher, checkpoint=path)
    assert same(state(straight.student), state(resumed.student))
    assert same(state(straight.method), state(resumed.method))


def test_alpha_one_skips_the_first_phase_and_is_the_control(data, settings, tapped_teacher):
    member, control = make(tapped_teacher, alpha=1), make(tapped_teacher, "none")
    assert before_students(member.method) == []
    fit([member, control], data, settings(1), teacher=tapped_teacher)
    assert same(state(member.student), state(control.student))


def test_long_phases_of_short_epochs_write_few_checkpoints(data, settings, tapped_teacher, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "sapling.engine.phases.save_checkpoint", lambda *_, epochs_done, **__: written.append(epochs_done)
    )
    method = make(tapped_teacher, ae_channels=8, denoiser=False).method
    phase = before_students(method)[0]
    monkeypatch.setattr("sapling.engine.phases.MOST_CHECKPOINTS", 3)
    fit_phase(
        method, phase, data, settings(10, batch_size=40), OPTIM, teacher=tapped_teacher, checkpoint=tmp_path / "c"
    )
    assert written == [3, 6, 9, 10]


def test_divergence_names_the_phase(data, settings, tapped_teacher):
    method = fdbd(tapped_teacher).method
    with torch.no_grad():
        method.branches["feat"].autoencoder.decoder[0].bias.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"term 'ae'.* became inf in epoch 1, batch 1\n  where: +phase denoiser"):
        first_phase(method, data, settings, tapped_teacher)


def test_lengths():
    assert phase_epochs(Phase(epochs=20, min_steps=2000), 3) == 667
    assert phase_epochs(Phase(epochs=20, min_steps=2000), 500) == 20
    assert phase_epochs(Phase(epochs=3), 5) == 3


class Phased:
    name = "phased"

    def __init__(self, *phases):
        self.phases = lambda: list(phases)


def test_common_epochs_are_shared_out_among_phases():
    first, a, b, c = Phase("first", uses_student=False), Phase("a", 3), Phase("b"), Phase("c")
    found = stretches(Phased(first, a, b, c), 10)
    assert [(s.phase.name, s.first, s.last) for s in found] == [("a", 0, 3), ("b", 3, 6), ("c", 6, 10)]
    assert [(s.first, s.last) for s in stretches(Phased(a), 5)] == [(0, 5)]
    assert [s.step(e, 0.5, ()).progress for s, e in ((found[0], 0), (found[2], 9))] == [1 / 6, 3.5 / 4]
    with pytest.raises(RunError, match=r"need more epochs[\s\S]*--epochs 5"):
        stretches(Phased(a, b, c), 4)
