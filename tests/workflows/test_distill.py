"""The main job: everything is there, nothing is repeated, nothing is lost."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import sapling
from sapling.errors import DataError, GateError, RunError, UsageError
from sapling.evaluation import compare
from sapling.workflows.distill import choose_to_ship
from tests.conftest import SMALL_RUN, write_images
from tests.digests import digest


def test_the_run_folder_is_complete(finished_run):
    names = {str(p.relative_to(finished_run.folder)) for p in finished_run.folder.rglob("*") if p.is_file()}
    expected = {
        "config.yaml",
        "environment.json",
        "data.json",
        "log.txt",
        "metrics.jsonl",
        "results.json",
        "report.html",
        "teacher/model.safetensors",
        "teacher/config.json",
        "teacher/card.json",
        "student/model.safetensors",
        "student/config.json",
        "student/classes.txt",
        "student/model.onnx",
        "student/README.md",
    }
    assert expected <= names
    for member in ("control-s0", "control-s1", "dist-s0", "dist-s1"):
        assert f"members/{member}/model.safetensors" in names
    assert not [n for n in names if "tmp" in n or n.startswith("checkpoints")]


def test_results_are_what_the_logits_say(finished_run):
    results = finished_run.results
    right = {}
    for member in results["members"]:
        stored = load_file(finished_run.folder / "members" / member["name"] / "test_logits.safetensors")
        correct = stored["logits"].argmax(1) == stored["labels"]
        assert member["test"]["top1"] == pytest.approx(correct.mean())
        assert np.sum(member["test"]["confusion"]) == len(correct) == results["manifest"]["split"]["test"]
        right.setdefault(member["arm"], []).append(correct)
    verdict = results["comparison"]["verdict"]
    difference = np.mean(right["dist"]) - np.mean(right["control"])
    assert verdict["difference"] == pytest.approx(difference)
    again = compare(np.array(right["control"]), np.array(right["dist"]))
    assert again.outcome == verdict["outcome"]
    assert finished_run.statement == verdict["statement"]


def test_the_comparison_is_fair(finished_run):
    manifest = finished_run.results["manifest"]
    assert manifest["seeds"] == [0, 1]
    assert manifest["weights"] == {"ce": 1.0, "inter": 2.0, "intra": 2.0}
    rows = [json.loads(line) for line in (finished_run.folder / "metrics.jsonl").read_text().splitlines()]
    for seed in (0, 1):
        epochs = {arm: [r["epoch"] for r in rows if r["member"] == f"{arm}-s{seed}"] for arm in ("control", "dist")}
        assert epochs["control"] == epochs["dist"] == [0, 1, 2]
        rates = {arm: [r["lr"] for r in rows if r["member"] == f"{arm}-s{seed}"] for arm in ("control", "dist")}
        assert rates["control"] == rates["dist"]


def test_a_finished_run_trains_nothing(finished_run, photos, monkeypatch):
    monkeypatch.setattr("sapling.workflows.distill._work", lambda *_: pytest.fail("it worked again"))
    blocks = {**SMALL_RUN, "output": str(finished_run.folder), "data": {"source": str(photos), "img_size": 16}}
    assert sapling.distill(**blocks).results == finished_run.results


def test_a_lost_report_is_written_again(finished_run, photos, tmp_path):
    copy = shutil.copytree(finished_run.folder, tmp_path / "r")
    (copy / "report.html").unlink()
    sapling.distill(**{**SMALL_RUN, "output": str(copy), "data": {"source": str(photos), "img_size": 16}})
    assert (copy / "report.html").stat().st_size > 10_000


def test_hostile_class_names_stay_text(finished_run):
    page = (finished_run.folder / "report.html").read_text()
    assert "<b>oak</b>" not in page
    assert "枫树" in page
    assert "import sapling.models, timm" in page  # plain ``import sapling`` registers nothing with timm
    assert not re.search(r'(src|href)="https?://', page)


def test_timm_gives_the_same_student(finished_run):
    import timm

    folder = finished_run.folder / "student"
    loaded = sapling.load_model(finished_run.folder)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(images), loaded.model(images))
    assert loaded.classes == tuple(sorted(finished_run.results["classes"]))


def test_evaluate_repeats_the_figures(finished_run, photos):
    measured = sapling.evaluate(finished_run.folder, photos, device="cpu")
    shipped = finished_run.results["shipped"]["member"]
    stored = next(m for m in finished_run.results["members"] if m["name"] == shipped)
    assert measured["top1"] == stored["test"]["top1"]
    assert measured["nll"] == pytest.approx(stored["test"]["nll"], abs=1e-6)


def test_evaluate_on_a_part_of_the_classes(finished_run, photos, tmp_path):
    for name in ("枫树", "Linde & Söhne"):
        shutil.copytree(photos / name, tmp_path / "new" / name)
    measured = sapling.evaluate(finished_run.folder, tmp_path / "new", split="all", device="cpu")
    assert measured["num_images"] == 60
    assert measured["per_class_recall"].count(None) == 1
    assert measured["top1"] > 0.5  # matched by name: the data's class 1 is the network's class 2
    assert "<b>oak" in measured["warnings"][0]
    (tmp_path / "new" / "Eiche").mkdir()
    shutil.copy(next((photos / "枫树").iterdir()), tmp_path / "new" / "Eiche")
    with pytest.raises(DataError, match="does not know 'Eiche'"):
        sapling.evaluate(finished_run.folder, tmp_path / "new", split="all")


def test_evaluate_says_when_images_were_trained_on(finished_run, photos):
    assert "trained on" in sapling.evaluate(finished_run.folder, photos, split="all")["warnings"][0]
    assert not sapling.evaluate(finished_run.folder, photos)["warnings"]


def test_evaluate_measures_all_of_a_folder_that_its_run_never_saw(finished_run, photos, tmp_path):
    for folder in photos.iterdir():
        (tmp_path / "new" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:5]:
            shutil.copy(file, tmp_path / "new" / folder.name / f"new{file.name}")
    found = sapling.evaluate(finished_run.folder, tmp_path / "new")
    assert (found["split"], found["num_images"]) == ("all", 15)
    assert any("all were measured" in warning for warning in found["warnings"])
    one = next((tmp_path / "new").glob("*/*.png"))
    one.rename(one.with_name("3.png"))  # a name that its split holds
    found = sapling.evaluate(finished_run.folder, tmp_path / "new")
    assert found["split"] == "test"
    assert any("may have been trained on" in warning for warning in found["warnings"])


def test_evaluate_refuses_its_own_images_under_other_names(finished_run, photos, tmp_path):
    """A split cut anew would measure on images that were trained on, and call them test."""
    for folder in photos.iterdir():
        (tmp_path / "new" / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            shutil.copy(file, tmp_path / "new" / folder.name / f"x{file.name}")
    with pytest.raises(DataError, match="but under other names: which of them it was trained on cannot be told"):
        sapling.evaluate(finished_run.folder, tmp_path / "new")
    assert "trained on" in sapling.evaluate(finished_run.folder, tmp_path / "new", split="all")["warnings"][0]


def test_predict_on_files_is_evaluate_through_the_store(finished_run, photos):
    """One truth about pixels: files, store, torch and ONNX agree."""
    data = sapling.load_data(photos, img_size=16)
    loaded = sapling.load_model(finished_run.folder)
    model = sapling.TappedModel(loaded.model, loaded.preprocess).eval()
    for batch in data.eval_batches("test", batch_size=64):
        with torch.no_grad():
            expected = torch.softmax(model(batch.images).logits, 1).numpy()
        files = [photos / data.source.items[i].key for i in batch.indices.tolist()]
        for form in (finished_run.folder, finished_run.folder / "student" / "model.onnx"):
            found = sapling.predict(form, files, top=3)
            for row, prediction in zip(expected, found, strict=True):
                told = dict(prediction.classes)
                assert [told[c] for c in loaded.classes] == pytest.approx(row.tolist(), abs=1e-4)


def test_export_again_is_checked(finished_run, tmp_path):
    result = sapling.export(finished_run.folder, output=tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size == result["bytes"]
    assert result["max_abs_logit_difference"] < 1e-4


def test_the_given_teacher_is_used_as_it_is(finished_run, photos, tmp_path):
    blocks = {
        **SMALL_RUN,
        "train": {**SMALL_RUN["train"], "num_seeds": 1},
        "deploy": {"onnx": False, "latency_seconds": 0},
    }
    blocks["teacher"] = {"model": str(finished_run.folder / "teacher")}
    again = sapling.distill(
        **blocks, method="dist", data={"source": str(photos), "img_size": 16}, output=tmp_path / "r"
    )
    assert again.results["teacher"]["origin"] == "given"
    assert again.results["teacher"]["test"] == finished_run.results["teacher"]["test"]
    old, new = (f / "members" / "control-s0" / "model.safetensors" for f in (finished_run.folder, again.folder))
    assert digest(old) == digest(new)  # the control depends neither on the method nor on its neighbours


def test_an_untrained_teacher_is_stopped_before_students(photos, tmp_path):
    model = sapling.create_model("cnn4", num_classes=3, img_size=16, seed=5)
    data = sapling.load_data(photos, img_size=16)
    from sapling.models.load import Preprocess

    folder = tmp_path / "t"
    sapling.save_model(
        folder,
        model,
        architecture="sapling_cnn4",
        classes=data.classes,
        preprocess=Preprocess(16, data.store.size, (0.5,) * 3, (0.5,) * 3),
    )
    blocks = {**SMALL_RUN, "teacher": {"model": str(folder)}, "data": {"source": str(photos), "img_size": 16}}
    with pytest.raises(GateError, match="random head"):
        sapling.distill(**blocks, output=tmp_path / "r")
    assert not (tmp_path / "r" / "members").exists()
    # the advice of the message works on the same folder
    blocks["teacher"]["accept_weak"] = True
    blocks.update(train={**blocks["train"], "num_seeds": 1, "epochs": 1}, deploy={"onnx": False, "latency_seconds": 0})
    results = sapling.distill(**blocks, output=tmp_path / "r").results
    assert results["teacher"]["gate"]["overridden"]
    assert "did not pass the gate" in results["warnings"][0]


def test_changed_data_under_a_run_are_refused(tmp_path):
    photos, folder = write_images(tmp_path / "p", per_class=12), tmp_path / "r"
    blocks = {
        "data": {"source": str(photos), "img_size": 16},
        "student": "cnn3",
        "train": {"epochs": 1, "batch_size": 16},
        "deploy": {"onnx": False, "latency_seconds": 0},
        "output": str(folder),
    }
    sapling.train(**blocks)
    (folder / "results.json").unlink()  # as if it had been killed just before
    one = next((photos / "枫树").iterdir())
    one.write_bytes(next((photos / "<b>oak<∕b>").iterdir()).read_bytes())
    with pytest.raises(RunError, match="images or labels changed"):
        sapling.train(**blocks)


def test_a_run_goes_on_with_its_own_threads_and_precision(photos, tmp_path):
    blocks = {
        "data": {"source": str(photos), "img_size": 16},
        "student": "cnn3",
        "train": {"epochs": 1, "batch_size": 16},
        "deploy": {"onnx": False, "latency_seconds": 0},
        "output": str(tmp_path / "r"),
    }
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        sapling.train(**blocks)
        (tmp_path / "r" / "results.json").unlink()
        torch.set_num_threads(2)
        sapling.train(**blocks)
        assert torch.get_num_threads() == 1
        (tmp_path / "r" / "results.json").unlink()
        machine = tmp_path / "r" / "machine.json"
        machine.write_text(machine.read_text().replace('"cpu"', '"cuda"'))
        with pytest.raises(RunError, match="started on cuda"):
            sapling.train(**blocks)
    finally:
        torch.set_num_threads(before)


def test_none_is_no_method_to_distil_with(photos):
    with pytest.raises(UsageError, match="every run trains anyway"):
        sapling.distill(data=str(photos), method="none")


def records(control, kd):
    made = [{"name": f"control-s{i}", "arm": "control", "val": {"top1": v}} for i, v in enumerate(control)]
    return made + [{"name": f"kd-s{i}", "arm": "kd", "val": {"top1": v}} for i, v in enumerate(kd)]


@pytest.mark.parametrize(
    ("control", "kd", "shipped"),
    [
        ([0.8, 0.9], [0.9, 0.85], "kd-s0"),
        ([0.9, 0.91], [0.89, 0.9], "control-s1"),
        ([0.9], [0.9], "kd-s0"),
    ],
)
def test_what_is_shipped_is_chosen_on_validation(control, kd, shipped):
    found = choose_to_ship(records(control, kd), "kd")
    assert found["member"] == shipped
    assert found["reason"].startswith("not distilled: ") == shipped.startswith("control")
