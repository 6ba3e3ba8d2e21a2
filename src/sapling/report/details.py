"""Sections on what was used and what it cost: data, files, time, settings, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from sapling.report import wording
from sapling.report.folder import RunRecord, block, command_of, inner, listing, number
from sapling.report.summary import ClassTable, Summary
from sapling.report.unfinished import given_path, task_of

NEARLY_EQUAL = 1.15  # largest to smallest class: below it a ratio says nothing
_SETTINGS = {
    "student": "Student",
    "teacher": "Teacher",
    "method": "Method",
    "method_config": "Method settings",
    "taught": "Students hear the teacher",
    "weights": "Weights of the terms",
    "seeds": "Seeds",
    "epochs": "Epochs",
    "steps_per_epoch": "Steps per epoch",
    "batch_size": "Batch size",
    "optimizer": "Optimiser",
    "lr": "Learning rate",
    "weight_decay": "Weight decay",
    "schedule": "Schedule",
    "warmup_epochs": "Warm-up epochs",
    "ema_decay": "Decay of averaged weights",
    "imbalance": "Treatment of rare classes",
    "imbalance_power": "Power of that treatment",
    "precision": "Precision",
    "device": "Device",
    "threads": "Threads",
    "views": "Augmentation",
    "view_options": "Changed in the augmentation",
    "mix": "Mixing of images",
    "view_seed": "Seed of the augmentation",
    "num_views": "Different views per image",
    "answers": "Kept answers of the teacher",
    "img_size": "Image size",
    "selection": "Weights that were kept",
    "tuning_trials": "Tuning trials",
    "split": "Images in the split",
    "data": "Data",
}
_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_CARD = {
    "source": "Source",
    "location": "Source",
    "kind": "Kind",
    "num_images": "Images",
    "num_classes": "Classes",
    "native_size": "Short side of the images (median)",
    "img_size": "Size the models see",
    "store_size": "Size in the store",
    "fingerprint": "Fingerprint",
    "split_fingerprint": "Fingerprint of the split",
}


def data_section(summary: Summary) -> dict[str, Any] | None:
    """The data card."""
    card = summary.record.data
    split = block(summary.manifest, "split") or block(card, "split")
    data = block(summary.manifest, "data")
    if not card and not split and not data:
        return None
    rows = [
        (_CARD[k], _value(k, card[k]) + (" pixels" if k.endswith("_size") else ""))
        for k in _CARD
        if isinstance(card.get(k), str | int | float) and card[k]
    ]
    views = inner(card, "views", "name") or summary.manifest.get("views")
    if views:
        rows.append(("Augmentation", wording.clean(views)))
    if data.get("source") and not card.get("source") and not card.get("location"):
        rows.append(("Source", wording.clean(data["source"])))
    if summary.classes and "num_classes" not in card:
        rows.append(("Classes", wording.count(len(summary.classes))))
    sizes = [(n, number(split.get(k))) for n, k in (("training", "train"), ("validation", "val"), ("test", "test"))]
    splits = [{"name": n, "count": wording.count(v), "weight": v} for n, v in sizes if v]
    said = {wording.sentence(w) for w in listing(summary.results, "warnings")}
    notes = [n for n in map(wording.sentence, listing(card, "notes")) if n not in said]
    return {"rows": rows, "splits": splits, "notes": notes}


def balance(table: ClassTable | None) -> str:
    """A sentence on how many training images the classes have."""
    known = [(n, c) for c, n in zip(table.names, table.train, strict=True) if n] if table else []
    if len(known) < 2:
        return ""
    (low, poor), (high, rich) = min(known), max(known)
    if low == high:
        return f"Every class has {low:,} training images."
    if high <= NEARLY_EQUAL * low:
        return f"The classes are nearly equal in size: from {low:,} to {high:,} training images."
    return (
        f"The largest class ({wording.clean(rich)}) has {high:,} training images, the smallest "
        f"({wording.clean(poor)}) has {low:,}: {high / low:.1f} to 1."
    )


def deploy_section(summary: Summary) -> dict[str, Any] | None:
    """The file to use: size, speed, whether it answers as the trained network."""
    onnx, shipped = block(summary.results, "deploy", "onnx"), block(summary.results, "shipped")
    if not onnx and not shipped:
        return None
    rows = []
    if shipped:
        rows.append(("Shipped student", wording.clean(shipped.get("member") or wording.MISSING)))
        if shipped.get("reason"):
            rows.append(("Why this one", wording.clean(shipped["reason"])))
    if onnx:
        rows.append(("File", wording.clean(onnx.get("path") or wording.MISSING)))
        rows.append(("Size", wording.size(number(onnx.get("bytes")))))
        difference, images = number(onnx.get("max_abs_logit_difference")), number(onnx.get("images"))
        if difference is not None:
            checked = f" on {wording.count(images)} images" if images else ""
            rows.append(("Largest difference to the trained network", f"{difference:.1e} in a logit{checked}"))
        if number(onnx.get("threads")):
            rows.append(("Threads", wording.count(number(onnx.get("threads")))))
    speeds = []
    for batch, value in block(onnx, "latency_ms").items():
        p50, p95 = number(inner(value, "p50")), number(inner(value, "p95"))
        size, mean = int(batch) if str(batch).isdigit() else 0, number(inner(value, "mean"))
        rate = wording.count(1000 * size / mean) if size and mean else wording.MISSING
        speeds.append(
            {
                "batch": wording.clean(batch),
                "p50": wording.milliseconds(p50),
                "p95": wording.milliseconds(p95),
                "rate": rate,
            }
        )
    return {"rows": rows, "speeds": speeds}


def cost_section(summary: Summary) -> dict[str, Any] | None:
    """Where the time went."""
    cost = block(summary.results, "cost")
    total = number(cost.get("total_seconds"))
    names = {
        "teacher_seconds": "Training the teacher",
        "teacher_forward_seconds": "The teacher's answers",
        "phase_seconds": "Phases before the students",
        "student_seconds": "Training the students",
        "other_seconds": "Images and evaluation",
    }
    known = [(name, v) for key, name in names.items() if (v := number(cost.get(key)))]
    if total is None and not known:
        return None
    whole = max(total or 0.0, sum(v for _, v in known), 1e-9)
    rest = whole - sum(v for _, v in known)
    if total is not None and rest > 0.01 * whole and known:
        known.append(("Everything else", rest))
    bars = [{"name": n, "time": wording.duration(v), "percent": round(100 * v / whole, 2)} for n, v in known]
    manifest = summary.manifest
    epochs, steps = number(manifest.get("epochs")), number(manifest.get("steps_per_epoch"))
    note = ""
    if epochs and steps:
        note = f"Every student was trained for {wording.plural(int(epochs), 'epoch')}, {int(epochs * steps):,} steps."
    return {"bars": bars, "total": wording.duration(total if total is not None else whole), "note": note}


def fairness(summary: Summary) -> list[str]:
    """What control and distilled student had in common."""
    manifest = summary.manifest
    if not summary.is_comparison or not manifest:
        return []
    student = wording.model_name(manifest.get("student") or "the same network")
    epochs = number(manifest.get("epochs"))
    texts = [f"Same network ({student}), and for each seed the same first weights."]
    texts.append("Same images in the same order, changed in the same way, in the same pass.")
    if epochs:
        texts.append(f"Same {wording.plural(int(epochs), 'epoch')}, optimiser and learning rate.")
    trials = block(manifest, "tuning_trials")
    first, second = number(trials.get("control")), number(trials.get("method"))
    if first is not None and second is not None:
        equal = "No tuning trials were declared, for either."
        equal = f"Same number of declared tuning trials ({int(first)})." if first else equal
        texts.append(
            equal if first == second else f"Not the same tuning: control {int(first)}, distilled {int(second)} trials."
        )
    if manifest.get("selection"):
        texts.append(f"Weights that were kept: {wording.clean(manifest['selection'])}, for both.")
    texts.append(looks_at_test(block(summary.results, "test_opened")))
    return texts


def looks_at_test(opened: Mapping[str, Any]) -> str:
    """How often the test images were looked at.

    Args:
        opened: ``results.json["test_opened"]``; empty for runs that did not record it.
    """
    here, before = (number(opened.get(k)) for k in ("this_run", "before"))
    if here is None or before is None or here < 1 or before < 0:
        why = "the record in the cache folder could not be read or written" if opened else "runs kept no record then"
        return f"The test images were opened at the end of this run. How often before is not known: {why}."
    text = "The test images were opened once, at the end."
    if here > 1:
        text = f"The test images were opened {int(here):,} times, at the end: the run was broken off while it judged."
    if before < 1:
        return f"{text} No earlier look at this very set (by names and labels) is recorded on this machine."
    runs = f"{_NUMBERS[int(before)] if before < len(_NUMBERS) else f'{int(before):,}'} earlier run{'s' * (before > 1)}"
    return (
        f"{text} {runs} on this machine looked at the same test images (by names and labels): the more often one "
        "looks, the more easily luck looks like a gain."
    )


def setting_rows(summary: Summary) -> list[tuple[str, str]]:
    """The manifest as names and values."""
    known = [(k, v) for k, v in summary.manifest.items() if v not in (None, "", {}, [])]
    return [(_SETTINGS.get(k, wording.clean(k).replace("_", " ").capitalize()), _value(k, v)) for k, v in known]


def environment_rows(record: RunRecord) -> list[tuple[str, str]]:
    """The environment, flattened."""
    rows: list[tuple[str, str]] = []
    for key, value in record.environment.items():
        if isinstance(value, Mapping):
            rows += [(wording.clean(k), _value(k, v)) for k, v in value.items()]
        else:
            rows.append((wording.clean(key).capitalize(), _value(key, value)))
    return rows


def commands(summary: Summary) -> list[dict[str, str]]:
    """What to type to use the student and to repeat the run."""
    run, task = given_path(summary.record), task_of(summary.record)
    quoted = shlex.quote(run)
    found = []
    if block(summary.results, "deploy", "onnx"):
        found.append(("Use the student on new images", f"sapling predict {quoted} IMAGES"))
    if block(summary.results, "shipped"):
        load = f'import sapling.models, timm\nmodel = timm.create_model("local-dir:{run}/student", pretrained=True)'
        found.append(("Load it in Python (without pretrained=True the weights are random)", load))
    if made := command_of(summary.results):
        found.append(("The command that made this run", made))
    if summary.record.config:
        again = shlex.quote(f"{run}-again" if summary.record.folder.name.strip(".") else "again")
        again = f"sapling {task} --config settings.yaml --output {again}"
        found.append(("Repeat it: save the settings file below as settings.yaml, then", again))
    found.append(("Make this page again", f"sapling report {quoted}"))
    return [{"what": what, "command": command} for what, command in found]


def config_text(record: RunRecord) -> str:
    """``config.yaml`` without the stamp that belongs to its folder; the teacher that was chosen stands as a comment."""
    text = re.sub(r"(?m)^fingerprint: .*\n?", "", record.config).strip()
    if not (name := record.teacher.get("model")):
        return text
    chosen = f"  # {wording.clean(name)} was chosen"
    return re.sub(r"(?m)^(teacher:\n(?:  .*\n)*?  model: auto)$", lambda found: found[1] + chosen, text)


def short_code(value: Any) -> str:
    """A hash, short enough to compare by eye."""
    text = wording.clean(value) if value else wording.MISSING
    return text if len(text) <= 16 else text[:16] + "…"


def _value(key: str, value: Any) -> str:
    """Any setting as text."""
    if key == "num_views" and value == 0:
        return "a fresh one in every epoch"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{wording.clean(k)} {_value(k, v)}" for k, v in value.items()) or wording.MISSING
    if isinstance(value, list | tuple):
        return ", ".join(_value(key, v) for v in value) or wording.MISSING
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if "fingerprint" in key or "sha256" in key:
        return short_code(value)
    return wording.clean(value) if value is not None else wording.MISSING
