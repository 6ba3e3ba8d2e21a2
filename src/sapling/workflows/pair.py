"""Student, teacher and method put together once before anything is trained: a pair that does not fit is refused here.

What is built has random weights where it would be trained in the run, and is thrown away. ``--dry-run`` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sapling import methods
from sapling.config import RunConfig
from sapling.data.loader import Dataset
from sapling.engine.plan import half_size_epochs
from sapling.errors import ModelError
from sapling.models.create import create_model, resolve_name
from sapling.models.load import LoadedModel, Preprocess
from sapling.models.tapped import TappedModel
from sapling.teachers.ensemble import Ensemble
from sapling.teachers.gate import check_classes
from sapling.teachers.live import LiveTeacher
from sapling.workflows.conflicts import check_batch
from sapling.workflows.dataset import check_bands
from sapling.workflows.networks import is_given, load_given, parts_of
from sapling.workflows.passes import batch_size_for, epochs_for, pair_info, preprocess_for

Network = tuple[torch.nn.Module, Preprocess]


def check_pair(config: RunConfig, data: Dataset) -> None:
    """Refuse a student, a teacher and a method that do not go together; no random number of the run is drawn.

    Raises:
        ModelError: a network has no such tap, or a given teacher does not fit the data.
        GateError: a given teacher knows other classes.
        MethodError: the method cannot be built for this pair.
        ConfigError: its settings do not fit this pair.
        UsageError: the method compares more images than there are to train on.
    """
    with torch.random.fork_rng(devices=[]):
        build_pair(config, data, student_network(config, data), teacher_networks(config, data))


def student_network(config: RunConfig, data: Dataset) -> torch.nn.Module:
    """A student of the settings with random weights."""
    return _untrained(resolve_name(config.student.model), data)


def teacher_networks(config: RunConfig, data: Dataset) -> list[Network]:
    """The networks that the teacher's name means: those that are given, or one with random weights.

    Raises:
        ModelError: a given one cannot be read, or does not fit the data.
        GateError: it knows other classes.
    """
    found: list[Network] = []
    given = is_given(config.teacher.model)
    for part in parts_of(config.teacher.model):
        if given:
            loaded = load_given(config.teacher.model_copy(update={"model": part}), data)
            check_given(loaded, data, where=part)
            found.append((loaded.model, loaded.preprocess))
        else:
            network = _untrained(part, data)
            found.append((network, preprocess_for(network, data)))
    return found


def check_given(loaded: LoadedModel, data: Dataset, *, where: str) -> None:
    """Refuse a given teacher of other classes, bands or kind of labels than the data have.

    Raises:
        GateError: of other classes.
        ModelError: of other bands or labels.
    """
    check_classes(loaded.classes, data.classes, where=where)
    check_bands(loaded.preprocess, data, where=where)
    if loaded.multi_label != data.multi_label:
        has, wanted = ("several labels", "one class") if loaded.multi_label else ("one class", "several labels")
        raise ModelError(
            f"the teacher was trained for {has} per image, the data may have {wanted}",
            where=where,
            remedy="a teacher trained on such data: sapling train DATA --model resnet18",
        )


def build_pair(config: RunConfig, data: Dataset, student: torch.nn.Module, teachers: list[Network]) -> methods.Method:
    """The method for this pair; building it also shows whether the pair fits.

    ``teachers`` are those of :func:`teacher_networks`; one that will be trained stands for all that will be.
    """
    name, options = config.method.name, config.method.options
    check_batch(config, methods.requires(name, **options).min_batch, len(data.split.train))
    taps = methods.taps(name, **options)
    with _named("the student", config.student.model):
        own = TappedModel(student, preprocess_for(student, data), taps.student)
    small_epochs(config, data, own)
    each = teachers if is_given(config.teacher.model) else teachers * config.teacher.num_teachers
    with _named("the teacher", config.teacher.model):
        theirs = [TappedModel(model, preprocess, taps.teacher, bands=data.store.bands) for model, preprocess in each]
    answering = theirs[0] if len(theirs) == 1 else Ensemble(theirs)
    # It answers nothing here; in bf16 no time is spent on making it fast.
    live = LiveTeacher(answering, device="cpu", bf16=True, channels_last=False)
    return methods.build(name, pair_info(data, own, live), **options)


def small_epochs(config: RunConfig, data: Dataset, student: TappedModel) -> int:
    """The number of epochs in which the student reads images of half the side.

    Raises:
        ModelError: there are some, and the student cannot, or its taps have another shape then.
    """
    epochs, steps = epochs_for(config, data), data.num_batches(batch_size_for(config, data))
    found = half_size_epochs(config.train.half_size_share, epochs, steps)
    if found:
        with _named("the student", config.student.model):
            student.check_half_size()
    return found


@contextmanager
def _named(role: str, name: str) -> Iterator[None]:
    """An error about a network says which of the two it is, by the name that it has in the settings."""
    try:
        yield
    except ModelError as error:
        where = f"{role}, {name}" + (f" ({error.where})" if error.where else "")
        raise ModelError(error.what, where=where, allowed=error.allowed, remedy=error.remedy) from error


def _untrained(name: str, data: Dataset) -> torch.nn.Module:
    return create_model(name, num_classes=data.num_classes, in_chans=data.num_channels, img_size=data.img_size)
