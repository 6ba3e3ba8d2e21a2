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
    for arm in ("control", "kd"):
        found[arm] = np.stack([logits_of(finished_run, f"members/{arm}-s{s}")[0] for s in (0, 1)])
    return found, labels


def test_levels_gains_and_intervals_are_those_of_the_logits(finished_run, arms):
    tables, labels = arms
    found = measure_levels(tables, labels, compared=("control", "kd"))
    comparison = finished_run.results["comparison"]
    assert comparison["levels"]["kd"]["nll"] == pytest.approx(found.arms["kd"]["nll"].as_dict())
    assert comparison["intervals"]["worst_class_recall"] == found.differences["worst_class_recall"].as_dict()
    assert comparison["measure"] not in comparison["intervals"], "the verdict has the interval of its measure"
    assert comparison["classes"] == [g.as_dict() for g in class_gains(tables["control"], tables["kd"], labels)]


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


def test_the_gallery_holds_test_images_only(finished_run):
    content = json.loads((finished_run.folder / "gallery.json").read_text())
    rows = (finished_run.folder / "split.csv").read_text().splitlines()[1:]
    test = {row.rpartition(",")[0].strip('"') for row in rows if row.endswith(",test")}
    shown = {e["image"] for entries in content["kinds"].values() for e in entries}
    assert shown
    assert shown <= test
    assert set(content["pictures"]) == shown
    assert all(len(entries) <= 8 for entries in content["kinds"].values())
    page = (finished_run.folder / "report.html").read_text()
    assert all(page.count(uri) >= 1 for uri in content["pictures"].values())


def test_no_pictures_where_none_are_wanted(tmp_path):
    config = RunConfig.model_validate({"data": {"source": "x"}, "output": {"folder": "x", "pictures": 0}})
    old = tmp_path / "gallery.json"
    old.write_text("{}")
    run = SimpleNamespace(config=config, path=lambda *parts: tmp_path.joinpath(*parts))
    gallery.write_gallery(run, None, {}, np.zeros(0, int))
    assert not old.exists()


def test_the_new_settings_keep_the_fingerprint_of_older_runs():
    def of(**blocks):
        return RunConfig.model_validate({"data": {"source": "x"}, **blocks}).fingerprint()

    assert of() == of(deploy={"latency_seconds": 1.0}) == of(output={"pictures": 3})
    assert of() != of(deploy={"latency_seconds": 0})
    before = RunConfig.model_validate({"data": {"source": "x"}}).model_dump(mode="json")
    assert before["deploy"].keys() == {"onnx", "parity_images", "latency_seconds"}
