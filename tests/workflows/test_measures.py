"""What a run measures beside the verdict is what its logits say, of test images only."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from sapling.config import RunConfig
from sapling.evaluation.classes import class_gains
from sapling.evaluation.fidelity import agreement, kl_to_teacher
from sapling.evaluation.levels import measure_levels
from sapling.workflows import gallery


def logits_of(run, folder):
    stored = load_file(run.folder / folder / "test_logits.safetensors")
    return stored["logits"], stored["labels"]


@pytest.fixture(scope="module")
def arms(finished_run):
    teacher, labels = logits_of(finished_run, "teacher")
    found = {"teacher": teacher[None]}
    for arm in ("control", "dist"):
        found[arm] = np.stack([logits_of(finished_run, f"members/{arm}-s{s}")[0] for s in (0, 1)])
    return found, labels


def test_levels_gains_and_intervals_are_those_of_the_logits(finished_run, arms):
    tables, labels = arms
    found = measure_levels(tables, labels, compared=("control", "dist"))
    comparison = finished_run.results["comparison"]
    assert comparison["levels"]["dist"]["nll"] == pytest.approx(found.arms["dist"]["nll"].as_dict())
    assert comparison["intervals"]["worst_class_recall"] == found.differences["worst_class_recall"].as_dict()
    assert comparison["measure"] not in comparison["intervals"], "the verdict has the interval of its measure"
    assert comparison["classes"] == [g.as_dict() for g in class_gains(tables["control"], tables["dist"], labels)]


def test_fidelity_is_to_the_teacher_of_the_run(finished_run, arms):
    tables, _ = arms
    for member in finished_run.results["members"]:
        own = tables[member["arm"]][member["seed"]]
        assert member["fidelity"]["kl"] == pytest.approx(kl_to_teacher(own, tables["teacher"][0]))
        assert member["agreement"] == member["fidelity"]["agreement"] == agreement(own, tables["teacher"][0])
        assert -0.5 < member["fidelity"]["cka"] <= 1
        assert member["fidelity"]["cka_images"] == member["test"]["num_images"]


def test_costs_are_those_of_teacher_student_and_file(finished_run):
    content = finished_run.results["efficiency"]
    assert [(n["role"], n["format"]) for n in content["networks"]] == [
        ("teacher", "torch"), ("student", "torch"), ("student", "onnx"),
    ]  # fmt: skip
    teacher, student, file = content["networks"]
    assert content["threads"] == teacher["threads"] == file["threads"] == 2
    assert teacher["parameters"] == finished_run.results["teacher"]["parameters"] > student["parameters"]
    assert student["bytes"] == (finished_run.folder / "student" / "model.safetensors").stat().st_size
    assert file["bytes"] == (finished_run.folder / "student" / "model.onnx").stat().st_size
    for network in (teacher, student):
        assert network["peak_memory_bytes"]["32"] > network["peak_memory_bytes"]["1"] > 4 * network["parameters"]
        assert network["latency_ms"].keys() == {"1", "32"}


def made_up(folder, **output):
    """A run and its data, as far as the gallery looks at them: five images, of which 4, 1 and 3 are for test."""
    config = RunConfig.model_validate({"data": {"source": "x"}, "output": {"folder": "x", **output}})
    keys = [f"<b>{k}.png" for k in range(5)]
    data = SimpleNamespace(
        split=SimpleNamespace(test=np.array([4, 1, 3])),
        source=SimpleNamespace(items=[SimpleNamespace(key=key) for key in keys]),
        store=SimpleNamespace(keys=keys, shown=np.zeros((5, 8, 8, 3), np.uint8), size=8),
        classes=("oak", "<i>lime"),
    )
    return SimpleNamespace(config=config, path=lambda *parts: folder.joinpath(*parts)), data


def test_the_gallery_holds_the_very_test_images(tmp_path):
    run, data = made_up(tmp_path)
    right = np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0]])[None]
    wrong = right.copy()
    wrong[0, 1] = [2.0, 0.0]
    gallery.write_gallery(run, data, {"student": wrong, "control": right, "teacher": right}, np.array([0, 1, 0]))
    content = json.loads((tmp_path / "gallery.json").read_text())
    assert content["kinds"].keys() == {"lost", "mistakes", "disagreements"}
    assert content["pictures"].keys() == {"<b>1.png"}
    entry = content["kinds"]["lost"][0]
    assert (entry["image"], entry["truth"]) == ("<b>1.png", ["<i>lime"])
    assert entry["answers"]["student"] == {
        "names": ["oak"], "certainty": pytest.approx(1 / (1 + np.exp(-2))), "right": False, "seeds_right": 0,
    }  # fmt: skip
    assert entry["answers"]["control"]["names"] == ["<i>lime"]
    assert entry["answers"]["control"]["seeds_right"] == 1


def test_a_run_leaves_its_gallery(finished_run):
    content = json.loads((finished_run.folder / "gallery.json").read_text())
    page = (finished_run.folder / "report.html").read_text()
    assert content["num_seeds"] == 2
    assert all(uri in page for uri in content["pictures"].values())


def test_no_pictures_where_none_are_wanted(tmp_path):
    run, data = made_up(tmp_path, pictures=0)
    old = tmp_path / "gallery.json"
    old.write_text("{}")
    gallery.write_gallery(run, data, {}, np.zeros(0, int))
    assert not old.exists()


def test_the_new_settings_keep_the_fingerprint_of_older_runs():
    def of(**blocks):
        return RunConfig.model_validate({"data": {"source": "x"}, **blocks}).fingerprint()

    assert of() == of(deploy={"latency_seconds": 1.0}) == of(output={"pictures": 3})
    assert of() != of(deploy={"latency_seconds": 0})
    before = RunConfig.model_validate({"data": {"source": "x"}}).model_dump(mode="json")
    assert before["deploy"].keys() == {"onnx", "parity_images", "latency_seconds"}


def test_the_onnx_file_is_timed_on_the_threads_of_the_run(tmp_path, monkeypatch):
    from sapling.workflows import ship

    for name in ("load_model", "export_onnx", "first_images", "write_model_card", "provenance"):
        monkeypatch.setattr(ship, name, lambda *_: None)
    monkeypatch.setattr(ship, "check_parity", lambda *_: {})
    monkeypatch.setattr(ship, "measure_onnx", lambda path, images, *, threads, seconds: {"threads": threads})
    config = RunConfig.model_validate({"data": {"source": "x"}, "train": {"threads": 2}})
    run = SimpleNamespace(config=config, path=tmp_path.joinpath, log=lambda line: None)
    assert ship.deploy(run, None, {})["onnx"]["threads"] == 2
    (tmp_path / "machine.json").write_text('{"threads": 3}')
    assert ship.deploy(run, None, {})["onnx"]["threads"] == 3
