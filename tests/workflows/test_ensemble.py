"""Several teachers in a run: seeds, folds, gate, soft targets, what is kept, what is noticed, what is resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sapling
from sapling.config import build
from sapling.errors import ConfigError, GateError, ModelError, RunError, UsageError
from sapling.evaluation.soft_targets import soft_targets
from sapling.models import create_model, load_model, save_model
from sapling.report.page import write_report
from sapling.workflows import passes
from sapling.workflows.networks import check_settings_are_used, parts_of
from sapling.workflows.several import keep_folds, teacher_seed
from tests.conftest import SMALL_RUN
from tests.digests import digest

TRAIN = {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1, "threads": 1}


def blocks(photos, output, **teacher):
    return {
        "data": {"source": str(photos), "img_size": 16, "views": "light"},
        "student": "cnn3",
        "teacher": {"model": "cnn3", **({} if "model" in teacher else {"epochs": 5}), **teacher},
        "train": TRAIN,
        "deploy": {"onnx": False, "latency_seconds": 0},
        "output": str(output),
    }


@pytest.fixture(scope="module")
def crossed(photos, tmp_path_factory):
    """A run with three cross-fitted, symmetrised teachers; what each pass saw, and what students were told."""
    trained, told, real = {}, [], passes.fit

    def fit(members, data, settings, *, teacher=None, **more):
        trained[settings.name] = set(data.split.train.tolist())
        if teacher is not None:
            inner = teacher.outputs

            def outputs(batch):
                answer = inner(batch)
                told.append((batch, answer.logits))
                return answer

            teacher.outputs = outputs
        return real(members, data, settings, teacher=teacher, **more)

    folder = tmp_path_factory.mktemp("crossed") / "r"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "fit", fit)
        patch.setattr("sapling.workflows.distill.write_report", lambda _: None)
        run = sapling.distill(**blocks(photos, folder, num_teachers=3, cross_fit=True, symmetrise=True))
    return run, trained, told


@pytest.fixture(scope="module")
def dataset(photos):
    return sapling.load_data(photos, img_size=16, views="light")


def folds_of(run, data):
    lines = (run.folder / "teacher" / "folds.csv").read_text(encoding="utf-8").splitlines()
    by_key = dict(line.rsplit(",", 1) for line in lines[1:])
    return np.array([int(by_key.get(item.key, -1)) for item in data.source.items])


def naive(run, images):
    """Logits ``[3,B,K]`` of each teacher of a run, the mean of the image and its mirror image."""
    found = []
    for k in range(3):
        loaded = load_model(run.folder / "teacher" / str(k))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (loaded.preprocess.mean, loaded.preprocess.std))
        with torch.no_grad():
            sides = [loaded.model((x - mean) / std).double().numpy() for x in (images, images.flip(3))]
        found.append((sides[0] + sides[1]) / 2)
    return np.stack(found)


def test_each_teacher_has_a_seed_of_its_own(crossed):
    run, _, _ = crossed
    members = run.results["teacher"]["members"]
    assert [m["name"] for m in members] == ["teacher-0", "teacher-1", "teacher-2"]
    assert len({m["seed"] for m in members}) == len({m["sha256"] for m in members}) == 3
    config = build({"data": "digits", "train": {"seed": 2**29}})
    seeds = [teacher_seed(config, k) for k in range(32)]
    assert len(set(seeds)) == 32
    assert 2**29 < min(seeds) <= max(seeds) < 2**31
    first, second = (build({"data": "digits", "train": {"seed": s}}) for s in (0, 1))
    assert {teacher_seed(first, k) for k in range(32)}.isdisjoint(teacher_seed(second, k) for k in range(32))


def test_no_teacher_trains_on_its_own_fold(crossed, dataset):
    run, trained, _ = crossed
    folds = folds_of(run, dataset)
    everything = set(dataset.split.train.tolist())
    assert set(np.flatnonzero(folds >= 0)) == everything == trained["seed0"]
    for k in range(3):
        own = set(np.flatnonzero(folds == k).tolist())
        assert abs(len(own) - len(everything) / 3) < 1
        assert trained[f"teacher-{k}"] == everything - own


def test_students_hear_of_an_image_what_the_teacher_says_that_never_saw_it(crossed, dataset):
    run, _, told = crossed
    folds = folds_of(run, dataset)
    assert len(told) == 3
    for batch, logits in told:
        apart = naive(run, batch.images.contiguous())
        rows = np.arange(len(batch.images))
        expected = apart[folds[batch.indices.numpy()], rows]
        assert np.allclose(logits.numpy(), expected, atol=1e-4)
        assert not np.allclose(logits.numpy(), apart.mean(0), atol=1e-2)


def test_what_is_said_of_the_ensemble_is_what_it_answers(crossed, dataset):
    """Out of fold on training images, the mean of all teachers elsewhere."""
    run, _, _ = crossed
    card = run.results["teacher"]
    folds = folds_of(run, dataset)
    for part in ("train", "val", "test"):
        (batch,) = dataset.eval_batches(part, batch_size=1000)
        apart = naive(run, batch.images.contiguous())
        rows = np.arange(len(batch.images))
        answers = apart[folds[batch.indices.numpy()], rows] if part == "train" else apart.mean(0)
        expected = soft_targets(answers, dataset.labels(part))
        assert card[part]["top1"] == pytest.approx(expected.top1)
        if part != "test":
            assert card[part]["entropy"] == pytest.approx(expected.entropy, abs=1e-4)
    assert card["memorised"] is False


def test_the_card_and_the_page_show_every_teacher_and_all_together(crossed):
    run, _, _ = crossed
    card = run.results["teacher"]
    names = [check["name"] for check in card["gate"]["checks"]]
    for who in ("teacher-0", "teacher-1", "teacher-2", "together"):
        assert f"{who}: above chance" in names
    assert card["gate"]["passed"]
    assert card["parameters"] == 3 * card["members"][0]["parameters"]
    assert card["macs"] == 6 * card["members"][0]["macs"]
    assert card["seconds"] == pytest.approx(sum(m["seconds"] for m in card["members"]), abs=0.01)
    assert card["answers"].startswith("mean logits of 3 teachers; mean logits over 2 symmetries of the image; a train")
    assert run.results["manifest"]["num_teachers"] == 3
    assert all(m["test"]["num_images"] == card["test"]["num_images"] for m in card["members"])
    write_report(run.folder)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for words in ("Teacher-0 alone", "Teacher-2 alone", "training images, out of fold", "mean logits of 3 teachers"):
        assert words in page
    assert "mean logits of 3 teachers" in (run.folder / "student" / "README.md").read_text(encoding="utf-8")
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "3 folds of 21, 21, 20 training images" in log
    assert "training images (out of fold)" in log
    assert "teacher: all 3 together passed the gate" in log
    assert "teacher: what students hear: mean logits of 3 teachers; mean logits over 2 symmetries" in log


def test_a_finished_run_is_read_again_and_every_member_is_watched(crossed, photos, monkeypatch):
    monkeypatch.setattr("sapling.workflows.distill.write_report", lambda _: None)
    run, _, _ = crossed
    call = blocks(photos, run.folder, num_teachers=3, cross_fit=True, symmetrise=True)
    monkeypatch.setattr(passes, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert sapling.distill(**call).results == run.results
    for name, words in (("2/model.safetensors", "its weights are not"), ("folds.csv", "its folds are others")):
        path = run.folder / "teacher" / name
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(RunError, match=f"own copy of the teacher was replaced: {words}"):
            sapling.distill(**call)
        path.write_bytes(kept)


def test_the_folder_of_an_ensemble_is_a_teacher_of_other_runs(crossed, photos, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("sapling.workflows.distill.write_report", lambda _: None)
    run, _, _ = crossed
    folder = run.folder / "teacher"
    assert parts_of(str(folder)) == tuple(str(folder / str(k)) for k in range(3))
    again = sapling.distill(**blocks(photos, tmp_path / "r", model=str(folder), symmetrise=True))
    card = again.results["teacher"]
    assert card["origin"] == "given"
    assert card["sha256"] == run.results["teacher"]["sha256"]
    assert card["files"].keys() >= {f"{k}/model.safetensors" for k in range(3)}
    # the same images: it answers them out of fold, as in its own run
    assert np.array_equal(folds_of(again, dataset), folds_of(run, dataset))
    assert card["train"] == run.results["teacher"]["train"]
    assert card["test"]["nll"] == pytest.approx(run.results["teacher"]["test"]["nll"])
    measured = sapling.evaluate(folder, photos)
    assert measured["num_images"] == card["test"]["num_images"]
    with pytest.raises(ModelError, match="holds 3 networks that answer as one teacher"):
        load_model(folder)


def test_folds_hold_for_their_own_images_only(crossed, photos, dataset, tmp_path):
    run, _, _ = crossed
    copy = shutil.copytree(run.folder / "teacher", tmp_path / "copy")
    names, said = ("teacher-0", "teacher-1", "teacher-2"), []

    def kept(data, **changes):
        call = blocks(photos, "unused", model=str(copy))
        call["data"].update(changes)
        (tmp_path / "teacher").mkdir(exist_ok=True)
        (tmp_path / "teacher" / "folds.csv").write_text("of another teacher, before the run was killed")
        fake = SimpleNamespace(config=build(call), path=tmp_path.joinpath, log=said.append)
        return keep_folds(fake, data, names, given=True)

    assert np.array_equal(kept(dataset), folds_of(run, dataset))
    assert kept(dataset, mixup=0.2) is None
    assert "images are mixed here" in said[-1]
    fewer = replace(dataset, split=replace(dataset.split, train=dataset.split.train[1:]))
    assert kept(fewer) is None
    assert "the training images are others" in said[-1]
    card = json.loads((copy / "card.json").read_text())
    card["folds"]["data"] = "other images"
    (copy / "card.json").write_text(json.dumps(card))
    assert kept(dataset) is None
    assert "it is cross-fitted, but these are other images, or of another size: all of its 3 networks" in said[-1]


def test_the_gate_stops_the_second_of_two_that_are_given(crossed, photos, tmp_path):
    good = crossed[0].folder / "teacher" / "0"
    loaded = load_model(good)
    how = {"architecture": loaded.architecture, "classes": loaded.classes, "preprocess": loaded.preprocess}
    save_model(tmp_path / "fresh", create_model("cnn3", num_classes=3, img_size=16, seed=5), **how)
    call = blocks(photos, tmp_path / "r", model=f"{good}, {tmp_path / 'fresh'}")
    with pytest.raises(GateError, match="random head") as caught:
        sapling.distill(**call)
    assert "teacher-1" in str(caught.value)
    assert not (tmp_path / "r" / "members").exists()


def test_killed_between_two_teachers_goes_on_to_the_same_bits(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sapling.workflows.distill.write_report", lambda _: None)
    whole = sapling.distill(**blocks(photos, tmp_path / "whole", num_teachers=2, cross_fit=True))
    broken, real = blocks(photos, tmp_path / "broken", num_teachers=2, cross_fit=True), passes.fit

    def killed_at_the_second(members, data, settings, **more):
        if settings.name == "teacher-1":
            raise KeyboardInterrupt
        return real(members, data, settings, **more)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "fit", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            sapling.distill(**broken)
    assert (tmp_path / "broken" / "members" / "teacher-0" / "member.json").exists()
    assert not (tmp_path / "broken" / "teacher" / "card.json").exists()
    again = sapling.distill(**broken)
    for name in ("teacher/0", "teacher/1", "members/dist-s0", "members/control-s0"):
        assert digest(again.folder / name / "model.safetensors") == digest(whole.folder / name / "model.safetensors")
    assert digest(again.folder / "teacher" / "folds.csv") == digest(whole.folder / "teacher" / "folds.csv")
    assert again.results["comparison"] == whole.results["comparison"]
    rows = [json.loads(line) for line in (again.folder / "metrics.jsonl").read_text().splitlines()]
    assert [sum(row["pass"] == f"teacher-{k}" for row in rows) for k in range(2)] == [5, 5]


def test_settings_that_do_not_fit_are_refused(crossed):
    def check(data=None, method="kd", **teacher):
        config = build({"data": {"source": "digits", **(data or {})}, "teacher": teacher, "method": method})
        check_settings_are_used(config)

    with pytest.raises(ConfigError, match="cross_fit needs num_teachers of 2 or more"):
        check(cross_fit=True)
    with pytest.raises(UsageError, match=r"data\.mixup mixes images of several folds"):
        check({"mixup": 0.2}, model="cnn3", num_teachers=2, cross_fit=True)
    check({"mixup": 0.2}, model="cnn3", num_teachers=2)
    with pytest.raises(UsageError, match="no symmetry in views shift"):
        check({"views": "shift"}, model="cnn3", symmetrise=True)
    check({"views": "aerial"}, model="cnn3", symmetrise=True)
    given = str(crossed[0].folder / "student")
    with pytest.raises(UsageError, match=r"teacher\.num_teachers would not be used"):
        check(model=given, num_teachers=2)
    with pytest.raises(UsageError, match=r"'cnn3' in .* is a name, and several teachers with commas"):
        check(model=f"{given},cnn3")
    with pytest.raises(UsageError, match="there is no teacher at 'a/b'"):
        check(model=f"{given},a/b")


def test_older_runs_keep_their_fingerprint():
    plain = build({"data": "digits"}).fingerprint()
    one = {"num_teachers": 1, "symmetrise": False, "cross_fit": False}
    assert build({"data": "digits", "teacher": one}).fingerprint() == plain
    for change in ({"num_teachers": 2}, {"symmetrise": True}, {"num_teachers": 2, "cross_fit": True}):
        assert build({"data": "digits", "teacher": change}).fingerprint() != plain


def test_the_plan_shows_what_several_teachers_cost(photos, capsys):
    from sapling.tables import print_plan
    from sapling.workflows.plan import plan

    def made(**teacher):
        call = blocks(photos, Path("nowhere"), **teacher)
        return plan(build(call))

    one, three = made(), made(num_teachers=3, symmetrise=True)
    crossed = made(num_teachers=3, cross_fit=True)
    assert three["teacher"]["parameters"] == 3 * one["teacher"]["parameters"]
    assert [p["teacher"]["forward_passes"] for p in (one, three, crossed)] == [1, 6, 1]
    print_plan(three)
    print_plan(crossed)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("3 of them, trained for 5 epochs each", "answers 2 ways", "6 forward passes", "one of 3 folds"):
        assert words in shown


def test_the_plan_knows_the_folds_of_a_given_teacher(crossed, photos):
    from sapling.workflows.plan import plan

    call = blocks(photos, Path("nowhere"), model=str(crossed[0].folder / "teacher"))
    found = plan(build(call))["teacher"]
    assert (found["cross_fit"], found["forward_passes"]) == (True, 1)
    mixed = plan(build({**call, "data": {**call["data"], "mixup": 0.2}}))["teacher"]
    assert (mixed["cross_fit"], mixed["forward_passes"]) == (False, 3)
