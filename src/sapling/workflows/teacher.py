"""The teacher of a run: trained here or given, always through the gate, always kept in ``teacher/``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapling.bands import Bands
from sapling.data.loader import Dataset
from sapling.errors import ModelError
from sapling.models.create import count_macs, count_parameters, resolve_name
from sapling.models.load import LoadedModel, load_model, save_model
from sapling.models.tapped import TappedModel
from sapling.record import Run, read_json, write_json
from sapling.screen import Screen, duration
from sapling.teachers.gate import check_classes
from sapling.teachers.live import LiveTeacher
from sapling.workflows.dataset import check_bands
from sapling.workflows.gate import files_of, judge, warnings_about
from sapling.workflows.networks import load_given, provenance
from sapling.workflows.passes import (
    TEACHER_STREAM,
    Machine,
    epochs_for,
    is_given,
    load_trained,
    make_member,
    member_record,
    optim_settings,
    train_members,
)
from sapling.workflows.scores import shown


@dataclass(frozen=True, slots=True)
class CheckedTeacher:
    """A teacher that passed the gate (or was accepted all the same).

    Attributes:
        loaded: network, classes and preprocessing.
        card: what is written to ``teacher/card.json`` and ``results.json``.
        bands: of the images that it is asked about.
    """

    loaded: LoadedModel
    card: dict[str, Any]
    bands: Bands | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What its answers depend on."""
        loaded = self.loaded
        return {
            "sha256": str(self.card["sha256"]),
            "architecture": loaded.architecture,
            "preprocess": str(loaded.preprocess),
            "bands": str(self.bands),
        }

    def live(self, machine: Machine, taps: Sequence[str]) -> LiveTeacher:
        """The teacher, ready to answer batches."""
        model = TappedModel(self.loaded.model, self.loaded.preprocess, taps, bands=self.bands)
        return LiveTeacher(model, device=machine.device, bf16=machine.bf16, channels_last=True)


def get_teacher(run: Run, data: Dataset, machine: Machine, screen: Screen) -> CheckedTeacher:
    """Train or load the teacher of the settings, check it, record it.

    Raises:
        GateError: it did not pass and ``teacher.accept_weak`` is not set.
    """
    folder = run.path("teacher")
    if (folder / "card.json").exists():
        return CheckedTeacher(load_model(folder), read_json(folder / "card.json"), data.store.bands)
    settings = run.config.teacher
    seconds = 0.0
    if is_given(settings.model):
        loaded = load_given(settings, data)
        for note in loaded.notes:
            run.log(f"teacher: {note}")
        check_classes(loaded.classes, data.classes, where=settings.model)
        check_bands(loaded.preprocess, data, where=settings.model)
        if loaded.multi_label != data.multi_label:
            has, wanted = ("several labels", "one class") if loaded.multi_label else ("one class", "several labels")
            raise ModelError(
                f"the teacher was trained for {has} per image, the data may have {wanted}",
                where=settings.model,
                remedy="a teacher trained on such data: sapling train DATA --model resnet18",
            )
        origin = "given"
    else:
        run.log(f"teacher: training {settings.model} here")
        folder_trained, seconds = _train_here(run, data, machine, screen)
        loaded, _ = load_trained(folder_trained)
        origin = "trained here"
    judgement = judge(loaded, data, run.config, machine, given=origin == "given")
    save_model(
        folder,
        loaded.model,
        architecture=loaded.architecture,
        classes=loaded.classes,
        preprocess=loaded.preprocess,
        multi_label=data.multi_label,
    )
    size = loaded.preprocess
    shape = (size.num_channels, size.img_size, size.img_size)
    card = {
        "model": settings.model,
        "architecture": loaded.architecture,
        "origin": origin,
        **provenance(loaded),
        "folder": "teacher",
        "parameters": count_parameters(loaded.model),
        "macs": count_macs(loaded.model, shape),
        "seconds": round(seconds, 3),
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "files": files_of(settings.model) if origin == "given" else {},
        **judgement.as_dict(),
    }
    write_json(folder / "card.json", card)
    word = "passed the gate" if judgement.gate.passed else "DID NOT PASS THE GATE (accepted all the same)"
    took = f", {duration(seconds)}" if seconds else ""
    run.log(f"teacher: {settings.model} {word}: {shown(judgement.metrics)} on validation{took}")
    for check in judgement.gate.checks:
        run.note(f"teacher: {check.name}: {check.detail}")
    run.log(
        f"teacher: on validation ECE {judgement.val.ece:.1%}, entropy {judgement.val.entropy:.3f} nats; on "
        f"{judgement.train.num_images} training images {shown(judgement.train.as_dict())}, "
        f"ECE {judgement.train.ece:.1%}, "
        f"entropy {judgement.train.entropy:.3f} nats; weights sha256 {card['sha256'][:12]}"
    )
    for warning in warnings_about(card):
        run.log(f"teacher: {warning}")
    return CheckedTeacher(load_model(folder), card, data.store.bands)


def _train_here(run: Run, data: Dataset, machine: Machine, screen: Screen) -> tuple[Path, float]:
    settings, name = run.config.teacher, "teacher"
    # Its own views: those that make a good teacher may be too strong for a small student.
    data = data.seen_as(views=settings.views, mixup=settings.mixup, cutmix=settings.cutmix)
    architecture = resolve_name(settings.model)
    epochs = epochs_for(run.config, data, wanted=settings.epochs)
    member = make_member(
        data,
        name=name,
        arm="teacher",
        seed=TEACHER_STREAM + run.config.train.seed,
        architecture=architecture,
        pretrained=settings.pretrained,
        method="none",
        options={},
        optim=optim_settings(
            run.config,
            data,
            epochs=epochs,
            pretrained=settings.pretrained,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
        ),
        ema_decay=settings.ema_decay,
        imbalance=(run.config.train.imbalance, run.config.train.imbalance_power),
        freeze_backbone=settings.freeze_backbone,
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
    )
    record = member_record(run, name) or {}
    return run.path("members", name), float(record.get("seconds", 0.0))
