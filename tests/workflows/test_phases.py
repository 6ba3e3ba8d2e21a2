"""Phases before the students, in a run: made once, kept for others, checked, and resumed."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import sapling
from sapling import methods
from sapling.config import build
from sapling.engine.optim import OptimSettings
from sapling.engine.plan import before_students
from sapling.errors import RunError
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.record import Run
from sapling.screen import Screen
from sapling.teachers.live import LiveTeacher
from sapling.types import PairInfo, Phase
from sapling.workflows import phases
from sapling.workflows.dataset import open_dataset
from sapling.workflows.diagnosis import acceptance_of
from sapling.workflows.passes import Machine
from sapling.workflows.phases import phase_key, phase_results, phase_warnings, prepare_phases
from sapling.workflows.plan import plan
from tests.conftest import SMALL_RUN
from tests.digests import digest

OPTIM = OptimSettings("sgd", 0.05, 5e-4, "cosine", 2, 16)
MACHINE = Machine("cpu", "fp32", 1)
IDENTITY = {"sha256": "0" * 64, "preprocess": "as it is"}
METHOD = {"name": "fdbd", "phase1_epochs": 2, "ae_channels": 8}


@pytest.fixture(scope="module")
def world(photos, tmp_path_factory):
    """Settings, data and a teacher that has learned nothing."""
    config = build({**SMALL_RUN, "data": {"source": str(photos), "img_size": 16}, "method": METHOD, "output": "r"})
    data = open_dataset(config, Screen(quiet=True))
    preprocess = Preprocess(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    model = TappedModel(create_model("cnn4", num_classes=3, img_size=16, seed=9), preprocess, ["stage4"])
    return config, data, LiveTeacher(model, device="cpu", bf16=False, channels_last=True)


@pytest.fixture(autouse=True)
def new_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "cache"))


def make(world, seed=0, **options):
    config, data, teacher = world
    info = PairInfo(3, len(data.split.train), {"stage4": (16, 4, 4)}, teacher.shapes)
    torch.manual_seed(seed)
    return methods.build("fdbd", info, **{**config.method.options, **options})


def prepare(world, folder, method, **changes):
    config, data, teacher = world
    said = []
    with Run(folder, changes.get("config", config), task="distill") as run:
        run.say = said.append
        prepare_phases(
            run,
            method,
            changes.get("data", data),
            MACHINE,
            OPTIM,
            teacher=teacher,
            teacher_identity=changes.get("identity", IDENTITY),
            screen=Screen(quiet=True),
        )
        return phase_results(run), said


def with_seed(config, seed):
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def parts(method):
    return {k: v.clone() for k, v in method.state_dict().items() if "autoencoder" in k or "denoiser" in k}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_phase_is_trained_once_for_all_seeds_and_runs(world, tmp_path, monkeypatch):
    first, second, third = (make(world, seed) for seed in (0, 1, 2))
    assert not same(parts(first), parts(second))
    cards, said = prepare(world, tmp_path / "a", first)
    assert set(cards) == {"denoiser"}
    assert (cards["denoiser"]["epochs"], cards["denoiser"]["from_cache"]) == (2, False)
    monkeypatch.setattr(phases, "fit_phase", lambda *_, **__: pytest.fail("it was trained again"))
    assert prepare(world, tmp_path / "a", second) == (cards, [])
    cards, said = prepare(world, tmp_path / "b", third)
    assert cards["denoiser"]["from_cache"] is True
    assert "taken from the cache" in said[0]
    assert same(parts(first), parts(second))
    assert same(parts(first), parts(third))
    assert not torch.equal(first.branches["feat"].translator.weight, third.branches["feat"].translator.weight)
    assert not [p for p in tmp_path.rglob("*") if "tmp" in p.name or "checkpoint-" in p.name]


def test_the_key_holds_all_that_the_result_depends_on(world, tmp_path):
    config, data, _ = world
    with Run(tmp_path / "r", config, task="distill") as run:

        def key(data=data, identity=IDENTITY, machine=MACHINE, optim=OPTIM, run=run, **options):
            method = make(world, **options)
            task = phases._Task(run, method, before_students(method)[0], data, machine, optim)
            return json.dumps(phase_key(task, identity), sort_keys=True)

        usual = key()
        assert key() == key(alpha=0.5) == key(feat_loss="mse") == key(seed=4) == usual
        changed = [
            key(data=data.seen_as(views="strong")),
            key(data=data.seen_as(mixup=0.2)),
            key(data=replace(data, view_seed=1)),
            key(data=replace(data, img_size=8)),
            key(identity={**IDENTITY, "sha256": "1" * 64}),
            key(identity={**IDENTITY, "preprocess": "another"}),
            key(machine=Machine("cpu", "bf16", 1)),
            key(optim=replace(OPTIM, clip_norm=1.0)),
            key(ae_channels=16),
            key(phase1_epochs=3),
            key(ae_warmup_share=0.0),
            key(denoiser=False),
            key(weights={"diff": 2}),
        ]
        assert len({usual, *changed}) == len(changed) + 1
        object.__setattr__(run, "config", with_seed(config, 5))
        assert key() == usual, "it has a seed of its own"


def test_runs_with_other_seeds_find_the_phase_and_would_make_the_same(world, tmp_path, monkeypatch):
    first, second, third = make(world), make(world, seed=1), make(world, seed=2)
    prepare(world, tmp_path / "a", first)
    other = with_seed(world[0], 5)
    found, _ = prepare(world, tmp_path / "b", second, config=other)
    assert found["denoiser"]["from_cache"] is True
    assert same(parts(first), parts(second))
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "empty"))
    made, _ = prepare(world, tmp_path / "c", third, config=other)
    assert made["denoiser"]["from_cache"] is False
    assert same(parts(first), parts(third))


def test_a_run_whose_phase_was_made_of_its_first_seed_goes_on_with_it(world, tmp_path, monkeypatch):
    first, second = make(world), make(world, seed=1)
    prepare(world, tmp_path / "a", first)
    file = tmp_path / "a" / "phases" / "denoiser" / "card.json"
    card = json.loads(file.read_text())
    file.write_text(json.dumps({**card, "made_of": {**card["made_of"], "seed": 2**31 + 5}}))
    monkeypatch.setattr(phases, "fit_phase", lambda *_, **__: pytest.fail("it was trained again"))
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "empty"))
    prepare(world, tmp_path / "a", second)
    assert same(parts(first), parts(second))


def test_seeds_of_a_run_share_the_phase_whatever_changes_around_them(world, tmp_path, monkeypatch):
    first, second = make(world), make(world, seed=1)
    prepare(world, tmp_path / "a", first)
    monkeypatch.setattr(phases, "numeric_environment", lambda: {"torch": "9.9"})
    monkeypatch.setattr(phases, "fit_phase", lambda *_, **__: pytest.fail("it was trained again"))
    prepare(world, tmp_path / "a", second)
    assert same(parts(first), parts(second))


def test_a_cache_that_is_closed_stops_nothing(world, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("no folder")
    cards, _ = prepare(world, tmp_path / "a", make(world))
    assert cards["denoiser"]["from_cache"] is False
    assert "not kept in the cache" in (tmp_path / "a" / "log.txt").read_text()


@pytest.mark.parametrize("flipped", [False, True])  # a bit of some weight: shapes and names stay as they were
def test_what_is_damaged_is_noticed(world, tmp_path, flipped):
    def damage(file):
        content = file.read_bytes()
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:] if flipped else content[:-50])

    prepare(world, tmp_path / "a", first := make(world))
    (cached,) = (tmp_path / "cache" / "phases").glob("*/model.safetensors")
    damage(cached)
    cards, _ = prepare(world, tmp_path / "b", second := make(world, seed=1))  # trained anew
    assert cards["denoiser"]["from_cache"] is False
    assert same(parts(first), parts(second))
    damage(tmp_path / "b" / "phases" / "denoiser" / "model.safetensors")
    with pytest.raises(RunError, match=r"cannot read model.safetensors: it is not the file[\s\S]*delete that folder"):
        prepare(world, tmp_path / "b", make(world))


def test_a_combination_has_the_phase_of_its_part(world, tmp_path):
    plain = make(world)
    made, _ = prepare(world, tmp_path / "a", plain)
    config, _, _ = world
    torch.manual_seed(5)
    own = {**config.method.options, "weight": 0.5}
    whole = methods.build("kd+fdbd", plain.info, kd={"temperature": 2}, fdbd=own)
    shared, said = prepare(world, tmp_path / "b", whole)
    assert shared["denoiser"]["key"] == made["denoiser"]["key"]
    assert shared["denoiser"]["from_cache"] is True
    assert any("taken from the cache" in line for line in said)
    assert same(parts(whole.parts["fdbd"]), parts(plain))


def test_another_teacher_makes_another_phase(world, tmp_path):
    first, second = make(world), make(world)
    one, _ = prepare(world, tmp_path / "a", first)
    other, _ = prepare(world, tmp_path / "b", second, identity={**IDENTITY, "sha256": "2" * 64})
    assert one["denoiser"]["key"] != other["denoiser"]["key"]
    assert other["denoiser"]["from_cache"] is False


def test_a_denoiser_that_does_not_denoise_is_named(world, tmp_path):
    cards, said = prepare(world, tmp_path / "a", make(world, denoiser=True))
    check = cards["denoiser"]["check"]
    assert check["passed"] is False
    assert set(check["branches"]["feat"]) == {"num_images", "ae_r2", "noise_loss", "cosine_before", "cosine_after"}
    assert check["branches"]["feat"]["num_images"] == len(world[1].split.val)
    assert any("check on validation images FAILED" in line for line in said)
    assert [line for line in said if "does not denoise" in line and "Remedy" in line]
    assert phase_warnings(cards) == check["problems"]
    written = json.loads((tmp_path / "a" / "phases" / "denoiser" / "card.json").read_text())
    assert written["check"] == check
    assert written["made_of"]["teacher"] == IDENTITY
    seen = acceptance_of(SimpleNamespace(path=lambda *parts: (tmp_path / "a").joinpath(*parts)))
    assert seen is not None
    assert seen["passed"] is False
    assert "does not denoise" in seen["detail"]


class Chain(methods.Method):
    """Two phases before the students, the second on top of the first."""

    name = "chain"
    terms = ("ce", "a", "b")

    def __init__(self, config, info):
        super().__init__(config, info)
        self.lower, self.upper = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def phases(self):
        return [
            Phase("lower", 1, ("a",), uses_student=False, parts=("lower",)),
            Phase("upper", 1, ("b",), frozen=("lower",), uses_student=False, parts=("upper",)),
            Phase(terms=("ce",)),
        ]

    def forward(self, student, teacher, batch, step):
        hidden = self.lower(teacher.logits)
        if step.phase == "lower":
            return {"a": (hidden - teacher.logits).square().mean()}
        SEEN.append(self.lower.weight.detach().clone())
        return {"b": (self.upper(hidden) - teacher.logits).square().mean()}


SEEN: list[torch.Tensor] = []


def test_a_phase_builds_on_the_one_before(world, tmp_path):
    method = Chain(methods.MethodConfig(), PairInfo(3, 10))
    cards, _ = prepare(world, tmp_path / "a", method)
    assert list(cards) == ["lower", "upper"]
    assert SEEN
    assert all(torch.equal(w, method.lower.weight) for w in SEEN)
    assert not (tmp_path / "cache").exists()  # it is not one of ours
    again = Chain(methods.MethodConfig(), PairInfo(3, 10))
    prepare(world, tmp_path / "a", again)
    assert same(dict(method.state_dict()), dict(again.state_dict()))


def test_methods_of_one_phase_leave_nothing_behind(world, tmp_path):
    assert prepare(world, tmp_path / "a", make(world, joint=True, phase1_epochs=None)) == ({}, [])
    assert not (tmp_path / "a" / "phases").exists()


def test_a_dry_run_tells_of_the_phase(photos, tmp_path, capsys):
    from sapling.tables import print_plan

    blocks = {**SMALL_RUN, "data": {"source": str(photos), "img_size": 16}, "method": {"name": "fdbd"}}
    found = plan(build({**blocks, "output": str(tmp_path / "r")}))
    assert found["phases"] == [{"name": "denoiser", "epochs": 667, "steps": 2001}]
    print_plan(found)
    assert "2,001 steps on the teacher alone" in capsys.readouterr().out


# ---- whole runs ----


def whole(photos, folder, teacher, method):
    train = {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 2, "threads": 1}
    return sapling.distill(
        data={"source": str(photos), "img_size": 16},
        teacher={"model": str(teacher), "accept_weak": True},
        student="cnn3",
        method=method,
        train=train,
        deploy={"onnx": False, "latency_seconds": 0},
        output=str(folder),
    )


@pytest.fixture(scope="module")
def a_teacher(photos, tmp_path_factory):
    train = {**SMALL_RUN["train"], "epochs": 2, "threads": 1}
    data = {"source": str(photos), "img_size": 16}
    folder = tmp_path_factory.mktemp("teacher") / "t"
    return sapling.train(
        data=data, student="cnn4", train=train, deploy={"onnx": False, "latency_seconds": 0}, output=str(folder)
    ).folder


@pytest.mark.parametrize("method", ["fdbd", "diffkd"])
def test_the_logit_branch_alone_is_a_run(photos, a_teacher, tmp_path, method):
    block = {"name": method, "branches": ["logit"]}
    if method == "fdbd":
        block["phase1_epochs"] = 1
    found = whole(photos, tmp_path / "r", a_teacher, block)
    assert found.results["comparison"]["verdict"]["outcome"]


WHOLE = {"fdbd": METHOD, "diffkd": {"name": "diffkd", "ae_channels": 8}, "kd+fdbd": ["kd", {**METHOD, "weight": 0.5}]}


@pytest.fixture(scope="module")
def control(photos, a_teacher, tmp_path_factory):
    plain = whole(photos, tmp_path_factory.mktemp("plain") / "r", a_teacher, "kd")
    return digest(plain.folder / "members/control-s0/model.safetensors")


# fdbd writes 2 checkpoints in its first phase and 2 in the pass, diffkd 2 in the pass
@pytest.mark.parametrize(("name", "kills"), [("fdbd", (1, 3)), ("diffkd", (1,)), ("kd+fdbd", (1, 3))])
def test_a_run_that_was_killed_in_any_phase_ends_with_the_same_bits(
    photos, a_teacher, control, tmp_path, monkeypatch, name, kills
):
    method = WHOLE[name]
    straight = whole(photos, tmp_path / "straight", a_teacher, method)
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "other"))
    for kill in kills:
        with monkeypatch.context() as patch:
            count = [0]
            for module in ("phases", "trainer"):
                patch.setattr(f"sapling.engine.{module}.save_checkpoint", dying(count, kill if kill == kills[0] else 2))
            with pytest.raises(KeyboardInterrupt):
                whole(photos, tmp_path / "broken", a_teacher, method)
    broken = whole(photos, tmp_path / "broken", a_teacher, method)
    files = ["members/control-s0", f"members/{name}-s0", *(["phases/denoiser"] if "fdbd" in name else [])]
    for file in files:
        ours, theirs = (r.folder / file / "model.safetensors" for r in (straight, broken))
        assert digest(ours) == digest(theirs), file
    assert digest(straight.folder / "members/control-s0/model.safetensors") == control, "the method does not touch it"
    assert rows(straight) == rows(broken)
    if name == "kd+fdbd":
        taught = [row for row in rows(broken) if row["member"] == "kd+fdbd-s0"]
        assert all(set(row["train"]) == {"ce", "kd", "diffkd", "loss"} for row in taught)
        measured = [row["gradients"] for row in taught if "gradients" in row]
        assert measured
        assert all({"ce", "kd", "diffkd", "total"} <= set(norms) for norms in measured)
        weights = {"ce": 1.0, "kd": 1.0, "diffkd": 0.5, "diff": 1.0, "ae": 1.0}
        assert broken.results["manifest"]["weights"] == weights
        assert broken.results["manifest"]["method"] == "kd+fdbd"
        assert "kd+fdbd" in (broken.folder / "report.html").read_text()
    if "fdbd" in name:
        assert set(broken.results["phases"]) == {"denoiser"}
        assert broken.results["cost"]["phase_seconds"] > 0
        assert any("does not denoise" in w for w in broken.results["warnings"])
        page = (broken.folder / "report.html").read_text()
        assert "does not denoise held-out images" in page
        assert not (broken.folder / "checkpoints").exists()


def dying(count, when):
    from sapling.engine.checkpoint import save_checkpoint

    def save(*args, **kwargs):
        save_checkpoint(*args, **kwargs)
        count[0] += 1
        if count[0] == when:
            raise KeyboardInterrupt

    return save


def rows(result):
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in lines]


def test_a_phase_on_mixed_answers_is_not_that_on_answers_to_mixed_images(world, tmp_path):
    plain = prepare(world, tmp_path / "a", make(world))[0]["denoiser"]["key"]
    with Run(tmp_path / "b", world[0], task="distill") as run:
        (run.folder / "answers.json").write_text(json.dumps({"kept": True, "changed": ""}))
    assert prepare(world, tmp_path / "b", make(world))[0]["denoiser"]["key"] == plain
    with Run(tmp_path / "c", world[0], task="distill") as run:
        (run.folder / "answers.json").write_text(json.dumps({"kept": True, "changed": "the mix of two answers"}))
    assert prepare(world, tmp_path / "c", make(world))[0]["denoiser"]["key"] != plain
