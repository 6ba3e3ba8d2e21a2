"""A run folder as the workflow leaves it, made from a seed, with as many classes and seeds as a test wants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

HOSTILE = (
    "<script>alert('class')</script>",
    "黄山栾树",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{a}{b}$ & _x_ {{ 7*7 }}",
    "Ligustrum lucidum, a very long name that no axis can hold",
    "</text></svg><b>bold",
    "شجرة\u202eevil",
    "name with\nline\tbreak",
    "",
    "C'est l'été --> ]]>",
)
TREES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
    "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip


def class_names(count: int, *, hostile: bool = False) -> list[str]:
    base = HOSTILE if hostile else TREES
    if count == 2 and not hostile:
        return ["healthy", "damaged"]
    return [base[k] if k < len(base) else f"species {k:03d}" for k in range(count)]


def make_run(
    folder: Path,
    *,
    classes: int = 10,
    seeds: int = 3,
    outcome: str = "better",
    hostile: bool = False,
    gate: str = "passed",
    task: str = "distill",
    epochs: int = 30,
    per_class: int = 120,
    seed: int = 0,
) -> Path:
    """Write results.json, metrics.jsonl, data.json, environment.json and config.yaml."""
    rng = np.random.default_rng(seed)
    names = class_names(classes, hostile=hostile)
    support = np.maximum(rng.poisson(per_class, classes), 3)
    skill = {"better": 0.024, "worse": -0.02, "no difference shown": 0.004}[outcome]
    hardness = rng.normal(0, 0.05, classes)
    gains = rng.normal(0, 0.035, classes)
    gains -= gains.mean()
    twins = (np.arange(classes) + 1 + rng.integers(0, max(classes - 1, 1))) % classes

    def metrics(top1: float, extra: np.ndarray) -> dict:
        recall = np.clip(top1 + hardness + extra + rng.normal(0, 0.012, classes), 0.05, 0.995)
        confusion = np.zeros((classes, classes), dtype=int)
        for k in range(classes):
            share = np.full(classes, 0.3 / max(classes - 1, 1))
            share[twins[k]] += 0.7
            share[k] = 0
            share = (1 - recall[k]) * share / max(share.sum(), 1e-9)
            share[k] = 1 - share.sum()
            confusion[k] = rng.multinomial(support[k], share)
        found = np.diag(confusion) / support
        right = float(np.trace(confusion) / support.sum())
        return {
            "top1": right,
            "top5": min(1.0, right + 0.06) if classes > 5 else None,
            "macro_f1": float(found.mean()) - 0.003,
            "macro_precision": float(found.mean()) + 0.002,
            "macro_recall": float(found.mean()),
            "nll": 0.9 * (1.1 - right) * 3,
            "ece": float(0.02 + 0.02 * rng.random()),
            "per_class_recall": found.tolist(),
            "confusion": confusion.tolist(),
            "num_images": int(support.sum()),
        }

    arms = {"model": 0.9} if task == "train" else {"control": 0.872, "kd": 0.872 + skill}
    members = []
    for s in range(1 if task == "train" else seeds):
        drift = rng.normal(0, 0.004)
        for arm, level in arms.items():
            extra = gains if arm == "kd" else np.zeros(classes)
            members.append({
                "name": f"{arm}-s{s}", "arm": arm, "seed": s, "parameters": 94_762, "macs": 21_480_000,
                "val": metrics(level + drift, extra), "test": metrics(level + drift, extra),
                "seconds": 212.5 + s, "agreement": None if arm == "model" else 0.88 + (0.03 if arm == "kd" else 0),
            })  # fmt: skip
    results = {
        "format": 1, "name": folder.name, "created": "2026-03-08T09:12:44Z", "finished": "2026-03-08T09:41:10Z",
        "sapling_version": "0.1.0", "task": task,
        "manifest": {
            "student": "sapling_cnn3", "teacher": "resnet18", "method": "kd" if task == "distill" else "none",
            "method_config": {"temperature": 4.0, "standardize": False}, "weights": {"ce": 0.1, "kd": 0.9},
            "seeds": list(range(seeds)), "epochs": epochs, "steps_per_epoch": 295, "batch_size": 64,
            "optimizer": "sgd", "lr": 0.05, "weight_decay": 0.0005, "schedule": "cosine", "warmup_epochs": 1.0,
            "precision": "fp32", "threads": 2, "views": "aerial", "view_seed": 0, "num_views": 0, "img_size": 64,
            "selection": "last epoch", "tuning_trials": {"control": 0, "method": 0},
            "split": {"train": 18900, "val": 4050, "test": int(support.sum()), "fingerprint": "9f" * 32},
            "data": {"source": "eurosat_rgb.zip", "fingerprint": "ab" * 32},
        },
        "classes": names,
        "members": members,
        "shipped": {"member": members[-1]["name"], "arm": members[-1]["arm"],
                    "reason": "best on validation among the distilled students"},
        "deploy": {"onnx": {"path": "student/model.onnx", "bytes": 386_112, "threads": 2,
                            "latency_ms": {"1": {"p50": 0.412, "p95": 0.533}, "32": {"p50": 9.81, "p95": 11.2}},
                            "images": 64, "max_abs_logit_difference": 3.4e-6}},
        "command": "sapling distill eurosat_rgb.zip --teacher resnet18 --student cnn3 --seeds 3",
        "cost": {"teacher_seconds": 604.0, "teacher_forward_seconds": 71.5, "student_seconds": 1012.0,
                 "other_seconds": 18.5, "total_seconds": 1706.0},
        "warnings": [],
    }  # fmt: skip
    if task == "distill":
        results["teacher"] = _teacher(metrics(0.93, gains / 2), gate)
        results["comparison"] = _comparison(members, outcome, seeds, int(support.sum()))
    if gate != "passed":
        results["warnings"].append("One class has fewer than 10 validation images; its recall is a rough guess.")
    folder.mkdir(parents=True, exist_ok=True)
    _dump(folder / "results.json", results)
    _dump(folder / "data.json", _card(names, support, rng))
    _dump(folder / "environment.json", {
        "sapling": "0.1.0", "python": "3.11.9", "system": "Linux-6.1", "processor": "Xeon", "cores": 2,
        "libraries": {"torch": "2.15.0", "timm": "1.0.31"},
    })  # fmt: skip
    (folder / "config.yaml").write_text(
        "data:\n  source: eurosat_rgb.zip\nstudent:\n  model: cnn3\nmethod:\n  name: kd\nfingerprint: distill:abc\n"
    )
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for entry in history(arms, seeds, epochs, rng):
            file.write(json.dumps(entry) + "\n")
    return folder


def history(arms: dict[str, float], seeds: int, epochs: int, rng: np.random.Generator) -> list[dict]:
    """Curves that rise and fall as real ones do."""
    found = []
    for s in range(seeds):
        for arm, level in arms.items():
            own = rng.normal(0, 0.012)
            for epoch in range(epochs):
                rise = 1 - np.exp(-4.2 * (epoch + 1) / epochs)
                noise = rng.normal(0, 0.012 * (1 - epoch / epochs) + 0.001)
                ce = 2.2 * np.exp(-3 * epoch / epochs) + 0.25 + own + (0.12 if arm == "kd" else 0)
                terms = {"ce": ce} if arm != "kd" else {"ce": ce, "kd": 5 * np.exp(-2.5 * epoch / epochs) + 0.6}
                found.append({
                    "pass": f"seed{s}", "member": f"{arm}-s{s}", "epoch": epoch, "epochs": epochs, "lr": 0.05,
                    "train": {"loss": sum(terms.values()), **terms},
                    "gradients": {**{t: 0.4 * v ** 2 for t, v in terms.items()}, "total": 9.0, "steps": 4},
                    "val": {"top1": float((level + own) * rise + noise),
                            "nll": float(0.35 + 1.9 * (1 - rise) - 2 * noise - own)},
                    "seconds": 7.0,
                })  # fmt: skip
    return found


def _teacher(metrics: dict, gate: str) -> dict:
    checks = [
        {"name": "class count", "passed": True, "detail": "the head has as many outputs as the data has classes"},
        {"name": "class order", "passed": True, "detail": "the classes stand in the order of the data"},
        {"name": "better than chance", "passed": gate == "passed",
         "detail": "validation accuracy 93.1 %, chance 10.0 %" if gate == "passed"
         else "validation accuracy 11.2 % (lower bound 9.8 %), chance 10.0 %"},
    ]  # fmt: skip
    return {
        "model": "resnet18", "origin": "trained here", "folder": "teacher", "parameters": 11_181_642,
        "macs": 148_500_000, "val": metrics, "test": metrics, "seconds": 604.0, "sha256": "0c1d" * 16,
        "gate": {"passed": gate == "passed", "overridden": gate == "overridden", "checks": checks},
    }  # fmt: skip


def _comparison(members: list[dict], outcome: str, seeds: int, images: int) -> dict:
    top1 = {(m["arm"], m["seed"]): m["test"]["top1"] for m in members}
    d = np.array([top1["kd", s] - top1["control", s] for s in range(seeds)])
    mean = float(d.mean())
    half = max(0.6 * abs(mean), 0.004) if outcome != "no difference shown" else abs(mean) + 0.007
    low, high = mean - half, mean + half
    span = (f"{100 * mean:+.1f} percentage points of accuracy (95 % interval {100 * low:+.1f} to {100 * high:+.1f}; "
            f"{seeds} seeds, {images:,} test images)")  # fmt: skip
    text = f"The distilled student is {outcome} than the same student trained alone: {span}."
    if outcome == "no difference shown":
        text = f"No difference shown: {span}; with {seeds} seeds this test can show differences above 1.9 points."
    verdict = {
        "outcome": outcome, "measure": "top1", "difference": mean, "low": low, "high": high, "confidence": 0.95,
        "p_value": 0.01, "standard_error": half / 2, "degrees_of_freedom": 8.0, "num_seeds": seeds,
        "num_images": images, "num_groups": images,
        "interval_from": "images of one pair" if seeds == 1 else "crossed seeds and images",
        "seed_differences": d.tolist(),
        "detectable": {"now": 0.019, "twice_the_seeds": 0.012, "endless_seeds": 0.008}, "statement": text,
        "scope": "Holds for this teacher and this split; other teachers or splits may give another answer. The "
        "interval covers other seeds and other test images of the same kind.",
    }  # fmt: skip
    intervals = {
        k: {"difference": mean * f, "low": low * f, "high": high * f}
        for k, f in (("macro_f1", 1.0), ("macro_recall", 1.05), ("nll", -3.0), ("ece", 0.2))
    }
    for v in intervals.values():
        v["low"], v["high"] = sorted((v["low"], v["high"]))
    return {"measure": "top1", "verdict": verdict, "intervals": intervals}


def _card(names: list[str], support: np.ndarray, rng: np.random.Generator) -> dict:
    train = (support * 4 + rng.integers(0, 30, len(support))).tolist()
    return {
        "source": "eurosat_rgb.zip", "num_images": int(sum(train) + support.sum()), "native_size": 64,
        "store_size": 64, "img_size": 64, "kind": "zip", "views": {"name": "aerial", "flip": False}, "classes": names,
        "counts": {"train": train, "val": support.tolist(), "test": support.tolist()},
        "notes": ["The source has no split: it was cut here, stratified by class, with seed 0."],
    }  # fmt: skip


def _dump(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
