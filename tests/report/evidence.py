"""The parts of a run that newer versions measure, added to a synthetic run: calibration, gains, gallery, costs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def add_evidence(folder: Path, *, pictures: int = 3, onnx: bool = True) -> dict[str, Any]:
    """Add them to ``results.json`` and write ``gallery.json``; returns the results."""
    rng = np.random.default_rng(0)
    path = folder / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    entries = [*results["members"], *([results["teacher"]] if "teacher" in results else [])]
    for entry in entries:
        entry["test"]["calibration"] = bins(rng)
        entry["fidelity"] = {"agreement": 0.9, "kl": 0.123, "cka": 0.81, "cka_images": 512}
    if "comparison" in results:
        gains = rng.normal(0, 0.04, len(results["classes"]))
        width = rng.uniform(0.01, 0.08, len(gains))
        results["comparison"]["classes"] = [
            {"difference": g, "low": g - w, "high": g + w} for g, w in zip(gains.tolist(), width.tolist(), strict=True)
        ]
        levels = {
            "top1": {"value": 0.871, "low": 0.852, "high": 0.889},
            "nll": {"value": 0.4, "low": 0.35, "high": 0.5},
        }
        results["comparison"]["levels"] = dict.fromkeys(("teacher", "control", "kd"), levels)
    timed = {"threads": 2, "latency_ms": {"1": {"p50": 3.21, "p95": 4.0}, "32": {"p50": 61.0, "p95": 70.0}}}
    memory = {"peak_memory_bytes": {"1": 45_000_000, "32": 61_000_000}}
    networks = [
        {"role": r, "format": "torch", "parameters": 94_762, "macs": 21_480_000, "bytes": 386_112, **timed, **memory}
        for r in ("teacher", "student")
    ]
    if onnx:
        networks.append({"role": "student", "format": "onnx", "bytes": 401_000, **timed})
    results["phases"] = {"denoiser": phase_card()}
    results["efficiency"] = {"device": "cpu", "precision": "fp32", "threads": 2, "networks": networks}
    path.write_text(json.dumps(results, ensure_ascii=False), encoding="utf-8")
    write_pictures(folder, results, pictures)
    return results


def phase_card() -> dict[str, Any]:
    """The card of a phase without a student, checked."""
    buckets = ("0-100", "100-200", "200-400", "400-700", "700-1000")
    losses = dict(zip(buckets, (0.97, 0.81, 0.6, 0.43, 0.31), strict=True))
    measured = {"num_images": 600, "ae_r2": 0.953, "noise_loss": losses, "cosine_before": 0.78, "cosine_after": 0.86}
    check = {"branches": {"feat": measured}, "problems": [], "passed": True}
    return {"phase": "denoiser", "epochs": 72, "seconds": 81.2, "from_cache": False, "check": check}


def bins(rng: np.random.Generator) -> dict[str, Any]:
    """15 bins, the first two empty."""
    count = [0, 0, *rng.integers(1, 90, 13).tolist()]
    middle = [(b + 0.5) / 15 for b in range(15)]
    accuracy = np.clip(np.array(middle) - rng.uniform(0, 0.1, 15), 0, 1).tolist()
    empty = [c == 0 for c in count]
    return {
        "count": count,
        "confidence": [None if e else m for e, m in zip(empty, middle, strict=True)],
        "accuracy": [None if e else a for e, a in zip(empty, accuracy, strict=True)],
    }


def write_pictures(folder: Path, results: dict[str, Any], each: int) -> None:
    """``gallery.json`` with so many entries of each kind."""
    names = results["classes"]
    arms = ("student", "control", "teacher") if "comparison" in results else ("student",)
    kinds = ("gained", "lost", "mistakes", "disagreements") if len(arms) > 1 else ("mistakes",)
    pictures, found = {}, {}
    for place, kind in enumerate(kinds):
        found[kind] = []
        for k in range(each):
            key = f"{names[k % len(names)]}/{kind} {k}.png"
            pictures[key] = picture(place * each + k)
            answer = {"names": [names[(k + 1) % len(names)]], "certainty": 0.87, "right": k % 2 == 0, "seeds_right": 1}
            found[kind].append({"image": key, "truth": [names[k % len(names)]], "answers": dict.fromkeys(arms, answer)})
    content = {"format": 1, "side": 96, "num_seeds": 3, "kinds": found, "pictures": pictures}
    (folder / "gallery.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def picture(seed: int) -> str:
    """A small JPEG as a data address."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((96, 96)).save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
