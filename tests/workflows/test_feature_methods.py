"""A method with parts of its own, from pictures to the shipped student."""

from __future__ import annotations

import json
import math

import torch
from safetensors.torch import load_file

import sapling
from tests.conftest import SMALL_RUN


def test_a_whole_run_of_fitnet(photos, tmp_path):
    run = sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        teacher={"model": "cnn3", "epochs": 1, "accept_weak": True},
        method={"name": "fitnet", "tap": "stage3", "teacher_tap": "blocks.2"},
        train={**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1},
        deploy={"onnx": False, "latency_seconds": 0},
        output=tmp_path / "r",
    )
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [r for r in rows if r["member"] == "fitnet-s0"]
    assert set(row["train"]) == {"ce", "hint", "loss"}
    assert all(math.isfinite(value) for value in row["train"].values())
    # what ships is the student alone: the tensors of the control, none of the regressor's
    ours, control = (
        load_file(run.folder / "members" / f"{arm}-s0" / "model.safetensors") for arm in ("fitnet", "control")
    )
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in control.items()}
    assert not torch.equal(ours["blocks.0.conv.weight"], control["blocks.0.conv.weight"])
