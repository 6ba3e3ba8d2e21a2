"""A run folder may come from anyone: nothing outside of it is read, and nothing large before its size is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sapling
from sapling.errors import RunError
from tests.workflows.stored_runs import change, store_run


@pytest.fixture
def two(tmp_path):
    return [store_run(tmp_path / "kd", gain=0.1), store_run(tmp_path / "dkd", method="dkd")]


def test_nothing_outside_of_a_run_is_read(two, tmp_path):
    """A folder from anyone may hold links; what they lead to is not its own."""
    answers = two[1] / "members" / "dkd-s0" / "test_logits.safetensors"
    for path in (answers, answers.parent, two[1] / "results.json", two[1] / "config.yaml", two[1] / "split.csv"):
        kept = tmp_path / "elsewhere" / path.name
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
        path.symlink_to(kept)
        with pytest.raises(RunError, match=f"leads out of the run: .*{path.name}"):
            sapling.compare(two)
        path.unlink()
        kept.rename(path)
    inside = answers.rename(two[1] / "answers")
    answers.symlink_to(inside)
    sapling.compare(two)  # one that stays inside is its own business
    answers.unlink()
    answers.symlink_to(answers)
    with pytest.raises(RunError):
        sapling.compare(two)


def test_sizes_are_checked_before_anything_is_loaded(two, tmp_path, monkeypatch):
    answers = two[1] / "members" / "control-s0" / "test_logits.safetensors"
    good = answers.read_bytes()
    monkeypatch.setattr("sapling.workflows.stored.safe_open", lambda *a, **k: pytest.fail("it was opened"))
    with pytest.raises(pytest.fail.Exception):
        sapling.compare(two[::-1])
    save_file({**load_file(answers), "more": np.zeros(2**20, np.float32)}, answers)
    with pytest.raises(RunError, match=r"the answers take 4,\d+,\d+ bytes"):
        sapling.compare(two[::-1])
    answers.write_bytes(good)
    with answers.open("r+b") as file:  # a hole: terabytes by name, nothing on the disk
        file.truncate(2**40)
    with pytest.raises(RunError, match="the answers take"):
        sapling.compare(two[::-1])
    answers.write_bytes(good)
    change(two[1], manifest__split={"train": 1, "test": 10**12, "fingerprint": "51" * 32})
    with pytest.raises(RunError, match="1,000,000,000,000 images of 4 classes"):
        sapling.compare(two[::-1])


def test_a_damaged_or_hostile_run_is_refused(two, tmp_path):
    path = two[1] / "members" / "dkd-s0" / "test_logits.safetensors"
    stored = load_file(path)
    wrong = {
        "not those of results.json": {**stored, "logits": stored["logits"][::-1].copy()},
        "shape": {**stored, "logits": stored["logits"][:-1]},
        "no such numbers": {**stored, "logits": np.full_like(stored["logits"], np.nan)},
        "same images": {**stored, "labels": stored["labels"][::-1].copy()},
    }
    for said, arrays in wrong.items():
        save_file(arrays, path)
        with pytest.raises(RunError, match=said):
            sapling.compare(two)
    path.write_bytes(b"\x80\x04. no tensors")
    with pytest.raises(RunError, match="cannot be read"):
        sapling.compare(two)
    results = json.loads((two[1] / "results.json").read_text())
    for member in results["members"]:
        member["arm"] = member["arm"].replace("dkd", "../../../kd/members/kd")
    (two[1] / "results.json").write_text(json.dumps(results))
    with pytest.raises(RunError, match="leads out of the run"):
        sapling.compare(two)
    (two[1] / "results.json").write_text("[" * 100_000)
    with pytest.raises(RunError):
        sapling.compare(two)


def test_numbers_beyond_all_bounds_and_deep_nesting_end_in_no_traceback(two):
    huge, good = 10**400, (two[1] / "results.json").read_text()
    change(two[1], cost={"teacher_seconds": huge, "phase_seconds": huge}, deploy=_latency(huge))
    sapling.compare(two)  # what is missing there is no hindrance
    for values in (
        {"manifest__split": {"train": 1, "test": huge, "fingerprint": "51" * 32}},
        {"comparison__verdict__confidence": huge},
        {"manifest__method_config": json.loads("[" * 300 + "]" * 300)},
        {"members": [{"arm": arm, "seed": 0} for arm in ("k" * 300, "control")]},
    ):
        (two[1] / "results.json").write_text(good)
        change(two[1], **values)
        with pytest.raises(RunError):
            sapling.compare(two)
    (two[1] / "results.json").write_text(good)
    for settings in ("a: " + "9" * 5000, "a: !!timestamp x", "a: !!bool x", "a: &a [*a]", "a: " + "[" * 5000):
        (two[1] / "config.yaml").write_text(settings)
        with pytest.raises(RunError, match=r"config\.yaml"):
            sapling.compare(two)


def _latency(value):
    return {"onnx": {"latency_ms": {"1": {"p50": value}}}}
