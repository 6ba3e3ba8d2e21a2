"""What the gate gets to see of a run: validation images, some training images, never the test split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sapling import methods
from sapling.config import RunConfig
from sapling.data.folds import FOLDS_FILE
from sapling.data.loader import Dataset
from sapling.data.viewspec import ViewSpec
from sapling.errors import RunError
from sapling.evaluation.metrics import classification_metrics
from sapling.evaluation.soft_targets import SoftTargets, memorised, soft_targets
from sapling.models.load import LoadedModel
from sapling.models.save import CLASSES, CONFIG, WEIGHTS
from sapling.models.tapped import TappedModel
from sapling.record import Run, read_json
from sapling.teachers.ensemble import symmetries_of
from sapling.teachers.gate import Check, GateResult, check_answers, stop_if_failed
from sapling.teachers.gate_labels import check_label_answers
from sapling.teachers.preprocessing import NUM_IMAGES, PreprocessingResult, check_preprocessing
from sapling.types import Teacher
from sapling.workflows.conflicts import mixed_by
from sapling.workflows.networks import hears_logits, is_given, needs_of, parts_of, without_gain
from sapling.workflows.passes import Machine, logits_of
from sapling.workflows.scores import shown
from sapling.workflows.teacher_split import leak_notes

NUM_TRAIN_IMAGES = 2000
USUAL_SIDE, FEWEST_IMAGES = 256, 64  # of larger images fewer are held in memory at once
UNCHECKED = Check("preprocessing", True, "not looked at: that check needs one class per image")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was measured of a teacher.

    Attributes:
        gate: the checks.
        metrics: all measures on validation.
        train: its answers on (some of) the training images.
        val: its answers on validation.
        memorised: whether it knows its training images by heart.
    """

    gate: GateResult
    metrics: dict[str, Any]
    train: SoftTargets
    val: SoftTargets
    memorised: bool

    def as_dict(self) -> dict[str, Any]:
        """For ``card.json``."""
        return {
            "val": {**self.metrics, "entropy": self.val.entropy},
            "train": self.train.as_dict(),
            "memorised": self.memorised,
            "gate": self.gate.as_dict(),
        }


def judge(
    loaded: LoadedModel, data: Dataset, config: RunConfig, machine: Machine, *, given: bool, name: str = ""
) -> Judgement:
    """Run the teacher on validation and on up to 2,000 training images, and judge its answers.

    Other ways to prepare images are tried only for a teacher that was given: one that was trained here was trained
    with the very preprocessing that is on its card. ``name`` is for the message, where it is one of several.

    Raises:
        GateError: it did not pass and ``teacher.accept_weak`` is not set.
    """
    model = TappedModel(loaded.model, loaded.preprocess, bands=data.store.bands).to(machine.device)
    logits, labels = logits_of(model, data, "val", config, machine)
    gate = check_label_answers(logits, labels) if data.multi_label else check_answers(logits, labels)
    if given and gate.checks[0].passed:  # the answers are finite
        gate = gate.joined(UNCHECKED if data.multi_label else _preprocessing(loaded, data, machine).check)
    where = f"teacher {config.teacher.model}" + (f", {name}" if name else "")
    gate = stop_if_failed(gate, accept_weak=_accepts_weak(config), where=where)
    metrics = classification_metrics(logits, labels, data.num_classes)
    on_val = soft_targets(logits, labels)
    on_train = soft_targets(*logits_of(model, some(data, "train", NUM_TRAIN_IMAGES), "train", config, machine))
    return Judgement(gate, metrics, on_train, on_val, memorised(on_train, on_val))


def judge_together(
    teacher: Teacher,
    apart: Mapping[str, Judgement],
    data: Dataset,
    config: RunConfig,
    machine: Machine,
) -> Judgement:
    """Judge the answers that students will learn from, where they are more than one network's answers.

    What it says of training images is what students get to hear of them: out of fold where the teacher is
    cross-fitted. A teacher that answers out of fold cannot know by heart what it answers.

    Args:
        teacher: the one that students will be taught by.
        apart: what was found of each network on its own, by name; their checks stand first.
        data: the images.
        config: all settings.
        machine: in whose precision ``teacher`` runs.

    Raises:
        GateError: together they did not pass and ``teacher.accept_weak`` is not set.
    """
    logits, labels = answers_of(teacher, data, "val", config, machine)
    own = check_label_answers(logits, labels) if data.multi_label else check_answers(logits, labels)
    accept, where = _accepts_weak(config), f"teacher {config.teacher.model}, all of its answers together"
    results = {
        **{k: j.gate for k, j in apart.items()},
        "together": stop_if_failed(own, accept_weak=accept, where=where),
    }
    checks = [replace(check, name=f"{name}: {check.name}") for name, gate in results.items() for check in gate.checks]
    on_val = soft_targets(logits, labels)
    few = some(data, "train", NUM_TRAIN_IMAGES)
    on_train = soft_targets(*answers_of(teacher, few, "train", config, machine))
    metrics = classification_metrics(logits, labels, data.num_classes)
    gate = GateResult(tuple(checks), overridden=accept)
    return Judgement(gate, metrics, on_train, on_val, memorised(on_train, on_val))


def answers_of(
    teacher: Teacher, data: Dataset, split: Literal["train", "val", "test"], config: RunConfig, machine: Machine
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits ``[n,K]`` and truth of a split, in the teacher's own precision and as it answers students."""
    batches = data.eval_batches(split, batch_size=config.evaluate.batch_size, device=machine.device)
    logits = [teacher.outputs(batch).logits.cpu().numpy() for batch in batches]
    return np.concatenate(logits), data.truth(split)


def some(data: Dataset, part: Literal["train", "val"], most: int) -> Dataset:
    """``data`` with at most so many images in a part, drawn at random but always the same."""
    chosen = data.split.part(part)
    if len(chosen) <= most:
        return data
    chosen = np.sort(np.random.default_rng(0).choice(chosen, most, replace=False))
    split = replace(data.split, train=chosen) if part == "train" else replace(data.split, val=chosen)
    return replace(data, split=split)


def remarks_without_teacher(config: RunConfig) -> list[str]:
    """What to say of a run whose method has no teacher: it is there, and nobody listens to it."""
    if methods.requires(config.method.name, **config.method.options).teacher:
        return []
    remark = (
        f"Method {config.method.name} has no teacher: the students never hear {config.teacher.model}, which is only "
        "measured beside them. A small one (--teacher cnn3) or one that is trained already costs least."
    )
    return [remark]


def _accepts_weak(config: RunConfig) -> bool:
    """Whether a teacher that fails may stay: the user says so, or nobody listens to it."""
    return config.teacher.accept_weak or bool(remarks_without_teacher(config))


def _preprocessing(loaded: LoadedModel, data: Dataset, machine: Machine) -> PreprocessingResult:
    few = some(data, "val", max(NUM_IMAGES * USUAL_SIDE**2 // max(data.img_size, USUAL_SIDE) ** 2, FEWEST_IMAGES))
    # the first ones shall be of all classes
    few = replace(few, split=replace(few.split, val=np.random.default_rng(0).permutation(few.split.val)))
    whole = next(few.eval_batches("val", batch_size=NUM_IMAGES, device=machine.device))
    return check_preprocessing(
        loaded.model,
        loaded.preprocess,
        whole.images,
        few.labels("val"),
        bands=data.store.bands,
        bf16=machine.bf16,
    )


def warnings_about(card: Mapping[str, Any], config: RunConfig | None = None, spec: ViewSpec | None = None) -> list[str]:
    """What a reader must know of a teacher, from its card; remedies are those that the run's settings admit.

    Args:
        card: of the teacher.
        config: of the run.
        spec: of its views.
    """
    found = leak_notes(card)
    gate = card["gate"]
    if gate["overridden"]:
        failed = ", ".join(c["name"] for c in gate["checks"] if not c["passed"])
        found.append(f"The teacher did not pass the gate ({failed}) and was accepted all the same.")
    if card.get("memorised"):
        train, val = card["train"], card["val"]
        found.append(
            f"The teacher knows its training images by heart: {shown(train)} right there, {shown(val)} on "
            f"validation, and its answers are nearly one-hot there (entropy {train['entropy']:.3f} nats against "
            f"{val['entropy']:.3f}), so they tell a student little more than the labels. "
            f"Remedies: {_remedies(card, config, spec)}."
        )
    return found + (without_gain(config) if config else [])


def _remedies(card: Mapping[str, Any], config: RunConfig | None, spec: ViewSpec | None) -> str:
    """What the user can type, as far as it was not done already and neither views nor method refuse it."""
    turns = spec is None or len(symmetries_of(flip=spec.flip, dihedral=spec.dihedral)) > 1
    symmetrise = []
    if card.get("symmetries", 1) == 1 and turns and (config is None or hears_logits(config)):
        symmetrise = ["--set teacher.symmetrise=true"]
    if card.get("origin") == "given":
        return " or ".join(
            [*symmetrise, "a teacher that was trained with mixup or stronger views, without label smoothing"]
        )
    teacher, found = (config.teacher.by_recipe() if config else None), []
    if config is None or not (config.teacher.cross_fit or mixed_by(config) or needs_of(config).teacher):
        found = ["soft targets from teachers that never saw the image (--teachers 3 --set teacher.cross_fit=true)"]
    other = [] if teacher is not None and teacher.mixup else ["mixup (--teacher-recipe mixed)"]
    views = "aerial_strong" if spec is not None and spec.dihedral else "strong"
    if config is None or views not in (config.data.views, config.teacher.views):
        other.append(f"stronger views (--set teacher.views={views})")
    trained = [f"a teacher trained with {' or '.join(other)}"] if other else []
    return "; ".join([*found, *trained, *symmetrise]) or "more images, or a smaller teacher"


def files_of(model: str) -> dict[str, str]:
    """sha256 by name of the files that make a teacher given by path; empty for the hub, or where nothing is left.

    Of several teachers each name has its number in front (``0/model.safetensors``).
    """
    if len(parts := parts_of(model)) > 1:
        return {f"{k}/{name}": sha for k, part in enumerate(parts) for name, sha in files_of(part).items()}
    place = Path(model.removeprefix("local-dir:"))
    if model.startswith("hf-hub:") or not place.exists():
        return {}
    folder = place.parent if place.is_file() else place
    if place.is_dir() and not (place / CONFIG).is_file() and (place / "student").is_dir():
        folder = place / "student"
    files = [place if place.is_file() else folder / WEIGHTS]
    if not files[0].is_file():
        files = [p for p in folder.iterdir() if p.suffix.lower() in WEIGHT_SUFFIXES]
    files += [folder / name for name in (CONFIG, CLASSES)]
    return {p.name: _sha256(p) for p in sorted(files) if p.is_file()}


def refuse_replaced(run: Run) -> None:
    """Notice that the teacher of a run was replaced after the run had taken it.

    Raises:
        RunError: the file that was given is another one now, or the run's own copy is.
    """
    card_file = run.path("teacher", "card.json")
    if not card_file.exists():
        return
    card = read_json(card_file)
    for own, before in _own_files(run, card).items():
        if own.exists() and _sha256(own) != before:
            what = "its weights are not those that the gate saw" if own.name == WEIGHTS else "its folds are others"
            raise RunError(
                f"the run's own copy of the teacher was replaced: {what}",
                where=str(own),
                remedy="put the old file back, or start again with another --output",
            )
    # A teacher that is gone is no harm: the run has its copy.
    files, now = (
        card.get("files") or {},
        files_of(run.config.teacher.model) if is_given(run.config.teacher.model) else {},
    )
    changed = [name for name in files if name in now and now[name] != files[name]]
    if changed:
        raise RunError(
            f"the teacher was replaced since this run took it: {', '.join(changed)} has another sha256",
            where=run.config.teacher.model,
            remedy="another --output starts a run with the new teacher; the old file brings this run back",
        )


def _own_files(run: Run, card: Mapping[str, Any]) -> dict[Path, str | None]:
    """Files of the run that must stay as the gate saw them, each with its sha256: all members, and the folds."""
    members = card.get("members") or []
    if len(members) > 1:
        files = {run.path("teacher", str(k), WEIGHTS): member.get("sha256") for k, member in enumerate(members)}
    else:
        files = {run.path("teacher", WEIGHTS): card.get("sha256")}
    if folds := card.get("folds"):
        files[run.path("teacher", FOLDS_FILE)] = folds.get("sha256")
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
