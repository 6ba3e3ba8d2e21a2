"""Train one classifier: a teacher to keep, or a student alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapling.command import command_line
from sapling.config import RunConfig
from sapling.data.layout import many
from sapling.data.loader import Dataset
from sapling.models.create import count_macs, count_parameters, resolve_name
from sapling.models.load import load_model
from sapling.record import FORMAT, Run, environment, now
from sapling.report.page import write_report
from sapling.run_folders import run_folder
from sapling.screen import Screen
from sapling.workflows.dataset import data_warnings, open_checked, write_data_card
from sapling.workflows.distill import RunResult, manifest, settled
from sapling.workflows.gallery import write_gallery
from sapling.workflows.measures import efficiency
from sapling.workflows.openings import open_test
from sapling.workflows.pair import small_epochs
from sapling.workflows.passes import (
    TEACHER_STREAM,
    check_names,
    epochs_for,
    make_member,
    measure_test,
    member_record,
    optim_settings,
    prepare_machine,
    ship_member,
    train_members,
)
from sapling.workflows.ship import deploy
from sapling.workflows.track import tracked


def train(config: RunConfig | None = None, *, screen: Screen | None = None, **blocks: Any) -> RunResult:
    """Train ``student.model`` on the labels alone; last epoch, test opened once.

    Its random numbers are those of a teacher: other than any student's of the same ``train.seed``.

    Args:
        config: all settings; or give blocks, as for ``sapling.distill``.
        screen: where progress is shown; quiet by default.
        blocks: ``data``, ``student`` and ``train`` count.

    Returns:
        Folder and results. The folder can be given to ``distill`` as teacher.
    """
    config, screen = settled(config, blocks), screen or Screen(quiet=True)
    check_names(config, "train")
    with Run(run_folder(config, "train"), config, task="train") as run, tracked(run):
        run.say = screen.say
        if not run.is_finished:
            _work(run, screen)
        elif not run.path("report.html").exists():
            write_report(run.folder)
        return RunResult(run.folder, run.results())


def _work(run: Run, screen: Screen) -> None:
    config, name = run.config, "model"
    run.log(f"data: reading {config.data.source}")
    data = open_checked(config, screen, run)
    machine = prepare_machine(config, run)
    write_data_card(run, data)
    epochs, architecture = epochs_for(config, data), resolve_name(config.student.model)
    member = make_member(
        data,
        name=name,
        arm=name,
        seed=TEACHER_STREAM + config.train.seed,
        architecture=architecture,
        pretrained=config.student.pretrained,
        method="none",
        options={},
        optim=optim_settings(config, data, epochs=epochs, pretrained=config.student.pretrained),
        ema_decay=config.train.ema_decay,
        imbalance=(config.train.imbalance, config.train.imbalance_power),
        freeze_backbone=config.student.freeze_backbone,
    )
    small_epochs(config, data, member.student)  # refused before it is trained
    run.log(
        f"training {architecture}, {many(epochs, 'epoch')}, {len(data.split.train)} images of {data.num_classes} "
        f"classes at {data.img_size} px; {machine.precision} on {machine.device}, {many(machine.threads, 'thread')}"
    )
    train_members(
        run,
        [member],
        data,
        machine,
        name=name,
        epochs=epochs,
        architecture=architecture,
        teacher=None,
        screen=screen,
        half_size_share=config.train.half_size_share,
    )
    record = member_record(run, name) or {}
    opened = open_test(run, data, [config.train.seed])
    logits, labels, test = measure_test(run, run.path("members", name), data, machine)
    ship_member(run, name)
    results = _results(run, data, record, test, opened, manifest(run, data, machine, epochs, [config.train.seed], {}))
    results["deploy"] = deploy(run, data, results)
    results["efficiency"] = efficiency(run, data, results)
    write_gallery(run, data, {"student": logits[None]}, labels)
    results["created"] = run.started()
    results["finished"] = now()
    run.finish(results)
    write_report(run.folder)


def _results(
    run: Run,
    data: Dataset,
    record: Mapping[str, Any],
    test: dict[str, Any],
    opened: dict[str, Any],
    terms: dict[str, Any],
) -> dict[str, Any]:
    loaded = load_model(run.path("student"))
    size = loaded.preprocess
    shape = (size.num_channels, size.img_size, size.img_size)
    member = {
        **{k: record[k] for k in ("name", "arm", "seed", "val", "seconds")},
        "test": test,
        "parameters": count_parameters(loaded.model),
        "macs": count_macs(loaded.model, shape),
    }
    shared = record["pass_seconds"]
    return {
        "format": FORMAT,
        "name": run.folder.name,
        "sapling_version": environment()["sapling"],
        "task": "train",
        "command": command_line(),
        "manifest": {**terms, "teacher": None, "method": "none", "method_config": {}},
        "classes": list(data.classes),
        **({"multi_label": True} if data.multi_label else {}),
        "members": [member],
        "test_opened": opened,
        "shipped": {"member": member["name"], "arm": member["arm"], "reason": "the only one"},
        "warnings": data_warnings(data),
        "cost": {
            "teacher_seconds": 0.0,
            "student_seconds": round(record["seconds"], 3),
            "other_seconds": round(shared["data"] + shared["evaluation"], 3),
            "total_seconds": round(record["seconds"] + shared["data"] + shared["evaluation"], 3),
        },
    }
