"""May these runs be compared? What differs between them, by name, and what a caller allows to differ. No torch."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sapling.config import StudentConfig, TrainConfig
from sapling.errors import UsageError, nearest
from sapling.report.folder import block, inner
from sapling.report.wording import clean, shorten
from sapling.workflows.stored import StoredRun

ALLOWABLE = {
    "student": "the student: architecture, size of its images, where its weights start",
    "teacher": "the teacher: its weights, and how it answers",
    "budget": "what training was given: epochs, steps, batches, optimiser, schedule, precision, tuning trials",
    "recipe": "what training saw: views, mixing of images, bands, what is done for rare classes",
    "seeds": "the seeds: those that all runs have are compared",
}
"""What may be allowed to differ, in words."""
FIXED = {
    "task": "another task",
    "data": "other images",
    "split": "other training or test images",
    "measure": "another measure was declared beforehand",
}
"""What never may: there is nothing to pair, or a choice was made after the fact."""

_MANIFEST = {
    "student": ("student", "img_size"),
    "budget": (
        *("epochs", "steps_per_epoch", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "warmup_epochs"),
        *("ema_decay", "precision", "selection", "tuning_trials"),
    ),
    "recipe": (
        "views",
        "view_options",
        "mix",
        "view_seed",
        "num_views",
        "answers",
        "bands",
        "imbalance",
        "imbalance_power",
    ),
}
_SETTINGS = {  # not in the manifest: from config.yaml, where runs of older versions have the defaults
    "student": ("student", StudentConfig, ("pretrained", "freeze_backbone")),
    "budget": (
        "train",
        TrainConfig,
        ("momentum", "step_epochs", "step_factor", "clip_norm", "layer_decay", "half_size_share"),
    ),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not the same in all runs.

    Attributes:
        kind: a key of ``ALLOWABLE`` or ``FIXED``.
        name: of the setting, such as ``epochs``.
        values: what each run has, as text, in the order of the runs.
    """

    kind: str
    name: str
    values: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "values": list(self.values)}

    def sentence(self, labels: Sequence[str]) -> str:
        """``epochs: 6 in kd, dist; 30 in dkd``."""
        by_value: dict[str, list[str]] = {}
        for value, label in zip(self.values, labels, strict=True):
            by_value.setdefault(value, []).append(label)
        return f"{self.name}: " + "; ".join(f"{value} in {', '.join(names)}" for value, names in by_value.items())


def differences(runs: Sequence[StoredRun]) -> list[Difference]:
    """Everything that is not the same in all runs, other than the method and its settings."""
    found: list[Difference] = []

    def look(kind: str, name: str, value: Callable[[StoredRun], Any], show: Callable[[Any], str] = shown) -> None:
        values = [value(run) for run in runs]
        if any(v != values[0] for v in values):
            found.append(Difference(kind, name, tuple(map(show, values))))

    look("task", "labels per image", lambda run: "several" if run.multi_label else "one")
    look("task", "classes", lambda run: [str(c) for c in run.results.get("classes", ())])
    found += _other_images(runs)
    look("measure", "measure", lambda run: run.measure)
    look("measure", "confidence", lambda run: run.confidence)
    for kind, names in _MANIFEST.items():
        for name in names:
            look(kind, name, lambda run, name=name: run.manifest.get(name))  # type: ignore[misc]
    for kind, (part, config, names) in _SETTINGS.items():
        usual = config().model_dump()
        for name in names:
            look(kind, f"{part}.{name}", lambda run, p=part, n=name, u=usual: _setting(run, p, n, u[n]))  # type: ignore[misc]
    taught = [run for run in runs if run.is_taught]  # whom no student hears may be anyone
    for name, key, show in (("teacher", "sha256", _teacher), ("how it answers", "answers_sha256", _answers)):
        if len({str(inner(run.results, "teacher", key) or show(run)) for run in taught}) > 1:
            shown_as = tuple(show(run) if run.is_taught else "none" for run in runs)
            found.append(Difference("teacher", name, shown_as))  # told apart by hashes, shown in words
    look("seeds", "seeds", lambda run: list(run.seeds))
    return found


def refuse_other(runs: Sequence[StoredRun], labels: Sequence[str], allow: Collection[str]) -> list[Difference]:
    """Refuse runs that cannot be compared.

    Args:
        runs: to compare.
        labels: how messages call them.
        allow: kinds of differences that the caller knows of; keys of ``ALLOWABLE``.

    Returns:
        The differences that are there and allowed.

    Raises:
        UsageError: others are there, all named; or ``allow`` holds what cannot be allowed.
    """
    for kind in allow:
        if kind not in ALLOWABLE:
            why = f": {FIXED[kind]} cannot be compared" if kind in FIXED else ""
            raise UsageError(
                f"{kind!r} cannot be allowed to differ{why}",
                allowed=", ".join(ALLOWABLE),
                remedy=nearest(kind, ALLOWABLE) or None,
            )
    found = differences(runs)
    refused = [d for d in found if d.kind not in allow]
    if refused:
        kinds = list(dict.fromkeys(d.kind for d in refused))
        fixed = [kind for kind in kinds if kind in FIXED]
        lines = [f"  - {d.kind}: {d.sentence(labels)}" for d in refused]
        if "seeds" in kinds:
            shared = shared_seeds(runs)
            lines.append(f"    seeds that all have: {', '.join(map(str, shared)) or 'none'}")
        can = [f"--allow {kind}" for kind in kinds if kind in ALLOWABLE]
        split = shlex.quote(str(runs[0].folder / "split.csv"))
        remedy = (
            f"runs on the same data and split (sapling distill .. --split {split})"
            if {"data", "split"} & set(fixed)
            else "runs of one task and measure"
            if fixed
            else f"{' '.join(can)} to compare them all the same; the page then says so"
        )
        raise UsageError("these runs cannot be compared:\n" + "\n".join(lines), remedy=remedy)
    if not shared_seeds(runs):
        raise UsageError(
            "no seed is in all of these runs: "
            + "; ".join(f"{label} has {', '.join(map(str, r.seeds))}" for label, r in zip(labels, runs, strict=True)),
            allowed="runs that share at least one seed",
            remedy="sapling distill .. --seed, --seeds",
        )
    return found


def shared_seeds(runs: Sequence[StoredRun]) -> list[int]:
    """Seeds that all runs have."""
    return sorted(set.intersection(*(set(run.seeds) for run in runs)))


def _other_images(runs: Sequence[StoredRun]) -> list[Difference]:
    """Whether training and test images are the same, and test images come in the same order."""
    found = []
    prints = [str(inner(run.manifest, "data", "fingerprint")) for run in runs]
    views = [json.dumps([run.manifest.get(k) for k in ("img_size", "bands")], default=str) for run in runs]
    # Pixels at another size have another fingerprint: the names of the images must say that they are the same.
    by_view: dict[str, set[str]] = {}
    for view, fingerprint in zip(views, prints, strict=True):
        by_view.setdefault(view, set()).add(fingerprint)
    in_order = runs[0].test_keys is not None and len({run.test_keys for run in runs}) == 1
    if any(len(own) > 1 for own in by_view.values()) or (len(by_view) > 1 and len(set(prints)) > 1 and not in_order):
        found.append(Difference("data", "fingerprint", tuple(p[:12] for p in prints)))
    elif any(not np.array_equal(run.truth, runs[0].truth) for run in runs):
        digests = (hashlib.sha256(run.truth.tobytes()).hexdigest()[:12] for run in runs)
        found.append(Difference("data", "labels of the test images", tuple(digests)))
    elif any(not _same_groups(run, runs[0]) for run in runs):
        values = ("none" if r.groups is None else f"{len(np.unique(r.groups))} groups" for r in runs)
        found.append(Difference("data", "test images that belong together", tuple(values)))
    splits = [str(inner(run.manifest, "split", "fingerprint")) for run in runs]
    if len(set(splits)) > 1:
        found.append(Difference("split", "fingerprint", tuple(s[:12] for s in splits)))
    return found


def _same_groups(first: StoredRun, second: StoredRun) -> bool:
    if first.groups is None or second.groups is None:
        return first.groups is second.groups
    return np.array_equal(first.groups, second.groups)


def _setting(run: StoredRun, part: str, name: str, usual: Any) -> Any:
    value = block(run.settings, part).get(name, usual)
    # YAML may nest without end by aliases; a setting of these is a plain value.
    return value if isinstance(value, str | int | float | bool | None) else "not a plain value"


def _answers(run: StoredRun) -> str:
    card = block(run.results, "teacher")
    return f"{shorten(card.get('answers') or 'plainly', 40)} {clean(card.get('answers_sha256') or '')[:12]}".rstrip()


def _teacher(run: StoredRun) -> str:
    card = block(run.results, "teacher")
    return f"{shorten(card.get('model') or '?', 40)} {clean(card.get('sha256') or 'of unknown weights')[:12]}"


def shown(value: Any, depth: int = 3) -> str:
    """A value as short text on one line."""
    if isinstance(value, Mapping | list | tuple) and not depth:
        text = ".."
    elif isinstance(value, Mapping):
        text = ", ".join(f"{k} {shown(v, depth - 1)}" for k, v in value.items()) or "none"
    elif isinstance(value, list | tuple):
        text = ", ".join(shown(v, depth - 1) for v in value) or "none"
    else:
        text = "not set" if value is None else str(value)
    return shorten(text, 60)
