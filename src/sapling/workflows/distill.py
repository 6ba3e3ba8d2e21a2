"""From a folder of images to a distilled student, the same student trained alone, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapling import methods
from sapling.command import command_line
from sapling.config import RunConfig, build
from sapling.data.layout import many
from sapling.data.loader import Dataset
from sapling.engine.trainer import Member
from sapling.errors import UsageError
from sapling.evaluation.fidelity import fidelity
from sapling.evaluation.verdict import OF
from sapling.models.create import count_macs, count_parameters, resolve_name
from sapling.record import FORMAT, Run, environment, now
from sapling.report.page import write_report
from sapling.run_folders import run_folder
from sapling.screen import Screen
from sapling.types import Teacher
from sapling.workflows import measures, scores
from sapling.workflows.answers import hear, recorded
from sapling.workflows.cautions import never_recognised, uneven_groups, warnings_of
from sapling.workflows.dataset import open_checked, write_data_card
from sapling.workflows.diagnosis import diagnosis, log_line, look
from sapling.workflows.gallery import write_gallery
from sapling.workflows.gate import refuse_replaced, remarks_without_teacher
from sapling.workflows.latents import after_phases
from sapling.workflows.members import Planned, train_in_parts
from sapling.workflows.networks import log_notes, settle_teacher
from sapling.workflows.openings import caution, open_test
from sapling.workflows.pair import check_pair
from sapling.workflows.passes import (
    Machine,
    batch_size_for,
    check_names,
    data_sizes,
    epochs_for,
    groups_of,
    load_trained,
    make_member,
    measure_test,
    member_record,
    optim_settings,
    prepare_machine,
    ship_member,
    train_members,
)
from sapling.workflows.phases import phase_results, prepare_phases
from sapling.workflows.ship import deploy
from sapling.workflows.teacher import CheckedTeacher, get_teacher, measure_teacher
from sapling.workflows.track import tracked

CONTROL = "control"
ANSWERS = ("num_teachers", "symmetrise", "cross_fit")
"""Settings of the teacher that change what students hear; in the manifest where they are not the default."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: the run folder.
        results: the content of ``results.json``.
    """

    folder: Path
    results: Mapping[str, Any]

    @property
    def statement(self) -> str:
        """The verdict in one sentence; empty for plain training."""
        return str(self.results.get("comparison", {}).get("verdict", {}).get("statement", ""))


def distill(config: RunConfig | None = None, *, screen: Screen | None = None, **blocks: Any) -> RunResult:
    """Distil a student and say what that was worth.

    The same student is trained with and without the teacher, on the same batches, once per seed; the test split
    is opened once, at the end.

    Args:
        config: all settings; or give blocks.
        screen: where progress is shown; quiet by default.
        blocks: ``data``, ``teacher``, ``student``, ``method``, ``train``, .. each a dict or its short form:
            ``distill(data="photos.zip", teacher="resnet18", student="cnn3", method=["kd", "at"], train={"lr": 0.1})``.

    Returns:
        Folder and results; a run that is finished is read, not repeated.

    Raises:
        UsageError: settings, data or models cannot be used.
        GateError: the teacher is no good.
        TrainingError: a loss is not finite.
    """
    config, screen = settled(config, blocks), screen or Screen(quiet=True)
    if config.method.name == "none":
        raise UsageError(
            "method 'none' is the control, which every run trains anyway",
            allowed=", ".join(n for n in methods.names() if n != "none"),
            remedy="sapling train DATA --model cnn3 trains a student alone",
        )
    check_names(config, "distill")
    with Run(run_folder(config, "distill"), config, task="distill") as run, tracked(run):
        run.say = screen.say
        refuse_replaced(run)
        if not run.is_finished:
            _work(run, screen)
        elif not run.path("report.html").exists():
            write_report(run.folder)
        return RunResult(run.folder, run.results())


def settled(config: RunConfig | None, blocks: dict[str, Any]) -> RunConfig:
    """The settings of a call: a ``RunConfig``, or blocks, but not both."""
    if config is None:
        return build(blocks)
    if blocks or not isinstance(config, RunConfig):
        raise UsageError(
            "settings are given twice" if blocks else f"{config!r} is no RunConfig",
            allowed='a RunConfig, or blocks such as data="photos.zip", method="kd"',
        )
    return config


def _work(run: Run, screen: Screen) -> None:
    run.log(f"data: reading {run.config.data.source}")
    data = open_checked(run.config, screen, run)
    config = settle_teacher(run, data)
    machine = prepare_machine(config, run)
    write_data_card(run, data)
    sizes = data_sizes(data)
    run.log(
        f"data: {data.num_classes} classes; {sizes['train']} train, {sizes['val']} validation, {sizes['test']} test "
        f"images at {data.img_size} px; {machine.precision} on {machine.device}, {many(machine.threads, 'thread')}"
    )
    for remark in remarks_without_teacher(config):
        run.log(remark)
    if not run.path("teacher", "card.json").exists():
        check_pair(config, data)
    teacher = get_teacher(run, data, machine, screen)
    epochs = epochs_for(config, data)
    log_notes(run, epochs)
    data, heard = hear(run, data, teacher, machine, epochs, screen)
    for seed in range(config.train.seed, config.train.seed + config.train.num_seeds):
        _seed_pass(run, data, machine, teacher, heard, seed, epochs, screen)
    results = _judge(run, data, machine, teacher, epochs, screen)
    results["cost"] = measures.cost(results, run)
    results["created"] = run.started()
    results["finished"] = now()
    run.finish(results)
    write_report(run.folder)
    run.note(f"verdict: {results['comparison']['verdict']['statement']}")
    if (line := log_line(results["diagnosis"])) is not None:
        run.note(line)


def member_names(config: RunConfig, seed: int) -> tuple[str, str]:
    """Names of control and distilled student of a seed."""
    return f"{CONTROL}-s{seed}", f"{config.method.arm}-s{seed}"


def _seed_pass(
    run: Run,
    data: Dataset,
    machine: Machine,
    teacher: CheckedTeacher,
    heard: Teacher,
    seed: int,
    epochs: int,
    screen: Screen,
) -> None:
    config = run.config
    control_name, method_name = member_names(config, seed)
    if member_record(run, control_name) and member_record(run, method_name):
        return
    architecture = resolve_name(config.student.model)
    optim = optim_settings(config, data, epochs=epochs, pretrained=config.student.pretrained)
    arms: list[tuple[str, str, str, dict[str, Any]]] = [
        (control_name, CONTROL, "none", {}),
        (method_name, config.method.arm, config.method.name, config.method.options),
    ]

    def make(name: str, arm: str, method: str, options: dict[str, Any]) -> Member:
        return make_member(
            data,
            name=name,
            arm=arm,
            seed=seed,
            architecture=architecture,
            pretrained=config.student.pretrained,
            method=method,
            options=options,
            optim=optim,
            teacher=heard,
            ema_decay=config.train.ema_decay,
            imbalance=(config.train.imbalance, config.train.imbalance_power),
            freeze_backbone=config.student.freeze_backbone,
        )

    def train(name: str, members: list[Member]) -> None:
        for member in members:
            prepare_phases(
                run,
                member.method,
                data,
                machine,
                optim,
                teacher=heard,
                teacher_identity=teacher.identity,
                screen=screen,
            )
        taught = after_phases(run, data, teacher, heard, machine, [m.method for m in members], screen)
        run.log(f"seed {seed}: training {' and '.join(m.name for m in members)}, {many(epochs, 'epoch')}")
        train_members(
            run,
            members,
            data,
            machine,
            name=name,
            epochs=epochs,
            architecture=architecture,
            teacher=taught,
            screen=screen,
            half_size_share=config.train.half_size_share,
        )

    planned = [Planned(arm[0], partial(make, *arm)) for arm in arms]
    train_in_parts(run, planned, data, machine, name=f"seed{seed}", train=train)
    shown = [f"{m.name} {scores.shown((member_record(run, m.name) or {})['val'])}" for m in planned]
    run.log(f"seed {seed}: {', '.join(shown)} on validation")


def _judge(
    run: Run, data: Dataset, machine: Machine, teacher: CheckedTeacher, epochs: int, screen: Screen
) -> dict[str, Any]:
    """Choose what to ship on validation, open the test split, compare."""
    config = run.config
    arm = config.method.arm
    seeds = list(range(config.train.seed, config.train.seed + config.train.num_seeds))
    records = {n: member_record(run, n) or {} for s in seeds for n in member_names(config, s)}
    measure = scores.measure_of(config, data)
    shipped = choose_to_ship(list(records.values()), arm, measure)
    roles = dict(
        zip(("control", "distilled"), zip(*(member_names(config, s) for s in seeds), strict=True), strict=True)
    )
    looked = look(run, data, machine, teacher, roles, measure)
    opened = open_test(run, data, seeds)
    teacher_logits, teacher_card = measure_teacher(run, teacher, data, machine)
    labels = data.truth("test")
    members: list[dict[str, Any]] = []
    answers: dict[str, list[NDArray[np.float32]]] = {CONTROL: [], arm: []}
    for record in records.values():
        folder = run.path("members", record["name"])
        logits, _, test = measure_test(run, folder, data, machine)
        answers[record["arm"]].append(logits)
        loaded, _ = load_trained(folder)
        size = loaded.preprocess
        closeness = fidelity(logits, teacher_logits, multi_label=data.multi_label)
        members.append(
            {
                **{k: record[k] for k in ("name", "arm", "seed", "val", "seconds")},
                "test": test,
                "parameters": count_parameters(loaded.model),
                "macs": count_macs(loaded.model, (size.num_channels, size.img_size, size.img_size)),
                "agreement": closeness["agreement"],
                "fidelity": closeness,
            }
        )
    control, method = np.stack(answers[CONTROL]), np.stack(answers[arm])
    groups, confidence = groups_of(data, "test"), config.evaluate.confidence
    verdict = scores.judge_students(control, method, labels, groups=groups, measure=measure, confidence=confidence)
    figures = measures.figures(
        teacher_logits,
        (CONTROL, control),
        (arm, method),
        labels,
        groups=groups,
        confidence=confidence,
        measure=measure,
    )
    phases, terms = phase_results(run), manifest(run, data, machine, epochs, seeds, records)
    fitted = looked.students["control"]["train"].score
    measures.add_alignment(run, members, data, machine)
    results: dict[str, Any] = {
        "format": FORMAT,
        "name": run.folder.name,
        "sapling_version": environment()["sapling"],
        "task": "distill",
        "command": command_line(),
        "manifest": terms,
        "classes": list(data.classes),
        **({"multi_label": True} if data.multi_label else {}),
        "teacher": {**teacher_card, "heard": recorded(run)},
        "members": members,
        "comparison": {"measure": measure, "verdict": verdict.as_dict(), **figures},
        "test_opened": opened,
        "shipped": shipped,
        **({"phases": phases} if phases else {}),
        "warnings": [
            *warnings_of(teacher.card, data, config, phases=phases, fitted=fitted, terms=terms),
            *uneven_groups(verdict, members, labels, groups),
            *never_recognised(members, data),
        ],
    }
    results["diagnosis"] = diagnosis(
        run,
        looked,
        teacher.card,
        list(records.values()),
        terms,
        results["comparison"]["verdict"],
        data,
        caution=partial(caution, opened, data, config, teacher.card),
    )
    ship_member(run, shipped["member"])
    results["deploy"] = deploy(run, data, results)
    results["efficiency"] = measures.efficiency(run, data, results)
    write_gallery(run, data, {"student": method, "control": control, "teacher": teacher_logits[None]}, labels)
    return results


def choose_to_ship(records: list[dict[str, Any]], arm: str, measure: str = "top1") -> dict[str, str]:
    """The member to ship: the arm with the better mean on validation, its best seed there.

    The test split has no say in it. A tie goes to the distilled student.
    """

    def score(record: dict[str, Any]) -> float:
        return float(record["val"][measure])

    means = {a: float(np.mean([score(r) for r in records if r["arm"] == a])) for a in (arm, CONTROL)}
    chosen, other = (arm, CONTROL) if means[arm] >= means[CONTROL] else (CONTROL, arm)
    best = max((r for r in records if r["arm"] == chosen), key=score)
    tie = " (a tie goes to the distilled one)" if means[arm] == means[CONTROL] else ""
    shown = f"{chosen} has {100 * means[chosen]:.1f} % {OF[measure]} on average and {other} {100 * means[other]:.1f} %"
    reason = f"{'not distilled: ' if chosen == CONTROL else ''}on validation {shown}{tie}"
    reason += f"; of its seeds this is the best there ({100 * score(best):.1f} %)"
    return {"member": best["name"], "arm": chosen, "reason": reason}


def manifest(
    run: Run,
    data: Dataset,
    machine: Machine,
    epochs: int,
    seeds: list[int],
    records: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """The frozen terms of the comparison (evidence.md, the fair-comparison contract)."""
    config, d = run.config, data
    optim = optim_settings(config, data, epochs=epochs, pretrained=config.student.pretrained)
    weights = [r["weights"] for r in records.values() if r["arm"] != CONTROL]
    label_term = "bce" if d.multi_label else "ce"
    return {
        "student": resolve_name(config.student.model),
        "teacher": config.teacher.model,
        **{k: v for k in ANSWERS if (v := getattr(config.teacher, k)) != type(config.teacher).model_fields[k].default},
        "method": config.method.name,
        "method_config": config.method.options,
        "taught": methods.requires(config.method.name, **config.method.options).teacher,
        "weights": weights[0] if weights else {label_term: 1.0},
        "seeds": seeds,
        "epochs": epochs,
        "steps_per_epoch": d.num_batches(batch_size_for(config, data)),
        "batch_size": batch_size_for(config, data),
        "optimizer": optim.optimizer,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "schedule": optim.schedule,
        "warmup_epochs": config.train.warmup_epochs,
        "ema_decay": config.train.ema_decay,
        "imbalance": config.train.imbalance,
        **({"imbalance_power": config.train.imbalance_power} if config.train.imbalance != "none" else {}),
        "precision": machine.precision,
        "device": machine.device,
        "threads": machine.threads,
        "views": d.views,
        "view_options": dict(d.view_options),
        "mix": asdict(d.mix) if d.mix.is_on else {},
        "view_seed": d.view_seed,
        "num_views": d.num_views,
        **({"answers": changed} if (changed := recorded(run).get("changed")) else {}),
        "img_size": d.img_size,
        "selection": "last epoch",
        "tuning_trials": dict(config.evaluate.tuning_trials),
        "split": data_sizes(data),
        "data": {"source": config.data.source, "fingerprint": d.store.fingerprint},
        **({"bands": str(d.store.bands)} if d.store.bands is not None else {}),
    }
