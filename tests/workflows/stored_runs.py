"""Finished run folders as ``sapling distill`` leaves them, as far as a comparison reads them; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sapling.evaluation.multilabel import average_precision
from sapling.evaluation.ranked import compare_rankings
from sapling.evaluation.verdict import compare

CLASSES, IMAGES = 4, 300


def store_run(
    folder: Path,
    *,
    method: str = "kd",
    gain: float = 0.0,
    seeds: int = 3,
    first_seed: int = 0,
    own_control: int = 0,
    several: bool = False,
    groups: np.ndarray | None = None,
    images: int = IMAGES,
    measure: str = "top1",
    **manifest: Any,
) -> Path:
    """Write a run whose method is right more often than its control by about ``gain``.

    ``own_control`` draws another control; ``manifest`` changes settings, and ``teacher`` is its sha256.
    """
    rng = np.random.default_rng(7)
    truth = rng.integers(0, CLASSES, images)
    if several:
        truth = (rng.random((images, CLASSES)) < 0.4).astype(np.int64)
    hard = rng.random(images)
    members, kept = [], {"control": [], method: []}
    for seed in range(first_seed, first_seed + seeds):
        for number, arm in enumerate(("control", method)):
            level = 0.7 + (gain if number else 0.0)
            stream = (seed, 100 + own_control) if not number else (seed, 200 + sum(map(ord, str(folder.name))))
            logits = _answers(np.random.default_rng(stream), truth, hard, level)
            place = folder / "members" / f"{arm}-s{seed}"
            place.mkdir(parents=True)
            extra = {} if groups is None else {"groups": groups}
            save_file({"logits": logits, "labels": truth, **extra}, place / "test_logits.safetensors")
            kept[arm].append(logits)
            members.append({
                "name": place.name, "arm": arm, "seed": seed, "seconds": 10.0 + number,
                "parameters": 1000, "macs": 2000, "test": {measure: _score(logits, truth, measure)},
            })  # fmt: skip
    control, ours = np.stack(kept["control"]), np.stack(kept[method])
    if several:
        verdict = compare_rankings(control, ours, truth, groups=groups)
    else:
        right = (control.argmax(2) == truth, ours.argmax(2) == truth)
        verdict = compare(*right, labels=truth, groups=groups, measure=measure)  # type: ignore[arg-type]
    teacher = {
        "model": "resnet18",
        "sha256": manifest.pop("teacher", "ab" * 32),
        "answers": "plainly",
        "answers_sha256": manifest.pop("answers", "ef" * 32),
        "gate": {"passed": True},
    }
    settings = {
        "student": "sapling_cnn3", "method": method, "method_config": {}, "seeds": list(range(first_seed, seeds)),
        "epochs": 5, "batch_size": 64, "lr": 0.05, "views": "shift", "img_size": 16, "device": "cpu", "threads": 1,
        "split": {"train": 900, "val": 200, "test": images, "fingerprint": "51" * 32},
        "data": {"source": "photos", "fingerprint": "da" * 32},
    }  # fmt: skip
    results = {
        "format": 1, "name": folder.name, "task": "distill", "sapling_version": "0.1.0", "command": "sapling distill x",
        "manifest": settings | manifest, "classes": [f"class {k}" for k in range(CLASSES)],
        **({"multi_label": True} if several else {}), "teacher": teacher | {"test": {measure: 0.9}}, "members": members,
        "comparison": {"measure": measure, "verdict": verdict.as_dict()},
        "cost": {"teacher_seconds": 30.0, "teacher_forward_seconds": 2.0},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text("student: {model: cnn3}\ntrain: {momentum: 0.9}\nfingerprint: distill:0\n")
    (folder / "split.csv").write_text("key,split\r\n" + "".join(f"{k}.png,test\r\n" for k in range(images)))
    return folder


def change(folder: Path, **values: Any) -> Path:
    """Replace entries of ``results.json``, given as ``manifest__epochs=7``."""
    path = folder / "results.json"
    results = json.loads(path.read_text())
    for name, value in values.items():
        *blocks, key = name.split("__")
        entry = results
        for block in blocks:
            entry = entry[block]
        entry[key] = value
    path.write_text(json.dumps(results))
    return folder


def _answers(rng: np.random.Generator, truth: np.ndarray, hard: np.ndarray, level: float) -> np.ndarray:
    shape = (*truth.shape[:1], CLASSES)
    noise = rng.normal(0, 0.3, shape)
    if truth.ndim == 2:
        return (noise + (2 * truth - 1) * (level - 0.55)).astype(np.float32)
    right = 0.7 * hard + 0.3 * rng.random(len(truth)) < level
    answer = np.where(right, truth, (truth + rng.integers(1, CLASSES, len(truth))) % CLASSES)
    return (noise + 5 * np.eye(CLASSES)[answer]).astype(np.float32)


def _score(logits: np.ndarray, truth: np.ndarray, measure: str) -> float:
    if measure == "map":
        return float(np.nanmean(average_precision(logits, truth)))
    right = logits.argmax(1) == truth
    if measure == "macro_recall":
        return float(np.mean([right[truth == k].mean() for k in range(CLASSES)]))
    return float(right.mean())
