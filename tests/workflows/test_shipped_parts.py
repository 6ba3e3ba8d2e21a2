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


class Enough(Exception):
    """The students are trained; the rest of the run is not looked at here."""


def test_validation_measures_what_is_saved(photos, tmp_path, monkeypatch):
    measured, measure, train = [], passes.logits_of, passes.train_members

    def watched(model, data, split, *rest):
        found = measure(model, data, split, *rest)
        if split == "val":
            measured.append((found[0], data))
        return found

    def trained(*given, **more):
        train(*given, **more)
        raise Enough

    monkeypatch.setattr(passes, "logits_of", watched)
    monkeypatch.setattr("sapling.workflows.distill.train_members", trained)
    with pytest.raises(Enough):
        sapling.distill(**settings(photos, tmp_path / "r"))
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [r for r in rows if r["member"] == "norm-s0"]
    assert set(row["train"]) == {"ce", "norm", "loss"}
    _, saved = passes.load_trained(tmp_path / "r" / "members" / "norm-s0")
    with torch.no_grad():
        batches = measured[-1][1].eval_batches("val", batch_size=64)
        logits = torch.cat([saved.eval()(batch.images).logits for batch in batches])
    assert all(len(found) == len(logits) for found, _ in measured)
    assert any(torch.allclose(logits, torch.as_tensor(found), atol=1e-4) for found, _ in measured)


def test_an_average_of_weights_would_leave_the_parts_out(photos, tmp_path):
    with pytest.raises(UsageError, match=r"ema_decay 0.9 averages the student, and 'norm' ships parts of its own"):
        sapling.distill(**settings(photos, tmp_path / "r", ema_decay=0.9))
    assert not (tmp_path / "r").exists()
