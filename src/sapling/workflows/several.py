"""Training of the teachers of a run: their seeds, their folds, one pass each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sapling import methods
from sapling.config import RunConfig
from sapling.data.folds import FOLDS_FILE, folds_text, make_folds, read_folds
from sapling.data.loader import Dataset
from sapling.errors import DataError
from sapling.models.create import resolve_name
from sapling.record import Run, atomic_file, read_json
from sapling.screen import Screen
from sapling.workflows.conflicts import mixed_by
from sapling.workflows.networks import parts_of
from sapling.workflows.passes import (
    TEACHER_STREAM,
    Machine,
    epochs_for,
    make_member,
    member_record,
    optim_settings,
    train_members,
)

TEACHER_STRIDE = 2**24
"""Between the seeds of two teachers of one run: teacher 1 of seed 0 is not teacher 0 of seed 1, so that runs with other
seeds stay independent of each other; 32 teachers stay below 2**31."""

Folds = NDArray[np.int64]


def teacher_names(num: int) -> tuple[str, ...]:
    """``teacher``, or ``teacher-0``, ``teacher-1``, ..: of members, passes and log lines."""
    return ("teacher",) if num == 1 else tuple(f"teacher-{k}" for k in range(num))


def teacher_seed(config: RunConfig, number: int) -> int:
    """Seed of initial weights, batch order and views: other than any student's, and another for each teacher."""
    return TEACHER_STREAM + config.train.seed + number * TEACHER_STRIDE


def teacher_epochs(config: RunConfig, data: Dataset) -> int:
    """How long each teacher is trained on ``data``: its own setting, or what the recipe makes of the students'."""
    own = config.teacher.epochs
    return own if own is not None else config.teacher.epoch_factor * epochs_for(config, data)


def train_teacher(
    run: Run, data: Dataset, machine: Machine, screen: Screen, *, number: int, name: str, folds: Folds | None
) -> tuple[Path, float, int]:
    """Train one teacher, or find it trained.

    Args:
        run: the run.
        data: all images.
        machine: where.
        screen: where progress is shown.
        number: k; of a cross-fitted ensemble it never sees fold k.
        name: of its member and its pass.
        folds: ``[images in the store]``, or None.

    Returns:
        Its folder, the seconds that training took, and its seed.
    """
    settings = run.config.teacher.by_recipe()
    # Its own views: those that make a good teacher may be too strong for a small student.
    data = data.seen_as(views=settings.views, mixup=settings.mixup, cutmix=settings.cutmix)
    data = replace(data, num_views=0)  # never the few views that students see, on which it must answer as on new ones
    if folds is not None:
        data = without_fold(data, folds, number)
    architecture = resolve_name(settings.model)
    epochs = teacher_epochs(run.config, data)
    seed = teacher_seed(run.config, number)
    member = make_member(
        data,
        name=name,
        arm="teacher",
        seed=seed,
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
    return run.path("members", name), float(record.get("seconds", 0.0)), seed


def without_fold(data: Dataset, folds: Folds, number: int) -> Dataset:
    """``data`` whose training part lacks one fold."""
    train = data.split.train[folds[data.split.train] != number]
    return replace(data, split=replace(data.split, train=train))


def keep_folds(run: Run, data: Dataset, names: tuple[str, ...], *, given: bool) -> Folds | None:
    """The folds of a cross-fitted ensemble, recorded in ``teacher/folds.csv``; None where it is none.

    They are made once: a run that goes on reads its own file, so that nothing can move between the teachers. A given
    ensemble brings its own, which hold for the images that they were made of only.

    Raises:
        DataError: the recorded folds are not of these images, or a class cannot be cut.
    """
    own = run.path("teacher", FOLDS_FILE)
    if own.exists() and not given:  # a given ensemble may be another one by now, until its card is kept
        return read_folds(own, data.source, data.split.train, len(names))
    if given:
        folds, said = given_folds(run.config, data, len(names))
        if said:
            run.log(f"teacher: {said}")
        if folds is None:
            own.unlink(missing_ok=True)
    elif run.config.teacher.cross_fit:
        folds = make_folds(data.source, data.split.train, len(names), seed=run.config.data.split_seed)
        sizes = np.bincount(folds[data.split.train], minlength=len(names)).tolist()
        run.log(f"teacher: {len(names)} folds of {', '.join(map(str, sizes))} training images")
    else:
        return None
    if folds is not None:
        own.parent.mkdir(exist_ok=True)
        with atomic_file(own, "wb") as file:
            file.write(folds_text(data.source, folds))
    return folds


def given_folds(config: RunConfig, data: Dataset, num: int) -> tuple[Folds | None, str]:
    """The folds that a given teacher of ``num`` networks brings for these images, or None; and what is to be said."""
    model = config.teacher.model
    place = Path(model.removeprefix("local-dir:"))
    if len(parts_of(model)) < 2 or not (place / FOLDS_FILE).is_file():
        return None, ""
    why = ""
    card = read_json(place / "card.json")
    recorded = card.get("folds") if isinstance(card, dict) else None
    if not isinstance(recorded, dict) or recorded.get("data") != data.store.fingerprint:
        why = "these are other images, or of another size"
    elif mixed_by(config):
        why = "images are mixed here"
    elif methods.taps(config.method.name, **config.method.options).teacher:
        why = "the method learns from features"
    else:
        try:
            folds = read_folds(place / FOLDS_FILE, data.source, data.split.train, num)
        except DataError as error:
            why = f"the training images are others ({error.what.splitlines()[0]})"
        else:
            return folds, "cross-fitted on these very images; each is answered by the one that never saw it"
    return None, f"it is cross-fitted, but {why}: all of its {num} networks answer every image"
