"""A method with parts of its own and one with an observation, from pictures to the shipped student."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import sapling
from tests.conftest import SMALL_RUN

TRAIN = {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1}


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ({"name": "fitnet", "tap": "stage4"}, {"ce", "hint", "loss"}),
        ({"name": "nuclear", "warmup_share": 0}, {"ce", "kd", "nuclear", "_effective_rank", "loss"}),
    ],
)
def test_a_whole_run(photos, tmp_path, method, keys):
    run = sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        teacher={"model": "cnn4", "epochs": 1, "accept_weak": True},
        method=method,
        train=TRAIN,
        deploy={"onnx": False},
        output=tmp_path / "r",
    )
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [r for r in rows if r["member"] == f"{method['name']}-s0"]
    assert set(row["train"]) == keys
    assert all(value == value and abs(value) < 1e6 for value in row["train"].values())
    if "_effective_rank" in keys:
        assert 1 <= row["train"]["_effective_rank"] <= 16
    # what ships is the student alone: the same tensors as the control, none of the method's
    ours, control = (
        load_file(run.folder / "members" / f"{arm}-s0" / "model.safetensors") for arm in (method["name"], "control")
    )
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in control.items()}
    assert not any(torch.equal(ours[k], control[k]) for k in ours if k.endswith("conv.weight"))
