"""Turn a run's raw results into what the page shows: arms, means and ranges, per-class figures, cells of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapling.report import wording
from sapling.report.folder import RunRecord, block, listing, number, numbers

Floats = NDArray[np.float64]
METHOD_COLOURS = ("method", "method2", "method3", "method4")


@dataclass(slots=True)
class Arm:
    """One column of the comparison: the teacher, the control, or a distilled student over its seeds."""

    key: str
    name: str
    colour: str
    members: list[dict[str, Any]] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        """The metric of every member that has it, on the test images."""
        found = (_measured(m, metric) for m in self.members)
        return [v for v in found if v is not None]

    def mean(self, metric: str) -> float | None:
        """Mean over seeds."""
        values = self.values(metric)
        return float(np.mean(values)) if values else None

    def first(self, key: str) -> float | None:
        """A figure that all members share, such as ``parameters``."""
        found = (number(m.get(key)) for m in self.members)
        return next((v for v in found if v is not None), None)

    def recall(self, num_classes: int) -> Floats:
        """``[seeds, K]`` recall per class; NaN for a class without test images."""
        rows = [_recall(m, num_classes) for m in self.members]
        kept = [r for r in rows if r is not None]
        return np.stack(kept) if kept else np.empty((0, num_classes))

    def confusion(self, num_classes: int) -> Floats | None:
        """``[K, K]`` mean over seeds of the row shares; NaN rows for classes without test images."""
        found = [_confusion(m, num_classes) for m in self.members]
        kept = [c for c in found if c is not None]
        if not kept:
            return None
        total = np.sum(kept, axis=0)
        sums = total.sum(axis=1, keepdims=True)
        shares: Floats = np.where(sums > 0, total / np.maximum(sums, 1), np.nan)
        return shares

    def support(self, num_classes: int) -> Floats | None:
        """``[K]`` test images per class."""
        for member in self.members:
            counts = _confusion(member, num_classes)
            if counts is not None:
                return np.asarray(counts.sum(axis=1), dtype=np.float64)
        return None


@dataclass(slots=True)
class Summary:
    """Everything that sections of the page share."""

    record: RunRecord
    classes: list[str]
    teacher: Arm | None
    control: Arm | None
    methods: list[Arm]
    model: Arm | None

    @property
    def results(self) -> dict[str, Any]:
        """``results.json``."""
        return self.record.results

    @property
    def manifest(self) -> dict[str, Any]:
        """The frozen settings."""
        return block(self.results, "manifest")

    @property
    def students(self) -> list[Arm]:
        """Control and distilled students, in this order; or the one model of plain training."""
        arms = [self.control, *self.methods, self.model]
        return [a for a in arms if a is not None]

    @property
    def columns(self) -> list[Arm]:
        """Teacher, control, distilled."""
        return ([self.teacher] if self.teacher else []) + self.students

    @property
    def method(self) -> Arm | None:
        """The distilled student that the verdict is about."""
        wanted = self.manifest.get("method")
        return next((a for a in self.methods if a.key == wanted), self.methods[0] if self.methods else None)

    @property
    def is_comparison(self) -> bool:
        """Whether there is a control and a distilled student."""
        return self.control is not None and self.method is not None

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict, or empty."""
        return block(self.results, "comparison", "verdict")

    @property
    def measure(self) -> str:
        """The measure that was declared beforehand."""
        found = self.verdict.get("measure") or block(self.results, "comparison").get("measure")
        return found if found in wording.MEASURES else "map" if self.multi_label else "top1"

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.results.get("multi_label") is True

    @property
    def seeds(self) -> list[Any]:
        """Seeds of the run."""
        found = listing(self.manifest, "seeds")
        passes = {name for e in self.record.history if not is_teacher(name := str(e.get("pass")))}
        return found or sorted({str(m.get("seed")) for a in self.students for m in a.members}) or sorted(passes)


def summarise(record: RunRecord) -> Summary:
    """Sort the members of a run into arms."""
    results = record.results
    arms: dict[str, Arm] = {}
    for member in (m for m in listing(results, "members") if isinstance(m, dict)):
        key = str(member.get("arm", "model"))
        arms.setdefault(key, Arm(key, wording.arm_name(key), "method")).members.append(member)
    control, model = arms.pop("control", None), arms.pop("model", None)
    methods = list(arms.values())
    wanted = block(results, "manifest").get("method")
    methods.sort(key=lambda a: a.key != wanted)
    for place, arm in enumerate(methods):
        arm.colour = METHOD_COLOURS[place % len(METHOD_COLOURS)]
        if len(methods) == 1:
            arm.name = "Distilled"
    if control:
        control.colour = "control"
    card = block(results, "teacher")
    teacher = Arm("teacher", "Teacher", "teacher", [card]) if card else None
    return Summary(record, _class_names(record), teacher, control, methods, model)


def is_teacher(name: str) -> bool:
    """Whether a pass or member is a teacher's: ``teacher``, or one of several, ``teacher-0``."""
    return name == "teacher" or (name.startswith("teacher-") and name.removeprefix("teacher-").isdecimal())


def metric_rows(summary: Summary) -> list[dict[str, Any]]:
    """Rows of the results table: name, note, one cell per column, and the difference with its interval."""
    rows = []
    for key, name, note, kind, _ in wording.ROWS:
        cells = [_cell(arm, key, kind) for arm in summary.columns]
        if any(cell["value"] != wording.MISSING for cell in cells):
            rows.append({"key": key, "name": name, "note": note, "cells": cells, "gain": _gain(summary, key, kind)})
    for key, name, note in (
        ("parameters", "Parameters", "numbers that were learned"),
        ("macs", "MACs", "arithmetic for one image"),
    ):
        values = [arm.first(key) for arm in summary.columns]
        if any(v is not None for v in values):
            cells = [{"value": wording.amount(v), "spread": ""} for v in values]
            rows.append({"key": key, "name": name, "note": note, "cells": cells, "gain": None})
    return rows


@dataclass(slots=True)
class ClassTable:
    """Per-class figures, each ``[K]``; None where the run does not have them.

    They are recalls, or average precisions where an image may have several labels; ``measured`` says which.
    """

    names: list[str]
    train: list[int | None]
    test: list[int | None]
    teacher: Floats | None
    control: Floats | None
    method: Floats | None
    gain: Floats | None
    gain_low: Floats | None
    gain_high: Floats | None
    model: Floats | None
    measured: str = "recall"

    @property
    def order(self) -> list[int]:
        """Classes with a gain, from the largest gain to the largest loss."""
        if self.gain is None:
            return []
        gain = self.gain
        return sorted((k for k in range(len(self.names)) if np.isfinite(gain[k])), key=lambda k: -gain[k])


def class_table(summary: Summary) -> ClassTable | None:
    """Recall per class for every column, and the gain with its range over seeds."""
    size = len(summary.classes)
    if not size:
        return None
    mean = {arm.key: _mean_rows(arm.recall(size)) for arm in summary.columns}
    gain = low = high = None
    if summary.control and summary.method:
        first, second = _paired(summary.control, summary.method, size)
        if len(first):
            differences = second - first
            gain, low, high = _mean_rows(differences), differences.min(axis=0), differences.max(axis=0)
    if all(v is None for v in mean.values()):
        return None
    support = next((s for s in (a.support(size) for a in summary.columns) if s is not None), None)
    test = _counts(summary, "test")
    if support is not None and all(c is None for c in test):
        test = [round(v) for v in support]
    return ClassTable(
        summary.classes,
        _counts(summary, "train"),
        test,
        mean.get("teacher"),
        mean.get("control"),
        mean.get(summary.method.key) if summary.method else None,
        gain,
        low,
        high,
        mean.get("model"),
        "average precision" if summary.multi_label else "recall",
    )


def confusion_changes(control: Floats, method: Floats, classes: Sequence[str], limit: int = 8) -> list[dict[str, Any]]:
    """The mix-ups that changed most: ``true`` taken for ``answer``, share of control and distilled student."""
    change = np.nan_to_num(method - control)
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:limit]
    rows = []
    for true, answer in (divmod(int(i), len(classes)) for i in order):
        if abs(change[true, answer]) < 0.0005:
            break
        rows.append(
            {
                "true": wording.clean(classes[true]),
                "answer": wording.clean(classes[answer]),
                "control": wording.share(control[true, answer]),
                "method": wording.share(method[true, answer]),
                "gain": wording.signed(change[true, answer]),
                "better": bool(change[true, answer] < 0),
            }
        )
    return rows


def _measured(member: dict[str, Any], metric: str) -> float | None:
    if metric == "agreement":
        return number(member.get("agreement"))
    if metric in ("kl", "cka"):
        return number(block(member, "fidelity").get(metric))
    content = block(member, "test")
    if metric == "worst_class_recall":
        return min((v for v in numbers(content.get("per_class_recall")) if 0 <= v <= 1), default=None)
    return number(content.get(metric))


def _cell(arm: Arm, key: str, kind: str) -> dict[str, str]:
    values = arm.values(key)
    show = wording.share if kind == "share" else wording.plain
    if not values:
        return {"value": wording.MISSING, "spread": ""}
    spread = ""
    if len(values) > 1:
        low, high = show(min(values)).removesuffix("\u202f%"), show(max(values)).removesuffix("\u202f%")
        spread = f"{low}–{high}"
    return {"value": show(float(np.mean(values))), "spread": spread}


def _gain(summary: Summary, key: str, kind: str) -> dict[str, str] | None:
    if not summary.control or not summary.method or key in ("agreement", "kl", "cka"):
        return None
    first, second = summary.control.mean(key), summary.method.mean(key)
    if first is None or second is None:
        return None
    known = block(summary.results, "comparison", "intervals", key)
    if key == summary.measure and summary.verdict:
        known = summary.verdict
    digits, factor = (1, 100.0) if kind == "share" else (3, 1.0)
    difference = number(known.get("difference"))
    return {
        "value": wording.signed(difference if difference is not None else second - first, digits, factor),
        "interval": wording.between(number(known.get("low")), number(known.get("high")), digits, factor),
    }


def _class_names(record: RunRecord) -> list[str]:
    names = listing(record.results, "classes") or listing(record.data, "classes")
    return [str(n.get("name", n)) if isinstance(n, dict) else str(n) for n in names]


def _recall(member: dict[str, Any], num_classes: int) -> Floats | None:
    content = block(member, "test")
    values = listing(content, "per_class_recall") or listing(content, "per_label_ap")
    if len(values) == num_classes:
        known = [number(v) for v in values]
        return np.array([v if v is not None and 0 <= v <= 1 else np.nan for v in known])
    counts = _confusion(member, num_classes)
    if counts is None:
        return None
    sums = counts.sum(axis=1)
    recall: Floats = np.where(sums > 0, np.diag(counts) / np.maximum(sums, 1), np.nan)
    return recall


def _confusion(member: dict[str, Any], num_classes: int) -> Floats | None:
    rows = listing(block(member, "test"), "confusion")
    if len(rows) != num_classes or any(not isinstance(r, list) or len(r) != num_classes for r in rows):
        return None
    try:
        counts = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return counts if np.isfinite(counts).all() else None


def _paired(control: Arm, method: Arm, num_classes: int) -> tuple[Floats, Floats]:
    """Recalls of the seeds that both arms have, in the same order."""
    first = {str(m.get("seed")): _recall(m, num_classes) for m in control.members}
    second = {str(m.get("seed")): _recall(m, num_classes) for m in method.members}
    pairs = [(a, b) for s, a in first.items() if a is not None and (b := second.get(s)) is not None]
    empty = np.empty((0, num_classes))
    return (np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])) if pairs else (empty, empty)


def _mean_rows(rows: Floats) -> Floats | None:
    if not len(rows):
        return None
    mean: Floats = rows.mean(axis=0)
    return mean


def _counts(summary: Summary, split: str) -> list[int | None]:
    """Images per class in a split, from the data card, whichever way round it is written."""
    size = len(summary.classes)
    counts = block(summary.record.data, "counts")
    by_split = counts.get(split)
    if isinstance(by_split, list) and len(by_split) == size:
        found: list[Any] = by_split
    elif isinstance(by_split, dict) and by_split:
        found = [by_split.get(name) for name in summary.classes]
    elif isinstance(by_split, int | float) or not counts:
        return [None] * size
    else:
        found = [block(counts, name).get(split) for name in summary.classes]
    return [None if number(v) is None else round(float(v)) for v in found]
