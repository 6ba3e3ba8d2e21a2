"""What a run would do and how long it would take, without doing it (``--dry-run``)."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sapling import methods
from sapling.config import AUTO, RunConfig
from sapling.data.layout import many
from sapling.data.loader import Dataset
from sapling.engine.phases import phase_epochs
from sapling.engine.plan import before_students
from sapling.engine.trainer import autocast
from sapling.models.create import count_macs, count_parameters, resolve_name
from sapling.models.tapped import TappedModel
from sapling.report.wording import model_name
from sapling.run_folders import is_this_run, run_folder, same_teacher
from sapling.screen import Screen
from sapling.workflows.answers import decide
from sapling.workflows.choose import chosen_teacher, note_of_choice
from sapling.workflows.dataset import open_checked
from sapling.workflows.networks import is_given, method_notes, needs_of, parts_of, symmetries_for, without_gain
from sapling.workflows.pair import build_pair, small_epochs, student_network, teacher_networks
from sapling.workflows.passes import (
    Machine,
    batch_size_for,
    check_names,
    data_sizes,
    epochs_for,
    prepare_machine,
    preprocess_for,
)
from sapling.workflows.several import given_folds, teacher_epochs
from sapling.workflows.teacher_split import check_teacher_splits, split_of

WARM_STEPS, TIMED_STEPS = 1, 3
FEW_IMAGES, LONG_STEP = 8, 2.0
FIXED_SECONDS = 15


def plan(config: RunConfig, *, task: str = "distill", screen: Screen | None = None) -> dict[str, Any]:
    """Check settings, data and models as a run would, time a few steps on noise, and add up.

    Nothing is written to the run folder (images are decoded into the cache, which a run needs anyway).

    Returns:
        ``data``, ``teacher``, ``student``, ``epochs``, ``seeds``, ``folder``, ``begun``: what lies there already, and
        ``estimated_seconds`` of a run from its beginning; of ``distill`` also ``method``, the ``weights`` of the
        students' terms, ``notes``: what the method says of these settings, and ``shipped``: the network that it ships
        in place of the student, if it does.

    Raises:
        UsageError: the folder holds a run with other settings, or what a run raises.
    """
    screen = screen or Screen(quiet=True)
    check_names(config, task)
    student_name, given = resolve_name(config.student.model), is_given(config.teacher.model)
    folder, is_chosen = run_folder(config, task), config.teacher.model == AUTO
    begun = _begun(Path(folder), config, task)
    data = open_checked(config, screen, task=task)
    config = chosen_teacher(config, data.img_size) if task == "distill" else config
    if task == "distill" and given and not begun:
        check_teacher_splits([split_of(part, data) for part in parts_of(config.teacher.model)], data, config)
    machine = prepare_machine(config)
    channels = data.num_channels
    shape = student_shape = (channels, data.img_size, data.img_size)
    student = student_network(config, data)
    teachers = teacher_networks(config, data) if task == "distill" else []
    method = build_pair(config, data, student, teachers) if task == "distill" else None  # refused before it is timed
    screen.say("timing a few steps ..")
    epochs, seeds = epochs_for(config, data), config.train.num_seeds if task == "distill" else 1
    steps = data.num_batches(batch_size_for(config, data))
    batch = batch_size_for(config, data)
    step_seconds = _time_step(student, shape, batch, machine, train=True)
    own = TappedModel(student, preprocess_for(student, data))
    if few := small_epochs(config, data, own):  # of distill with its taps, above
        half = _time_step(student, (channels, own.half_size, own.half_size), batch, machine, train=True)
        step_seconds += (half - step_seconds) * few / epochs
    result: dict[str, Any] = {
        "folder": folder,
        "begun": begun,
        "data": {"classes": data.num_classes, "img_size": data.img_size, "views": data.views, **data_sizes(data)},
        "machine": {"device": machine.device, "precision": machine.precision, "threads": machine.threads},
        "student": _card(model_name(student_name), student, shape),
        "epochs": epochs,
        "batch_size": batch,
        "seeds": seeds,
    }
    if config.train.half_size_share:
        result["student"]["small_images"] = {"epochs": few, "img_size": own.half_size}
    seconds = epochs * steps * seeds * step_seconds * (2 if task == "distill" else 1)
    if method is not None:
        symmetries, cards, forward = len(symmetries_for(config, data.spec)), [], 0.0
        for part, (teacher, preprocess) in zip(parts_of(config.teacher.model), teachers, strict=True):
            shape = (channels, preprocess.img_size, preprocess.img_size)
            cards.append(_card(part, teacher, shape))
            forward += _time_step(teacher, shape, batch, machine, train=False)
        num = len(cards) if given else config.teacher.num_teachers
        out_of_fold = given_folds(config, data, num)[0] is not None if given else config.teacher.cross_fit
        # Out of fold an image is answered by one teacher; by all of them otherwise.
        passes = symmetries * (1 if out_of_fold else num)
        per_image = passes / len(cards)  # forward holds all that are given
        result["teacher"] = {
            "model": config.teacher.model,
            "pretrained": config.teacher.pretrained and not given,
            **{key: sum(card[key] for card in cards) * (1 if given else num) for key in ("parameters", "macs")},
            "num_teachers": num,
            "symmetries": symmetries,
            "cross_fit": out_of_fold,
            "forward_passes": passes,
            "epochs": 0,
        }
        if not given:
            learned = _train_part(config, data)
            result["teacher"]["epochs"] = epochs_each = teacher_epochs(config, learned)
            teacher_steps = num * epochs_each * learned.num_batches(batch_size_for(config, learned))
            learner = teacher_networks(config, data)[-1][0]  # the one above answers, so it is frozen
            seconds += teacher_steps * _time_step(learner, shape, batch, machine, train=True)
        heard = decide(config, data, {tap: method.info.teacher_shapes[tap] for tap in needs_of(config).teacher}, epochs)
        result["teacher"]["heard"] = {**asdict(heard), "sentence": heard.sentence}
        if methods.requires(config.method.name, **config.method.options).teacher:
            seconds += (heard.num_views if heard.kept else epochs * seeds) * steps * per_image * forward
        result["warnings"] = without_gain(config)
        result["method"] = {"name": config.method.name, **config.method.options}
        result["weights"] = method.weights_in(method.phases()[-1])
        choice = [f"teacher {note_of_choice(config, data.img_size)}"] if is_chosen else []
        known = "" if given or begun else same_teacher(Path(folder), config)
        result["notes"] = [*choice, *([f"teacher {known}"] if known else []), *method_notes(config, epochs)]
        shipped = method.deployable(student)
        if shipped is not student:
            result["shipped"] = _card(f"{student_name} with {config.method.name}", shipped, student_shape)
        if phases := _phases(method, steps):
            result["phases"] = phases
            # once for all seeds; the method's own parts are taken to cost what the teacher's answers do
            asked = 1 if heard.kept and not heard.latents else 2
            seconds += sum(p["steps"] for p in phases) * asked * per_image * forward
    # evaluation after each epoch takes about a tenth; imports, test split, export and report a quarter of a minute
    result["estimated_seconds"] = round(seconds * 1.1 + FIXED_SECONDS, 1)
    return result


def _begun(folder: Path, config: RunConfig, task: str) -> str:
    """What lies in the folder of a run already; empty where the run is new."""
    if not is_this_run(folder, config, task):
        return ""
    if (folder / "results.json").is_file():
        return "this run is finished: its result is printed again, and nothing is trained"
    trained = len(list(folder.glob("members/*/member.json")))
    return f"this run was begun: {many(trained, 'network')} trained, what is missing follows"


def _train_part(config: RunConfig, data: Dataset) -> Dataset:
    """So much as one of the teachers learns from: without its fold, if they are cross-fitted."""
    if not config.teacher.cross_fit:
        return data
    train = data.split.train
    return replace(data, split=replace(data.split, train=train[len(train) // config.teacher.num_teachers :]))


def _phases(method: methods.Method, steps: int) -> list[dict[str, Any]]:
    """Phases before the students: name, epochs, steps."""
    found = [(phase.name, phase_epochs(phase, steps)) for phase in before_students(method)]
    return [{"name": phase, "epochs": epochs, "steps": epochs * steps} for phase, epochs in found]


def _card(name: str, model: torch.nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"model": name, "parameters": count_parameters(model), "macs": count_macs(model, shape)}


def _time_step(model: torch.nn.Module, shape: tuple[int, ...], batch: int, machine: Machine, *, train: bool) -> float:
    """Median seconds of one step on noise: forward and backward, or forward alone.

    Where a whole batch would take long, so many times the seconds of a few images: the plan must not take minutes.
    """
    few = min(batch, FEW_IMAGES)
    seconds = _time_steps(model, (few, *shape), machine, train=train) * batch / few
    return seconds if few == batch or seconds > LONG_STEP else _time_steps(model, (batch, *shape), machine, train=train)


def _time_steps(model: torch.nn.Module, shape: tuple[int, ...], machine: Machine, *, train: bool) -> float:
    """Median seconds of one step on ``[B,C,H,W]`` noise."""
    model = model.to(machine.device).to(memory_format=torch.channels_last).train(train)
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(machine.device)
    images = images.contiguous(memory_format=torch.channels_last)
    taken = []
    for _ in range(WARM_STEPS + TIMED_STEPS):
        started = time.perf_counter()
        with torch.set_grad_enabled(train), autocast(machine.device, bf16=machine.bf16):
            logits = model(images)
        if train:
            logits.float().square().mean().backward()
        if machine.device != "cpu":
            torch.cuda.synchronize(machine.device)
        taken.append(time.perf_counter() - started)
    return sorted(taken[WARM_STEPS:])[TIMED_STEPS // 2]
