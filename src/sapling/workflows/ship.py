"""The folder to ship: weights, classes, a checked and measured ONNX file, a model card."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch

from sapling.data.loader import Dataset
from sapling.deploy.export import check_parity, export_onnx, measure_onnx, write_model_card
from sapling.evaluation.efficiency import num_cores
from sapling.models.load import load_model
from sapling.record import Run, read_json
from sapling.workflows.networks import provenance


def deploy(run: Run, data: Dataset, results: Mapping[str, Any]) -> dict[str, Any]:
    """Export ``student/`` to ONNX, compare it with torch on real images, measure it, write its card.

    Raises:
        ExportError: the ONNX file answers otherwise than the network.
    """
    folder = run.path("student")
    measured: dict[str, Any] = {}
    loaded = load_model(folder)
    if run.config.deploy.onnx:
        run.log("export: writing and checking model.onnx")
        path = folder / "model.onnx"
        images = first_images(data, run.config.deploy.parity_images)
        export_onnx(loaded, path)
        measured["onnx"] = {
            "path": "student/model.onnx",
            **check_parity(loaded, path, images),
            **measure_onnx(path, images, threads=threads_of(run), seconds=run.config.deploy.latency_seconds),
        }
    write_model_card(folder, {**results, "deploy": measured, "student": provenance(loaded)})
    return measured


def threads_of(run: Run) -> int:
    """The threads of training, on which all that is timed runs too; ``machine.json`` knows them."""
    kept = run.path("machine.json")
    return int(read_json(kept)["threads"]) if kept.exists() else run.config.train.threads or num_cores()


def first_images(data: Dataset, count: int) -> torch.Tensor:
    """``[n,C,S,S]`` validation images in [0,1], as a network gets them."""
    batches = data.eval_batches("val", batch_size=count)
    images = torch.cat([b.images for b in islice(batches, 1)])
    return images.contiguous()
