"""Measure what a diagnosis needs, on training and validation images, and say what was seen and what to run next."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sapling import methods
from sapling.config import RunConfig
from sapling.data.loader import Dataset
from sapling.engine.plan import half_size_epochs
from sapling.errors import SaplingError
from sapling.evaluation.diagnosis import Finding, diagnose, not_looked_at
from sapling.evaluation.fidelity import agreement, kl_to_teacher
from sapling.evaluation.imitation import answers
from sapling.evaluation.measured import Imitation, Measured
from sapling.evaluation.metrics import classification_metrics
from sapling.models.tapped import TappedModel
from sapling.record import Run
from sapling.workflows.gate import NUM_TRAIN_IMAGES, answers_of, some
from sapling.workflows.openings import is_cut
from sapling.workflows.passes import Machine, load_trained, logits_of
from sapling.workflows.phases import phase_results
from sapling.workflows.remedies import (
    Remedy,
    from_elsewhere,
    next_command,
    remedy_for,
    softening_part,
    without_finding,
)
from sapling.workflows.teacher import CheckedTeacher

Part = Literal["train", "val"]
PARTS: tuple[Part, ...] = ("train", "val")
LAST_SHARE = 0.1  # of training: whether validation still rises there
FEWEST_EPOCHS = 5  # to speak of a curve


@dataclass(frozen=True, slots=True)
class Looked:
    """What was measured of a run's networks before its test split is opened.

    Attributes:
        teacher: its answers, see :class:`sapling.evaluation.imitation.Answers`.
        students: by arm and part.
        gap_error: see :class:`Measured`.
    """

    teacher: dict[str, Any]
    students: dict[str, dict[str, Imitation]]
    gap_error: float | None


def look(
    run: Run,
    data: Dataset,
    machine: Machine,
    teacher: CheckedTeacher,
    members: Mapping[str, Sequence[str]],
    measure: str,
) -> Looked:
    """Ask teacher and students about the same training and validation images, at most 2,000 of each.

    Args:
        run: its members are trained.
        data: never its test split.
        machine: where networks run, in the precision of training.
        teacher: of the run.
        members: names by role: ``control`` and ``distilled``.
        measure: of the verdict.
    """
    few = some(some(data, "train", NUM_TRAIN_IMAGES), "val", NUM_TRAIN_IMAGES)
    temperature, standardized = softening(run.config)
    live = teacher.live(machine, ())  # as it answers the students
    seen = {p: answers_of(live, few, p, run.config, machine) for p in PARTS}
    students: dict[str, dict[str, Imitation]] = {}
    alone = np.zeros(len(few.split.val))  # how often the control is right on each validation image
    for role, names in members.items():
        found: dict[str, list[tuple[float, float, float]]] = {p: [] for p in PARTS}
        for name in names:
            loaded, _ = load_trained(run.path("members", name), data.store.bands)
            for part in PARTS:
                logits, truth = _ask(loaded.model, loaded.preprocess, few, part, run.config, machine)
                score = classification_metrics(logits, truth, data.num_classes)[measure]
                how = {"multi_label": data.multi_label}
                found[part].append(
                    (score, _agreement(logits, seen[part][0], **how), kl_to_teacher(logits, seen[part][0], **how))
                )
                if role == "control" and part == "val" and not data.multi_label:
                    alone += (logits.argmax(1) == truth) / len(names)
        students[role] = {p: Imitation(*(float(v) for v in np.mean(found[p], axis=0))) for p in PARTS}
    error = None
    if not data.multi_label:
        gains = (seen["val"][0].argmax(1) == seen["val"][1]) - alone
        error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None
    measured: dict[str, Any] = {
        p: answers(*seen[p], temperature=temperature or 1.0, standardized=standardized) for p in PARTS
    }
    return Looked(measured, students, error)


def _agreement(logits: NDArray[np.floating], teacher: NDArray[np.floating], *, multi_label: bool) -> float:
    """As :func:`agreement`, but of single labels: what is held against it (``Answers.right``) counts these too."""
    if multi_label:
        return float(((logits >= 0) == (teacher >= 0)).mean())
    return agreement(logits, teacher)


def softening(config: RunConfig) -> tuple[float | None, bool]:
    """The method's temperature (None where it has none), and whether it standardises logits first.

    Of a combination: those of the part that softens the teacher's logits.
    """
    _, method, settings = softening_part(config)
    temperature = getattr(settings, "temperature", None) if method.softens_logits(settings) else None
    return (float(temperature) if temperature is not None else None), bool(getattr(settings, "standardize", False))


def _alpha(config: RunConfig) -> float | None:
    """The share of the labels, where the weights come from one; None where some were given one by one."""
    method, options = methods.load_class(config.method.name), config.method.options
    if options.get("alpha") is not None:
        return float(options["alpha"])
    parts = [own for _, _, own in methods.parts(config.method.name, **options)]
    is_own = options.get("weights") is not None or any(p.weights is not None for p in parts)
    if is_own or len(parts) > 1:  # the labels of a combination have the smallest weight of its parts
        return None
    return method.default_alpha


def diagnosis(
    run: Run,
    looked: Looked,
    card: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any],
    verdict: Mapping[str, Any],
    data: Dataset,
    *,
    caution: Callable[[Remedy], str] = lambda remedy: "",
) -> dict[str, Any]:
    """``results.json["diagnosis"]``: what was measured, and, where the verdict is not *better*, causes and next runs.

    Args:
        run: whose ``metrics.jsonl`` is read.
        looked: from :func:`look`.
        card: of the teacher.
        records: ``member.json`` of all members.
        manifest: of the run.
        verdict: of the run.
        data: of the run; no image is read.
        caution: what stands beside a proposed run; empty for nothing.
    """
    control = [r for r in records if r["arm"] == "control"]
    taught = [r for r in records if r["arm"] != "control"]
    rows = _rows(run)
    measure = str(verdict["measure"])
    temperature, standardized = softening(run.config)
    steps = int(manifest["steps_per_epoch"])
    small = half_size_epochs(run.config.train.half_size_share, int(manifest["epochs"]), steps)
    measured = Measured(
        outcome=str(verdict["outcome"]),
        measure=measure,
        detectable=verdict["detectable"]["now"],
        num_seeds=len(manifest["seeds"]),
        epochs=int(manifest["epochs"]),
        steps=int(manifest["epochs"]) * steps,
        num_classes=data.num_classes,
        temperature=temperature,
        standardized=standardized,
        weights=dict(taught[0]["weights"]),
        own_terms=methods.load_class(run.config.method.name).own_terms,
        alpha=_alpha(run.config),
        teacher_train=looked.teacher["train"],
        teacher_val=looked.teacher["val"],
        students={role: dict(parts) for role, parts in looked.students.items()},
        gap=float(card["val"][measure]) - float(np.mean([r["val"][measure] for r in control])),
        gap_error=looked.gap_error,
        rising=_rising(rows, [r["name"] for r in records], int(manifest["epochs"]), small),
        num_val=int(card["val"]["num_images"]),
        gradients={
            role: found
            for role, group in (("control", control), ("distilled", taught))
            if (found := _pulls(rows, [r["name"] for r in group]))
        },
        memorised=bool(card.get("memorised")),
        multi_label=data.multi_label,
        img_size=manifest.get("img_size"),
        acceptance=acceptance_of(run),
        endless_seeds=verdict["detectable"]["endless_seeds"],
        is_cut=is_cut(run.config, data),
        is_foreign=from_elsewhere(card),
    )
    result: dict[str, Any] = {"measured": measured.as_dict(), "not_looked_at": not_looked_at(measured)}
    is_taught = methods.requires(run.config.method.name, **run.config.method.options).teacher
    if not is_taught:
        result["not_looked_at"].append(f"what a teacher does (method {run.config.method.name} has none)")
    if measured.outcome != "better":
        findings = [f for f in diagnose(measured) if is_taught or f.name == "steps"]
        result["findings"] = [_entry(f, remedy_for(f, measured, run.config), run, caution) for f in findings]
        if not findings:
            result["next"] = _entry(None, without_finding(measured, run.config), run, caution)
    return result


def acceptance_of(run: Run) -> dict[str, Any] | None:
    """What the phases before the students said of themselves: the first check that failed, or the first one."""
    checks = [card["check"] for card in phase_results(run).values() if "passed" in card.get("check", {})]
    chosen = next((check for check in checks if not check["passed"]), checks[0] if checks else None)
    return None if chosen is None else {**chosen, "detail": " ".join(chosen.get("problems", [])).rstrip(".")}


def _entry(finding: Finding | None, remedy: Remedy, run: Run, caution: Callable[[Remedy], str]) -> dict[str, Any]:
    try:
        command = next_command(remedy, run.config, run.folder, finding.name.replace("_", "-") if finding else "next")
    except SaplingError:  # a method of one's own may lack the setting
        command = None
    found = {k: getattr(finding, k) for k in ("name", "level", "title", "measured", "why")} if finding else {}
    # what only looks at the data opens no test split
    text = remedy.text if remedy.command is not None else f"{remedy.text} {caution(remedy)}".rstrip()
    return {**found, "remedy": text, "changes": dict(remedy.changes), "command": command}


def _ask(
    model: torch.nn.Module, preprocess: Any, data: Dataset, part: Part, config: RunConfig, machine: Machine
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    tapped = TappedModel(model, preprocess, bands=data.store.bands)
    return logits_of(tapped.to(machine.device).to(memory_format=torch.channels_last), data, part, config, machine)


def _rows(run: Run) -> list[dict[str, Any]]:
    path, rows = run.path("metrics.jsonl"), []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a killed run may have cut a line
            rows.append(json.loads(line))
    return rows


def _pulls(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Mean norm of each term's gradient over all measured steps of these members, but for epochs that overflowed."""
    sums: dict[str, float] = {}
    steps = 0
    for row in rows:
        seen = row.get("gradients")
        if row.get("member") in names and isinstance(seen, Mapping) and all(map(math.isfinite, seen.values())):
            count = int(seen["steps"])
            steps += count
            for term in seen.keys() - {"steps"}:
                sums[term] = sums.get(term, 0.0) + count * float(seen[term])
    return {term: total / steps for term, total in sorted(sums.items())}


def _rising(rows: Sequence[Mapping[str, Any]], names: Sequence[str], epochs: int, small: int) -> float | None:
    """Gain on validation over the last tenth of training, mean over members; None with too few epochs to tell.

    ``small`` epochs, the first, had images of half the side: getting used to whole ones is no sign of a short training.
    """
    last = epochs - 1
    before = last - max(1, round(LAST_SHARE * epochs))
    if epochs < FEWEST_EPOCHS or before < small:
        return None
    curve: dict[tuple[str, int], float] = {}
    for row in rows:
        if row.get("member") in names and isinstance(row.get("val"), Mapping):
            shown = row["val"].get("map", row["val"].get("top1"))
            if shown is not None:
                curve[str(row["member"]), int(row["epoch"])] = float(shown)
    gains = [curve[n, last] - curve[n, before] for n in names if (n, last) in curve and (n, before) in curve]
    return float(np.mean(gains)) if gains else None


def log_line(found: Mapping[str, Any]) -> str | None:
    """The first cause in one line for ``log.txt``; None where the verdict is *better*."""
    findings = found.get("findings")
    if findings is None:
        return None
    if not findings:
        return "diagnosis: nothing wrong was found"
    return f"diagnosis: {findings[0]['title']}. {findings[0]['measured']}"
