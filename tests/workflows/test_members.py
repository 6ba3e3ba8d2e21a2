"""Bounded memory: which members share a pass, and that nobody can tell from the result."""

import json
import shutil
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import sapling
from sapling.engine import trainer
from sapling.engine.optim import OptimSettings
from sapling.errors import RunError
from sapling.workflows import members
from sapling.workflows.members import Footprint, footprint, most_members
from tests.conftest import SMALL_RUN
from tests.digests import digest

pytestmark = pytest.mark.usefixtures("no_page")

WEIGHTS = ("members/control-s0", "members/dist-s0", "student")


def run(photos, output, **train):
    small = {
        **SMALL_RUN,
        "deploy": {"onnx": False, "latency_seconds": 0},
        "teacher": {"model": "cnn4", "epochs": 1, "accept_weak": True},
    }
    small["train"] = {**SMALL_RUN["train"], "num_seeds": 1, "threads": 1, "epochs": 2, **train}
    return sapling.distill(data={"source": str(photos), "img_size": 16}, output=str(output), **small)


def digests(folder):
    return [digest(folder / name / "model.safetensors") for name in WEIGHTS]


def passes(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["pass"], row["member"], row["epoch"]) for row in rows if row["member"] != "teacher"]


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    return run(photos, tmp_path_factory.mktemp("whole") / "r")


def test_both_share_a_pass_where_memory_allows(whole):
    record = json.loads((whole.folder / "passes.json").read_text())
    assert record["members_per_pass"] == 2
    assert 0 < record["held_bytes"] < 50e6
    assert {name for name, _, _ in passes(whole.folder)} == {"seed0"}


def test_members_of_an_earlier_part_are_gone_before_the_next_are_built(tmp_path, monkeypatch):
    class Thing:
        pass

    built, seen = [], []

    def make():
        seen.append([ref() is not None for ref in built])
        thing = Thing()
        built.append(weakref.ref(thing))
        return thing

    monkeypatch.setattr(members, "members_per_pass", lambda *_: 1)
    monkeypatch.setattr(members, "member_record", lambda *_: None)
    monkeypatch.setattr(members, "check_method", lambda *_: None)
    planned = [members.Planned(name, make) for name in "abc"]
    members.train_in_parts(None, planned, None, SimpleNamespace(device="cpu"), name="seed0", train=lambda *_: None)
    assert seen == [[], [False], [False, False]]


def test_one_at_a_time_gives_the_same_bits(photos, whole, tmp_path):
    cut = run(photos, tmp_path / "r", members_per_pass=1)
    assert digests(cut.folder) == digests(whole.folder)
    wanted = [("seed0", "control-s0", e) for e in (0, 1)] + [("seed0-part2", "dist-s0", e) for e in (0, 1)]
    assert passes(cut.folder) == wanted
    assert cut.results["comparison"] == whole.results["comparison"]
    log = (cut.folder / "log.txt").read_text()
    assert "training control-s0, 2 epochs" in log
    assert "training dist-s0, 2 epochs" in log
    # the teacher answers in the second part only, the data are paid twice
    assert cut.results["cost"]["teacher_forward_seconds"] > 0


def test_a_resumed_run_is_cut_as_before(photos, whole, tmp_path, monkeypatch, capsys):
    step, count = trainer._train_step, [0]

    def dies(*args):
        count[0] += 1
        # 63 images, batch 16: the teacher's epoch has 3 steps, each part 2 x 3
        if count[0] == 3 + 6 + 5:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(members, "free_memory", lambda device: 1000)
    monkeypatch.setattr(trainer, "_train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "r")
    assert "members: 1 of 2 at a time" in (tmp_path / "r" / "log.txt").read_text()
    checkpoints = [p.name for p in (tmp_path / "r" / "checkpoints").iterdir()]
    assert checkpoints == ["seed0-part2.safetensors"]
    monkeypatch.setattr(trainer, "_train_step", step)
    monkeypatch.setattr(members, "free_memory", lambda device: 10**15)
    again = run(photos, tmp_path / "r")
    assert digests(again.folder) == digests(whole.folder)
    assert {name for name, _, _ in passes(again.folder)} == {"seed0", "seed0-part2"}
    assert len(passes(again.folder)) == 4
    assert "seed0-part2: going on after its last checkpoint" in (again.folder / "log.txt").read_text()


def test_a_run_that_began_without_a_record_goes_on_as_it_was(photos, whole, tmp_path, monkeypatch):
    done = run(photos, tmp_path / "r")
    for name in ("results.json", "passes.json"):
        (done.folder / name).unlink()
    (done.folder / "members" / "dist-s0" / "member.json").unlink()
    monkeypatch.setattr(members, "free_memory", lambda device: 1)
    again = run(photos, tmp_path / "r")
    assert digests(again.folder) == digests(whole.folder)
    assert json.loads((again.folder / "passes.json").read_text())["members_per_pass"] == 2


def test_another_number_lets_a_run_go_on_that_died_of_memory(photos, whole, tmp_path, monkeypatch):
    step, count = trainer._train_step, [0]

    def dies(*args):
        count[0] += 1
        if count[0] > 3 + after:
            raise MemoryError
        return step(*args)

    for after, expected in ((2, {"seed0", "seed0-part2"}), (8, {"seed0"})):  # before and after the first checkpoint
        count[0], folder = 0, tmp_path / str(after)
        monkeypatch.setattr(trainer, "_train_step", dies)
        with pytest.raises(MemoryError):
            run(photos, folder)
        assert json.loads((folder / "passes.json").read_text())["members_per_pass"] == 2
        monkeypatch.setattr(trainer, "_train_step", step)
        again = run(photos, folder, members_per_pass=1)
        assert digests(again.folder) == digests(whole.folder)
        assert {name for name, _, _ in passes(again.folder)} == expected


@pytest.fixture(scope="module")
def two_seeds(photos, tmp_path_factory):
    return run(photos, tmp_path_factory.mktemp("two") / "r", num_seeds=2)


@pytest.fixture
def half_done(two_seeds, tmp_path):
    """A run of two seeds whose second is still to be trained."""
    folder = tmp_path / "r"
    shutil.copytree(two_seeds.folder, folder)
    (folder / "results.json").unlink()
    for name in ("control-s1", "dist-s1"):
        shutil.rmtree(folder / "members" / name)
    return folder


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("method.json", {"weights": {"ce": 0.25, "inter": 2.0}}, r"weights.ce was 0.25, is 1.0"),
        ("method.json", {"config": {"temperature": 9}}, r"config.temperature was 9, is"),
        ("method.json", {"config": {"gone": 1}}, r"config.gone was 1, is None"),
        ("members/dist-s0/member.json", {"weights": {"ce": 0.25}}, r"weights.ce was 0.25, is 1.0"),
    ],
    ids=["weight", "setting", "gone", "member"],
)
def test_a_run_does_not_go_on_with_another_method(photos, two_seeds, half_done, file, content, message):
    """A version whose method has other weights or settings must not go on with a run of an older one."""
    place = half_done / file
    kept = place.read_text()
    place.write_text(json.dumps({**json.loads(kept), **content}))
    if file != "method.json":
        (half_done / "method.json").unlink()  # as a run had none before there was such a file
    with pytest.raises(RunError, match=message + r"[\s\S]*another --output"):
        run(photos, half_done, num_seeds=2)
    assert not (half_done / "members" / "dist-s1").exists()
    place.write_text(kept)
    again = run(photos, half_done, num_seeds=2)
    assert again.results["comparison"] == two_seeds.results["comparison"]


def test_the_method_is_kept_before_a_student_is_trained(photos, tmp_path, monkeypatch):
    """A run that dies in its first epoch has it, and a setting that is new is let pass."""
    step = trainer._train_step

    def dies(member, *rest):
        if member.arm == "dist":
            raise KeyboardInterrupt
        return step(member, *rest)

    monkeypatch.setattr(trainer, "_train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "r")
    place = tmp_path / "r" / "method.json"
    kept = json.loads(place.read_text())
    assert kept["weights"] == {"ce": 1.0, "inter": 2.0, "intra": 2.0}
    del kept["config"]["temperature"]
    place.write_text(json.dumps(kept))
    monkeypatch.setattr(trainer, "_train_step", step)
    run(photos, tmp_path / "r")


@pytest.mark.parametrize(
    ("free", "expected"),
    # a step needs 50; 80 % of the free memory count
    [(None, 3), (0, 1), (100, 1), (199, 1), (313, 2), (437, 2), (438, 3), (10**9, 3)],
)
def test_as_many_as_fit(free, expected):
    needs = [Footprint(100, 50), Footprint(90, 20), Footprint(10, 50)]
    assert most_members(needs, free) == expected


@pytest.mark.parametrize(("optimizer", "ema", "copies"), [("sgd", None, 3), ("adamw", None, 4), ("adamw", 0.9, 5)])
def test_footprint_by_hand(optimizer, ema, copies):
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Linear(5, 2, bias=False)

        def forward(self, images):
            return self.fc(self.conv(images).mean((2, 3)))

    class Given:
        student, method = Student(), nn.Module()
        optim, ema_decay = OptimSettings(optimizer, 0.1, 0.0, "constant", 0, 1), ema

    Given.student.train()
    need = footprint(Given, num_channels=3, img_size=4, batch_size=8)
    weights = 3 * 5 * 9 + 5 * 2
    # weights, gradients, one or two states of the optimiser, the average
    assert need.held == 4 * copies * weights
    assert need.working == 4 * 2 * 8 * (5 * 4 * 4 + 2)
    assert Given.student.training
    assert not Given.student.conv._forward_hooks
    assert torch.is_grad_enabled()
