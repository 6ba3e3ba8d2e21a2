"""Phases that run before the students: trained once for all seeds, checked on held-out images, kept for other runs.

What such a phase makes is a pure function of what :func:`phase_key` lists. It lies in ``phases/<name>/`` of the run
(``model.safetensors``, ``card.json``), and under its key in the cache, where other runs find it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sapling.data.layout import many
from sapling.data.loader import Dataset
from sapling.data.packed import cache_folder
from sapling.engine.checkpoint import numeric_environment
from sapling.engine.optim import OptimSettings
from sapling.engine.phases import fit_phase, phase_epochs
from sapling.engine.plan import before_students
from sapling.engine.trainer import PassSettings
from sapling.errors import RunError
from sapling.methods.base import Method
from sapling.methods.own import explained
from sapling.record import Run, atomic_file, environment, read_json, write_json
from sapling.screen import Screen
from sapling.types import Phase, Teacher
from sapling.workflows.answers import recorded
from sapling.workflows.gate import some
from sapling.workflows.passes import Machine, batch_size_for

PHASE_SEED = 2**31
"""Of every phase, whatever the seeds of the run are, so that runs with other seeds find what it made; far from those of
students and teachers, so that it meets other views than they do."""
WEIGHTS, CARD = "model.safetensors", "card.json"
FORMAT = 1
"""Counts up when the same settings come to make other weights."""
MOST_CHECKED = 500
TRY_AGAIN = "delete that folder to train the phase again"


@explained()
def prepare_phases(
    run: Run,
    method: Method,
    data: Dataset,
    machine: Machine,
    optim: OptimSettings,
    *,
    teacher: Teacher,
    teacher_identity: Mapping[str, str],
    screen: Screen,
) -> None:
    """Give a method the parts that its phases without a student make; train them where nobody has yet.

    Args:
        run: the run; its folder keeps what is made.
        method: of a member; its parts are replaced. Of a combination each method is taken as in its own run.
        data: its training images teach, its validation images check.
        machine: where.
        optim: of the students, for what a phase does not say itself.
        teacher: gives the outputs.
        teacher_identity: what tells this teacher from any other: hash of its weights, preparation of its images.
        screen: where progress is shown.

    Raises:
        TrainingError: training diverged.
        RunError: what is kept does not fit.
    """
    for own in method.separate():
        _prepare(run, own, data, machine, optim, teacher, teacher_identity, screen)


def _prepare(
    run: Run,
    method: Method,
    data: Dataset,
    machine: Machine,
    optim: OptimSettings,
    teacher: Teacher,
    teacher_identity: Mapping[str, str],
    screen: Screen,
) -> None:
    earlier: dict[str, Phase] = {}  # by key: a phase may build on those before it
    for phase in before_students(method):
        task = _Task(run, method, phase, data, machine, _optim(run, phase, data, optim), tuple(earlier.values()))
        content = {**phase_key(task, teacher_identity), **_changed(run), "after": list(earlier)}
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        folder = run.path("phases", phase.name)
        # A method from somebody's file may change without changing its name: its results stay in the run.
        is_ours = type(method).__module__.startswith("sapling.methods.")
        shared = cache_folder() / "phases" / key[:32] if is_ours else None
        if not _is_of_this_run(folder, content):
            kept = _from_cache(shared, key, method, phase) if shared else None
            if kept is not None:
                run.log(f"phase {phase.name}: taken from the cache ({key[:12]})")
                tensors, card = kept
                card = {**card, "seconds": 0.0, "from_cache": True}
            else:
                checkpoint = run.path("checkpoints", f"phase-{phase.name}-{key[:12]}.safetensors")
                tensors, card = _train(task, teacher, checkpoint, screen)
                card = {**card, "key": key, "made_of": content}
                if shared:
                    _share(run, shared, tensors, card)
            _keep(folder, tensors, card)
            _tell(run, phase, card.get("check", {}))
            if kept is None:
                checkpoint.unlink(missing_ok=True)
        earlier[str(read_json(folder / CARD)["key"])] = phase
        _put(method, phase, folder / WEIGHTS)


def put_phases(run: Run, method: Method) -> None:
    """Give a method that is no combination what its phases without a student made in this run; nothing is trained.

    Raises:
        RunError: they were not made yet, or what is kept does not fit.
    """
    for phase in before_students(method):
        folder = run.path("phases", phase.name)
        if not _is_there(folder):
            raise RunError(
                f"phase {phase.name!r} of this run is not done",
                where=str(folder),
                remedy="sapling distill, with the same settings, trains it",
            )
        _put(method, phase, folder / WEIGHTS)


def _changed(run: Run) -> dict[str, str]:
    """What kept answers change beside rounding, such as the mix of two in place of the answer to a mix."""
    heard = recorded(run)
    return {"heard": heard["changed"]} if heard.get("kept") and heard.get("changed") else {}


def phase_key(task: _Task, teacher_identity: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the result of a phase depends on, as JSON."""
    data, card = task.data, task.data.card()
    return {
        "format": FORMAT,
        "sapling": environment()["sapling"],
        "method": task.method.name,
        "inputs": dict(task.method.phase_inputs(task.phase)),
        "phase": asdict(task.phase),
        "optim": asdict(task.optim),
        "teacher": dict(teacher_identity),
        "data": {k: card[k] for k in ("fingerprint", "split_fingerprint", "img_size", "views", "mix")},
        "sample_power": data.sample_power,
        "batch_size": batch_size_for(task.run.config, data),
        "seed": PHASE_SEED,
        "machine": {"device": task.machine.device.partition(":")[0], "precision": task.machine.precision},
        "environment": numeric_environment(),
    }


def phase_identity(run: Run, method: Method) -> str:
    """64 hexadecimal digits that name what phases before the students made: weights, and all they are made of."""
    digest = hashlib.sha256()
    for phase in before_students(method):
        folder = run.path("phases", phase.name)
        digest.update(str(read_json(folder / CARD)["key"]).encode() + (folder / WEIGHTS).read_bytes())
    return digest.hexdigest()


def phase_results(run: Run) -> dict[str, dict[str, Any]]:
    """What is known of every phase of a run, by its name: for ``results.json``."""
    cards = {p.parent.name: read_json(p) for p in sorted(run.path("phases").glob(f"*/{CARD}"))}
    return {name: {k: v for k, v in card.items() if k != "made_of"} for name, card in cards.items()}


def phase_warnings(phases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know of the phases before the figures."""
    return [problem for card in phases.values() for problem in card.get("check", {}).get("problems", [])]


@dataclass(frozen=True, slots=True)
class _Task:
    """One phase of a method in a run, and how its weights move."""

    run: Run
    method: Method
    phase: Phase
    data: Dataset
    machine: Machine
    optim: OptimSettings
    earlier: tuple[Phase, ...] = ()


def _optim(run: Run, phase: Phase, data: Dataset, students: OptimSettings) -> OptimSettings:
    num_batches = data.num_batches(batch_size_for(run.config, data))
    return OptimSettings(
        optimizer=phase.optimizer or students.optimizer,
        lr=phase.lr if phase.lr is not None else students.lr,
        weight_decay=phase.weight_decay if phase.weight_decay is not None else students.weight_decay,
        schedule="cosine",
        warmup_steps=0,
        total_steps=phase_epochs(phase, num_batches) * num_batches,
        momentum=students.momentum,
        clip_norm=students.clip_norm,
    )


def _train(task: _Task, teacher: Teacher, checkpoint: Path, screen: Screen) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A method made anew by the seed of the phase, trained and examined: nothing of a member's seed enters."""
    run, phase, data, machine, optim = task.run, task.phase, task.data, task.machine, task.optim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PHASE_SEED)
        fresh = type(task.method)(task.method.config, task.method.info)
    for before in task.earlier:
        _put(fresh, before, run.path("phases", before.name, WEIGHTS))
    batch_size = batch_size_for(run.config, data)
    name, epochs = f"phase-{phase.name}", optim.total_steps // data.num_batches(batch_size)
    settings = PassSettings(
        name=name,
        epochs=epochs,
        batch_size=batch_size,
        seed=PHASE_SEED,
        device=machine.device,
        bf16=machine.bf16,
        channels_last=True,
    )
    run.log(
        f"phase {phase.name}: training on the teacher alone, {many(epochs, 'epoch')}, {many(optim.total_steps, 'step')}"
    )
    reported: list[int] = []

    def report(row: dict[str, Any]) -> None:
        if not reported:
            run.drop_metrics(name, from_epoch=row["epoch"])
        reported.append(row["epoch"])
        run.add_metrics([row])
        terms = ", ".join(f"{k} {v:.3f}" for k, v in row["train"].items() if k != "loss")
        run.note(f"phase {phase.name} epoch {row['epoch'] + 1}/{epochs}: {terms}")

    with screen.bar(f"phase {phase.name}", optim.total_steps) as bar:
        seconds = fit_phase(
            fresh,
            phase,
            data,
            settings,
            optim,
            teacher=teacher,
            report=report,
            checkpoint=checkpoint,
            watcher=bar,
        )
    held_out = some(data, "val", MOST_CHECKED).eval_batches(
        "val", batch_size=run.config.evaluate.batch_size, device=machine.device
    )
    check = fresh.examine(phase, (teacher.outputs(batch) for batch in held_out))
    card = {"phase": phase.name, "epochs": epochs, "seconds": round(seconds, 3), "from_cache": False, "check": check}
    state = {k: v.detach().cpu().contiguous() for k, v in fresh.state_dict().items() if _is_of(k, phase)}
    return state, card


def _tell(run: Run, phase: Phase, check: Mapping[str, Any]) -> None:
    for branch, measured in check.get("branches", {}).items():
        shown = [f"{k.replace('_', ' ')} {v}" for k, v in measured.items() if k != "noise_loss"]
        losses = ", ".join(f"{v} at {k}" for k, v in measured.get("noise_loss", {}).items())
        run.log(f"phase {phase.name}, {branch}: " + "; ".join([*shown, *([f"noise loss {losses}"] if losses else [])]))
    if "passed" in check:
        run.log(f"phase {phase.name}: the check on validation images {'passed' if check['passed'] else 'FAILED'}")
    for problem in check.get("problems", []):
        run.log(f"warning: {problem}")


def _is_of(key: str, phase: Phase) -> bool:
    return not phase.parts or any(key.startswith(f"{part}.") for part in phase.parts)


def _is_there(folder: Path) -> bool:
    """The card is written last, so where it is, all is."""
    return (folder / CARD).is_file() and (folder / WEIGHTS).is_file()


def _is_of_this_run(folder: Path, content: Mapping[str, Any]) -> bool:
    """Whether the run has the phase. Seeds that follow under another version share it with those that went before.

    Earlier versions made it of the first seed of the run.
    """
    if not _is_there(folder):
        return False
    before, wanted = read_json(folder / CARD).get("made_of", {}), json.loads(json.dumps(content))
    return all(before.get(k) == v for k, v in wanted.items() if k not in ("environment", "heard", "sapling", "seed"))


def _keep(folder: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    (folder / CARD).unlink(missing_ok=True)
    content = save(dict(tensors))
    with atomic_file(folder / WEIGHTS, "wb") as file:
        file.write(content)
    write_json(folder / CARD, {**card, "sha256": hashlib.sha256(content).hexdigest()})


def _weights(folder: Path) -> dict[str, Tensor]:
    """What is kept of a phase.

    Raises:
        ValueError: the file is not the one that the card tells of; those of earlier versions tell of none.
        RunError, OSError, SafetensorError: card or file cannot be read.
    """
    content, wanted = (folder / WEIGHTS).read_bytes(), read_json(folder / CARD).get("sha256")
    if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
        raise ValueError("it is not the file that its card tells of")
    return load(content)


def _share(run: Run, folder: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    try:
        _keep(folder, tensors, card)
    except OSError as error:  # a cache that is full or closed costs another run its time, not this one its life
        run.note(f"phase {card['phase']}: not kept in the cache: {error}")


def _from_cache(
    folder: Path, key: str, method: Method, phase: Phase
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What another run has made; None where there is nothing, or it is damaged or of something else."""
    with contextlib.suppress(RunError, OSError, ValueError, SafetensorError, AttributeError):
        if _is_there(folder) and read_json(folder / CARD).get("key") == key:
            tensors, card = _weights(folder), read_json(folder / CARD)
            own = {k: v for k, v in method.state_dict().items() if _is_of(k, phase)}
            if own.keys() == tensors.keys() and all(own[k].shape == v.shape for k, v in tensors.items()):
                return tensors, card
    return None


def _put(method: Method, phase: Phase, file: Path) -> None:
    try:
        tensors = _weights(file.parent)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"cannot read {file.name}: {error}", where=str(file), remedy=TRY_AGAIN) from None
    own = {k: v for k, v in method.state_dict().items() if _is_of(k, phase)}
    if own.keys() != tensors.keys() or any(own[k].shape != v.shape for k, v in tensors.items()):
        raise RunError(f"what is kept of phase {phase.name!r} is of another method", where=str(file), remedy=TRY_AGAIN)
    method.load_state_dict(tensors, strict=False)
