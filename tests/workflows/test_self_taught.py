"""A method without a teacher, from pictures to the report: the teacher is measured, never asked, and that is said."""

from __future__ import annotations

import json

import sapling
from sapling.config import build
from sapling.evaluation.diagnosis import CAUSES
from sapling.workflows import plan as planning
from tests.conftest import SMALL_RUN


def test_a_whole_run_of_ps_kd(photos, tmp_path):
    run = sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        # after one step it is no good, which would stop every run that listens to it
        teacher={"model": "cnn3", "epochs": 1, "lr": 1e-9},
        method="ps_kd",
        train={**SMALL_RUN["train"], "num_seeds": 1, "epochs": 2, "threads": 1},
        deploy={"onnx": False, "latency_seconds": 0},
        output={"folder": str(tmp_path / "r"), "pictures": 0},
    )
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    first, second = [r["train"] for r in rows if r["member"] == "ps_kd-s0"]
    assert set(first) == {"ce", "past", "_share", "loss"}
    assert first["past"] == 0  # nothing to remember yet
    assert second["past"] != 0
    results = run.results
    assert results["teacher"]["gate"]["passed"] is False
    assert results["cost"]["teacher_forward_seconds"] < 0.1 * results["cost"]["student_seconds"]
    (said,) = [w for w in results["warnings"] if "has no teacher" in w]
    assert "never hear cnn3" in said
    assert "Method ps_kd has no teacher" in (run.folder / "log.txt").read_text()
    assert "Method ps_kd has no teacher" in (run.folder / "report.html").read_text()
    assert {f["name"] for f in results["diagnosis"].get("findings", [])} <= {"steps"} < set(CAUSES)
    assert "what a teacher does (method ps_kd has none)" in results["diagnosis"]["not_looked_at"]


def test_a_plan_counts_no_teacher_that_is_not_asked(photos, monkeypatch):
    """Steps of 10 ms, and a teacher that would take a second for each batch."""
    monkeypatch.setattr(planning, "_time_step", lambda *_, train, **__: 0.01 if train else 1.0)
    blocks = {**SMALL_RUN, "data": {"source": str(photos), "img_size": 16}, "output": "none"}
    own, kd = (planning.plan(build({**blocks, "method": name})) for name in ("ps_kd", "kd"))
    assert own["teacher"]["heard"]["sentence"] == "not asked: method ps_kd asks no teacher"
    assert kd["estimated_seconds"] - own["estimated_seconds"] > 5
    assert own["estimated_seconds"] < planning.FIXED_SECONDS + 2
