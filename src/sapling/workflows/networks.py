"""A run's networks: settings that would not be used, sizes that cannot be read, a teacher that is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sapling import methods
from sapling.config import RunConfig, TeacherConfig
from sapling.data.loader import Dataset
from sapling.errors import UsageError
from sapling.models.create import origin_of, resolve_name
from sapling.models.licence import NOT_STATED
from sapling.models.load import LoadedModel, is_model_path, load_model, weights_alone
from sapling.models.sizes import check_size

TRAINED_HERE = ("epochs", "lr", "weight_decay", "pretrained", "freeze_backbone", "layer_decay")
OF_TRAINING = ("views", "mixup", "cutmix", "ema_decay")

WEIGHTS_ALONE = ("img_size", "mean", "std")


def check_settings_are_used(config: RunConfig) -> None:
    """Refuse a teacher that is not there, and settings that would silently change nothing.

    Raises:
        UsageError: see above.
        ModelError: the teacher's name is unknown, or its file is not there.
    """
    teacher, student = config.teacher, config.student
    if student.freeze_backbone and (taps := methods.taps(config.method.name, **config.method.options).student):
        raise UsageError(
            f"method {config.method.name!r} teaches the student's features ({', '.join(taps)}), and "
            "student.freeze_backbone keeps them as they are",
            remedy="a method on logits, such as kd, or student.freeze_backbone: false",
        )
    if not is_model_path(teacher.model):
        resolve_name(teacher.model)
        _refuse(config, WEIGHTS_ALONE, "is trained here", "leave it away; data.img_size holds for it too")
        return
    alone = weights_alone(teacher.model)
    if alone is None and not (
        teacher.model.startswith("hf-hub:") or Path(teacher.model.removeprefix("local-dir:")).exists()
    ):
        raise UsageError(
            f"there is no teacher at {teacher.model!r}",
            allowed="a run folder, its teacher/ folder, a .safetensors, NAME=weights.pth, or the name of a network to "
            "train here",
        )
    _refuse(
        config, (*TRAINED_HERE, *OF_TRAINING), "is given", "leave it away, or give the name of a network to train here"
    )
    if alone is None:
        _refuse(config, WEIGHTS_ALONE, "says itself how its images are prepared", "leave it away")


def check_sizes(config: RunConfig, task: str, img_size: int) -> None:
    """Refuse images that a network of the run cannot read; called before any of them is decoded.

    Args:
        config: all settings.
        task: ``train`` or ``distill``.
        img_size: side of the views.

    Raises:
        ModelError: with the reason, and the nearest sizes that work.
    """
    check_size(config.student.model, img_size)
    if task == "distill" and not is_model_path(config.teacher.model):
        check_size(config.teacher.model, img_size)


def load_given(settings: TeacherConfig, data: Dataset) -> LoadedModel:
    """The trained teacher that the settings name.

    Weights alone say neither how images are prepared nor what their classes are called: the first is as set or as for
    the students, the second is taken from the data if the number of classes is theirs. ``notes`` says so.
    """
    if weights_alone(settings.model) is None:
        loaded = load_model(settings.model)
    else:
        size = settings.img_size or data.img_size
        loaded = load_model(settings.model, img_size=size, mean=settings.mean, std=settings.std)
    if loaded.names_are_known or len(loaded.classes) != data.num_classes:
        return loaded
    note = "its classes have no names; they are taken in the order of the data's, which the gate checks"
    return replace(loaded, classes=data.classes, notes=(*loaded.notes, note))


def provenance(loaded: LoadedModel) -> dict[str, str | None]:
    """Where the weights began (``started_from``), and their ``licence``: for cards."""
    origin = origin_of(loaded.model)
    return {
        "licence": (origin.licence if origin else None) or NOT_STATED,
        "started_from": origin.started_from if origin else None,
    }


def _refuse(config: RunConfig, keys: tuple[str, ...], why: str, remedy: str) -> None:
    unused = [key for key in keys if getattr(config.teacher, key) not in (None, False)]
    if unused:
        raise UsageError(
            f"the teacher {config.teacher.model!r} {why}, so teacher.{unused[0]} would not be used", remedy=remedy
        )
