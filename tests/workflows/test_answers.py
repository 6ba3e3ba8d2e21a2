"""Whether the teacher's answers are kept: decided, said, recorded, and the same to students as asking it each time."""

import dataclasses
import json
from collections import namedtuple

import numpy as np
import pytest
from safetensors.numpy import load_file

import sapling
from sapling.config import build
from sapling.data.answers import mark_of, part_name
from sapling.data.loader import load_data
from sapling.data.partwriter import CannotHoldError
from sapling.data.storefile import write_sealed
from sapling.errors import RunError, UsageError
from sapling.methods import registry
from sapling.models.build import Origin, set_origin
from sapling.models.load import load_model
from sapling.teachers.ensemble import symmetries_of
from sapling.teachers.live import LiveTeacher
from sapling.workflows import answers, comparable, passes
from sapling.workflows.answers import decide, fingerprint, settle_views
from sapling.workflows.passes import Machine
from sapling.workflows.teacher import CheckedTeacher
from tests.conftest import SMALL_RUN
from tests.digests import digest

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch):
    """How many views of training images each teacher was asked about while students were trained or answers kept."""
    seen, outputs = [], LiveTeacher.outputs

    def counted(self, batch):
        seen.extend((int(i), int(v)) for i, v in zip(batch.indices, batch.views, strict=True) if v >= 0)
        return outputs(self, batch)

    monkeypatch.setattr(LiveTeacher, "outputs", counted)
    return seen


def run(photos, given, folder, /, **changes):
    blocks = {
        **SMALL_RUN,
        "data": {"source": str(photos), "img_size": 16, "num_views": 3},
        "teacher": {"model": str(given), "cache": "on"},
        "train": {**SMALL_RUN["train"], "threads": 1},
        "deploy": {"onnx": False, "latency_seconds": 0},
        "output": {"folder": str(folder), "pictures": 0},
    }
    for name, block in changes.items():
        blocks[name] = {**blocks[name], **block} if isinstance(blocks.get(name), dict) else block
    return sapling.distill(**blocks)


def test_the_teacher_is_asked_once_for_each_view_whatever_the_seeds(photos, teacher, tmp_path, asked):
    result = run(photos, teacher, tmp_path / "r")
    num = result.results["manifest"]["split"]["train"]
    # The diagnosis asks the teacher about one view of training images; it has no share in training.
    assert len(asked) == 3 * num
    assert len(set(asked)) == 3 * num
    heard = result.results["teacher"]["heard"]
    assert (heard["kept"], heard["num_views"]) == (True, 3)
    assert heard["seconds"] > 0
    assert result.results["manifest"]["num_views"] == 3
    assert "asked once for 3 views of every image and kept" in (tmp_path / "r" / "log.txt").read_text()
    assert result.results["cost"]["teacher_forward_seconds"] >= heard["seconds"] - 0.01


def test_another_seed_student_or_method_asks_nothing_again(photos, teacher, tmp_path, asked):
    run(photos, teacher, tmp_path / "a")
    before = len(asked)
    run(photos, teacher, tmp_path / "b", method="dist", student="cnn4", train={"seed": 7, "num_seeds": 1})
    assert len(asked) == before
    assert "its answers were there" in (tmp_path / "b" / "log.txt").read_text()
    run(photos, teacher, tmp_path / "c", data={"view_seed": 1}, train={"num_seeds": 1})
    assert len(asked) == 2 * before


def test_a_student_learns_the_same_from_kept_answers_and_from_asking(photos, teacher, tmp_path):
    kept = run(photos, teacher, tmp_path / "kept", method="kd", train={"num_seeds": 1})
    live = run(photos, teacher, tmp_path / "live", method="kd", train={"num_seeds": 1}, teacher={"cache": "off"})
    assert not live.results["teacher"]["heard"]["kept"]
    for name in ("control-s0", "kd-s0"):
        one, two = (load_file(r.folder / "members" / name / "model.safetensors") for r in (kept, live))
        gap = max(float(np.abs(one[k].astype(np.float64) - two[k].astype(np.float64)).max()) for k in one)
        assert gap == 0 if name == "control-s0" else 0 < gap < 5e-3


def test_a_first_phase_learns_from_kept_features(photos, teacher, tmp_path, asked):
    options = {"name": "fdbd", "phase1_epochs": 2, "ae_channels": 8}
    result = run(photos, teacher, tmp_path / "r", method=options, train={"num_seeds": 1, "epochs": 2})
    assert len(asked) == 3 * result.results["manifest"]["split"]["train"]
    assert result.results["phases"]["denoiser"]["epochs"] == 2


def test_answers_that_cannot_be_kept_cost_no_run_its_life(photos, teacher, tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise CannotHoldError("float16 cannot hold it")

    monkeypatch.setattr(answers, "build_answers", refuses)
    few = {"num_seeds": 1, "epochs": 6}
    result = run(photos, teacher, tmp_path / "auto", teacher={"cache": "auto"}, train=few, data={"num_views": 4})
    heard = result.results["teacher"]["heard"]
    assert (heard["kept"], heard["num_views"], heard["reason"]) == (False, 4, "float16 cannot hold it")
    with pytest.raises(CannotHoldError, match="float16 cannot hold it"):
        run(photos, teacher, tmp_path / "on", train=few)


def test_answers_of_another_teacher_stop_even_a_run_that_need_not_keep_them(photos, teacher, tmp_path):
    few = {"num_seeds": 1, "epochs": 6}
    run(photos, teacher, tmp_path / "a", teacher={"cache": "auto"}, train=few)
    record = next((tmp_path / "cache" / "answers").glob("*-3-*")) / "meta.json"
    meta = json.loads(record.read_text())
    meta.pop("seal")
    meta["of"]["precision"] = "bf16"
    write_sealed(record, meta)
    with pytest.raises(RunError, match="sapling cache clear") as error:
        run(photos, teacher, tmp_path / "b", teacher={"cache": "auto"}, train=few)
    assert "precision differ" in str(error.value)


def test_a_teacher_that_is_trained_here_never_trains_on_the_views_that_it_is_asked_about(photos, tmp_path, monkeypatch):
    seen, fit = {}, passes.fit

    def watched(members, data, *rest, **options):
        seen[members[0].name] = data.num_views
        return fit(members, data, *rest, **options)

    monkeypatch.setattr(passes, "fit", watched)
    run(photos, "cnn4", tmp_path / "r", teacher={"model": "cnn4", "epochs": 8}, train={"num_seeds": 1})
    assert seen == {"teacher": 0, "control-s0": 3}


def test_mixed_answers_are_said_and_are_other_terms(photos, teacher, tmp_path):
    few = {"num_seeds": 1, "epochs": 2}
    result = run(photos, teacher, tmp_path / "r", train=few, data={"mixup": 0.8})
    assert "mix of two answers" in result.results["manifest"]["answers"]
    assert "mix of two answers" in result.results["teacher"]["heard"]["sentence"]
    assert "answers" in comparable._MANIFEST["recipe"]


CHANGES = ("weights", "arguments", "preprocess", "symmetries", "folds", "store", "img_size", "spec", "view_seed")


@pytest.mark.parametrize("change", [*CHANGES, "precision", "device"])
def test_the_mark_depends_on_each_thing_that_answers_depend_on(data, finished_run, change):
    folder = finished_run.folder / "teacher"
    known = CheckedTeacher((load_model(folder),), json.loads((folder / "card.json").read_text()))
    machine, checked, images = Machine("cpu", "fp32", 1), known, data
    before = fingerprint(images, checked, machine)
    if change == "weights":
        checked = dataclasses.replace(known, card={**known.card, "sha256": "0" * 64})
    elif change == "arguments":
        other = load_model(folder)
        set_origin(other.model, Origin(other.architecture, model_args={"global_pool": "max"}))
        checked = dataclasses.replace(known, members=(other,))
    elif change == "preprocess":
        other = dataclasses.replace(known.members[0].preprocess, mean=(0.1, 0.2, 0.3))
        checked = dataclasses.replace(known, members=(dataclasses.replace(known.members[0], preprocess=other),))
    elif change == "symmetries":
        checked = dataclasses.replace(known, symmetries=symmetries_of(flip=True, dihedral=False))
    elif change == "folds":
        checked = dataclasses.replace(known, folds=np.zeros(5, dtype=np.int64))
    elif change == "store":
        images = dataclasses.replace(data, store=dataclasses.replace(data.store, fingerprint="0" * 64))
    elif change == "img_size":
        images = dataclasses.replace(data, img_size=8)
    elif change == "spec":
        images = dataclasses.replace(data, spec=dataclasses.replace(data.spec, erase=0.5))
    elif change == "view_seed":
        images = dataclasses.replace(data, view_seed=1)
    else:
        machine = Machine(*{"precision": ("cpu", "bf16", 1), "device": ("cuda:0", "fp32", 1)}[change])
    assert mark_of(before) != mark_of(fingerprint(images, checked, machine))
    assert mark_of(before) == mark_of(fingerprint(data, known, Machine("cpu", "fp32", 4)))


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def data(photos):
    return load_data(photos, img_size=16)


def settings(method="kd", cache="auto", num_views=0, epochs=30, seeds=3, **options):
    return build(
        {
            "data": {"source": "x", "num_views": num_views},
            "teacher": {"cache": cache},
            "method": {"name": method, **options},
            "train": {"num_seeds": seeds},
        }
    ), epochs


@pytest.mark.parametrize(
    ("given", "kept", "views", "reason"),
    [
        ({}, True, 16, "else it would answer 90 times"),
        ({"epochs": 5}, False, 0, "5 epochs x 3 seeds are too few to pay for 16 views"),
        ({"epochs": 8}, True, 16, "else it would answer 24 times"),
        ({"epochs": 22, "seeds": 1}, True, 16, "else it would answer 22 times"),
        ({"epochs": 21, "seeds": 1}, False, 0, "21 epochs x 1 seed are too few to pay for 16 views"),
        ({"cache": "off"}, False, 0, "keeping its answers is turned off"),
        ({"cache": "off", "num_views": 4}, False, 4, "keeping its answers is turned off"),
        ({"num_views": 4}, True, 4, "else it would answer 90 times"),
        ({"num_views": 200}, False, 200, "200 views cost as much as 30 epochs x 3 seeds"),
        ({"cache": "on", "epochs": 1, "seeds": 1}, True, 16, "as it is set"),
        ({"method": "ps_kd"}, False, 16, "method ps_kd asks no teacher"),
    ],
)
def test_the_decision(data, given, kept, views, reason):
    config, epochs = settings(**given)
    found = decide(config, data, {}, epochs)
    assert (found.kept, found.num_views, found.reason) == (kept, views, reason)
    assert (found.num_bytes > 0) == kept
    assert reason in found.sentence


def test_a_disk_without_room_changes_no_view(data, monkeypatch):
    config, epochs = settings()
    monkeypatch.setattr(answers.shutil, "disk_usage", lambda _: Usage(0, 0, 2 * 16 * 62 * 3 * 2 - 1))
    assert len(data.split.train) == 62
    found = decide(config, data, {}, epochs)
    assert (found.kept, found.num_views) == (False, 16)
    assert "of the disk are free" in found.reason
    with pytest.raises(UsageError, match="of the disk are free"):
        decide(settings(cache="on")[0], data, {}, epochs)
    monkeypatch.setattr(answers.shutil, "disk_usage", lambda _: Usage(0, 0, 2 * 16 * 62 * 3 * 2))
    assert decide(config, data, {}, epochs).kept
    assert not decide(config, data, {"embedding": (4,)}, epochs).kept
    # what is there already needs no room; what another method has kept is no help
    for tap, helps in (("embedding", True), ("stage4", False)):
        there = {part_name(tap): 16 * 62 * 4 * 2}
        assert decide(config, data, {"embedding": (4,)}, epochs, there).kept is helps


def test_maps_without_room_are_said_to_be_smaller_as_vectors(data, monkeypatch):
    monkeypatch.setattr(answers.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    maps = {"stage4": (64, 4, 4)}

    def reason(method, shapes=maps, **options):
        config, epochs = settings(method=method, **options)
        return decide(config, data, shapes, epochs).reason

    assert "--set method.mimic.tap=embedding keeps a vector" in reason("dist+mimic")
    assert "--set method.tap=embedding keeps a vector" in reason("mimic")
    assert "--set method.teacher_tap=embedding" in reason("mimic", tap="stage3", teacher_tap="stage4")
    assert "embedding" not in reason("dist+mimic", {"embedding": (64,)})
    assert "embedding" not in reason("fitnet", {"stage3": (64, 4, 4)})


def test_of_very_many_classes_the_largest_logits_are_kept_only_where_it_is_asked_for(data, monkeypatch):
    monkeypatch.setattr(answers, "keeps_all", lambda *_, **__: False)
    config, epochs = settings()
    assert "only the 100 largest logits" in decide(config, data, {}, epochs).reason
    found = decide(settings(cache="on")[0], data, {}, epochs)
    assert found.kept
    assert "100 largest logits are kept" in found.sentence


def test_mixed_images_are_answered_by_the_teacher_itself_unless_it_is_asked_for(photos):
    data = load_data(photos, img_size=16, mixup=0.8)
    config, epochs = settings()
    assert not decide(config, data, {}, epochs).kept
    on = settings(cache="on")[0]
    assert decide(on, data, {}, epochs).kept
    with pytest.raises(UsageError, match="mixed"):
        decide(on, data, {"embedding": (4,)}, epochs)


def test_a_method_that_needs_the_teacher_itself_gets_it(data, monkeypatch):
    kd = registry.load_class("kd")
    requires = dataclasses.replace(kd.requires, live_teacher=True)
    monkeypatch.setattr(answers.methods, "requires", lambda *_, **__: requires)
    config, epochs = settings()
    assert decide(config, data, {}, epochs).reason == "method kd needs the teacher itself"
    with pytest.raises(UsageError, match="needs the teacher itself"):
        decide(settings(cache="on")[0], data, {}, epochs)


@pytest.mark.parametrize("method", ["kd", "at", "fdbd", "ps_kd", "byot"])
def test_methods_see_the_same_number_of_views(method):
    config, epochs = settings(method)
    assert settle_views(config, epochs, mixed=False) == 16


# The command line -----------------------------------------------------------------------------------------


@pytest.fixture
def call(run):
    return run


def test_answers_are_built_ahead_and_used_by_a_run(photos, teacher, tmp_path, asked, call):
    options = ["--teacher", teacher, "--num-views", 3, "--set", "data.img_size=16", "--set", "train.threads=1"]
    options += ["--set", "train.precision=fp32"]
    code, out, _ = call("cache", "build", photos, *options)
    assert code == 0
    assert "logits of 62 images x 3 views" in out
    built = len(asked)
    assert built == 3 * 62
    code, out, _ = call("cache", "build", photos, *options)
    assert (code, len(asked)) == (0, built)
    assert "were there" in out
    run(photos, teacher, tmp_path / "r", train={"num_seeds": 1})
    assert len(asked) == built
    code, out, _ = call("cache", "verify", photos, *options)
    assert code == 0
    assert "holds" in out
    assert "answers" in call("cache", "list", "--json")[1]


def test_a_run_verifies_and_builds_again_what_it_kept(photos, teacher, tmp_path, call):
    folder = tmp_path / "r"
    run(photos, teacher, folder, method="at", train={"num_seeds": 1})
    before = {p: digest(p) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
    code, out, _ = call("cache", "verify", folder)
    assert code == 0
    assert "stage" in out
    kept = next((tmp_path / "cache" / "answers").glob("*-3-*"))
    next(kept.glob("logits-0002-*.npy")).unlink()
    code, _, err = call("cache", "verify", folder)
    assert code == 1
    assert "1 of 3 views are missing" in err
    assert call("cache", "build", folder)[0] == 0
    assert call("cache", "verify", folder)[0] == 0
    # answers of another teacher under this one's name: the same files, other content
    rows = [np.load(p) for p in sorted(kept.glob("logits-*.npy"))]
    for path in kept.glob("logits-*.npy"):
        path.unlink()
    for view, content in enumerate(rows):
        with answers_writer(kept, folder, view, content.shape[1:]) as writer:
            writer.append("logits", content[::-1])
            writer.finish()
    code, _, err = call("cache", "verify", folder)
    assert code == 1
    assert "sapling cache clear" in err
    assert {p: digest(p) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"} == before


def answers_writer(kept, folder, view, shape):
    from sapling.data.answers import AnswerStore
    from sapling.data.partwriter import PartWriter

    meta = json.loads((kept / "meta.json").read_text())
    store = AnswerStore(kept, meta["mark"], np.load(kept / "rows.npy"), meta["num_views"], meta)
    return PartWriter(store, view, {"logits": shape})


def test_wrong_calls(photos, finished_run, tmp_path, call):
    code, _, err = call("cache", "build", photos)
    assert code == 2
    assert "sapling train" in err
    code, _, err = call("cache", "verify", finished_run.folder)
    assert code == 2
    assert "keeps no answers of a teacher: " in err
    code, _, err = call("cache", "build", finished_run.folder, "--method", "kd")
    assert code == 2
    code, _, err = call("cache", "build")
    assert code == 2
    code, _, err = call("cache", "build", photos, "--teacher", finished_run.folder / "teacher", "--method", "ps_kd")
    assert code == 2
    assert "hears no kept answers" in err


def test_a_dry_run_tells_whether_answers_are_kept(photos, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--teacher", "cnn4", "--epochs", 30, "--img-size", 16, "--dry-run"]
    code, out, _ = call("distill", photos, *options)
    assert code == 0
    assert "asked once for 16 views" in " ".join(out.split())
    code, out, _ = call("distill", photos, *options, "--teacher-cache", "off")
    assert "asked for each batch" in " ".join(out.split())
    assert call("distill", photos, "--teacher-cache", "maybe")[0] == 2
