"""A method that ships trained parts of its own: what validation measures is what is saved."""

from __future__ import annotations

import json

import pytest
import torch

import sapling
from sapling.errors import UsageError
from sapling.workflows import passes
from tests.conftest import SMALL_RUN


def settings(photos, folder, **train):
    return {
        "data": {"source": str(photos), "img_size": 16},
        "student": "cnn3",
        "teacher": {"model": "cnn3", "epochs": 1, "accept_weak": True},
        "method": {"name": "norm", "num_copies": 2},
        "train": {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1, **train},
        "deploy": {"onnx": False},
        "output": folder,
    }


def test_a_whole_run_of_norm(photos, tmp_path, monkeypatch):
    measured, real = [], passes.logits_of

    def watched(model, data, split, *rest):
        found = real(model, data, split, *rest)
        if split == "val":
            measured.append((found[0], data))
        return found

    monkeypatch.setattr(passes, "logits_of", watched)
    run = sapling.distill(**settings(photos, tmp_path / "r"))
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [r for r in rows if r["member"] == "norm-s0"]
    assert set(row["train"]) == {"ce", "norm", "loss"}
    _, saved = passes.load_trained(run.folder / "members" / "norm-s0")
    saved.eval()
    answers = []
    with torch.no_grad():
        for batch in measured[-1][1].eval_batches("val", batch_size=64):
            answers.append(saved(batch.images).logits)
    logits = torch.cat(answers)
    assert any(torch.allclose(logits, torch.as_tensor(m), atol=1e-4) for m, _ in measured if len(m) == len(logits))


def test_an_average_of_weights_would_leave_the_parts_out(photos, tmp_path):
    with pytest.raises(UsageError, match=r"ema_decay 0.9 averages the student, and 'norm' ships parts of its own"):
        sapling.distill(**settings(photos, tmp_path / "r", ema_decay=0.9))
    assert not (tmp_path / "r").exists()
