"""Whether the teacher is asked for each batch, or once for V views of every image: decided, said, done, recorded.

**How many views there are never depends on the method or the disk**, so that runs of several methods see the same
pictures and can be compared. Whether the answers to them are kept changes nothing but rounding to float16, except
where images are mixed or only the largest logits are kept: that is done only where it is asked for, and said.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sapling import methods
from sapling.config import RunConfig
from sapling.data.answers import (
    LOGITS,
    TOP,
    AnswerStore,
    answers_folder,
    bytes_there,
    open_answers,
    part_name,
)
from sapling.data.layout import many
from sapling.data.loader import Dataset
from sapling.data.partwriter import CannotHoldError
from sapling.errors import DataError, UsageError
from sapling.record import Run, environment, read_json, write_json
from sapling.screen import Screen, duration
from sapling.teachers.build_cache import build_answers, bytes_per_view
from sapling.teachers.cached import TOP_LOGITS, CachedTeacher, keeps_all
from sapling.types import LATENT, Teacher
from sapling.workflows.passes import Machine
from sapling.workflows.teacher import CheckedTeacher

FILE = "answers.json"
ASKS_NONE = "asks no teacher"
LATENTS = (part_name(LATENT).rpartition(".")[0],)
"""How names of kept latents begin, whatever phase made them."""
VIEWS = 16
"""V where nothing is set; benchmarks/views_count.py measures what it costs in accuracy."""
WORTH = 0.75
"""Keeping pays from here on: the teacher answers V times, of what would be epochs x seeds times without it."""
SHARE_OF_DISK, MOST_BYTES = 0.5, 50 * 10**9


@dataclass(frozen=True, slots=True)
class Decision:
    """How students hear the teacher.

    Attributes:
        kept: whether its answers are kept.
        num_views: V; 0 for a fresh view every epoch.
        reason: why, as the end of a sentence.
        num_bytes: that the answers take, where they are kept.
        changed: what kept answers change beside rounding; empty for nothing.
        latents: whether the features are kept as the latents that a first phase makes of them: what it hears itself is
            asked for each batch.
    """

    kept: bool
    num_views: int
    reason: str
    num_bytes: int = 0
    changed: str = ""
    latents: bool = False

    @property
    def sentence(self) -> str:
        """What a run says of it."""
        views = many(self.num_views, "view") + " of every image" if self.num_views else "a fresh view every epoch"
        if self.kept:
            changed = f"; {self.changed}" if self.changed else ""
            latents = " as latents, once the first phase is done" if self.latents else ""
            size = size_in_words(self.num_bytes)
            return f"asked once for {views} and kept{latents} ({size}): {self.reason}{changed}"
        if self.reason.endswith(ASKS_NONE):
            return f"not asked: {self.reason}"
        return f"asked for each batch, {views}: {self.reason}"


def settle_views(config: RunConfig, epochs: int, *, mixed: bool) -> int:
    """V, a function of the settings alone: as set, or `VIEWS` where it pays to keep answers, else 0."""
    if config.data.num_views or config.teacher.cache == "off":
        return config.data.num_views
    if config.teacher.cache == "on":
        return VIEWS
    return VIEWS if not mixed and WORTH * epochs * config.train.num_seeds >= VIEWS else 0


def decide(
    config: RunConfig,
    data: Dataset,
    shapes: Mapping[str, tuple[int, ...]],
    epochs: int,
    there: Mapping[str, int] | None = None,
) -> Decision:
    """Decide by the settings, the sizes and the free disk.

    Args:
        config: the settings.
        data: the images.
        shapes: of the teacher's features that the method asks for, by tap.
        epochs: of the students.
        there: bytes of the answers that lie on the disk already, by part.

    Raises:
        UsageError: ``teacher.cache`` is ``on`` and cannot be.
    """
    mode, seeds, mixed = config.teacher.cache, config.train.num_seeds, data.mix.is_on
    views = settle_views(config, epochs, mixed=mixed)
    num_bytes = views * bytes_per_view(data, shapes)
    requires, arm = methods.requires(config.method.name, **config.method.options), config.method.arm
    against = _against(mode, requires, arm, mixed, bool(shapes))
    whole = keeps_all(data.num_classes, multi_label=data.multi_label)
    as_latents = False
    if against is None:
        free = _free(answers_folder())

        def fits(size: int, parts: tuple[str, ...]) -> bool:
            lie_there = sum(n for part, n in (there or {}).items() if part.startswith((LOGITS, TOP, *parts)))
            return max(size - lie_there, 0) <= free * SHARE_OF_DISK and not (mode == "auto" and size > MOST_BYTES)

        own = tuple(map(part_name, shapes))
        latents = methods.latent_shapes(config.method.name, shapes, **config.method.options) if shapes else {}
        if latents and not fits(num_bytes, own) and fits(smaller := views * bytes_per_view(data, latents), LATENTS):
            num_bytes, as_latents = smaller, True
        if not as_latents and not fits(num_bytes, own):
            against = (
                f"its answers would take {size_in_words(num_bytes)}, and {size_in_words(free)} of the disk are free"
                + _smaller(config, shapes)
            )
        elif mode == "auto" and not whole:
            against = f"of {data.num_classes:,} classes only the {TOP_LOGITS} largest logits would be kept"
        elif mode == "auto" and views == 0:
            against = f"{many(epochs, 'epoch')} x {many(seeds, 'seed')} are too few to pay for {VIEWS} views"
        elif mode == "auto" and views > WORTH * epochs * seeds:
            against = f"{many(views, 'view')} cost as much as {many(epochs, 'epoch')} x {many(seeds, 'seed')}"
    if against is not None:
        if mode == "on":
            raise UsageError(f"the teacher's answers cannot be kept: {against}", remedy="--teacher-cache auto, or off")
        return Decision(False, views, against)
    asked = f"else it would answer {epochs * seeds} times" if epochs * seeds > views else "as it is set"
    return Decision(True, views, asked, num_bytes, _changed(mixed, whole), as_latents)


def _smaller(config: RunConfig, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """How ``mimic`` would need less; empty for another method."""
    for place, method, own in methods.parts(config.method.name, **config.method.options):
        setting = "teacher_tap" if getattr(own, "teacher_tap", None) else "tap"
        if method.name == "mimic" and len(shapes.get(getattr(own, setting), ())) > 1:
            return f"; --set {place}.{setting}=embedding keeps a vector of each view in place of a map"
    return ""


def _changed(mixed: bool, whole: bool) -> str:
    """What kept answers change beside rounding, in words; empty for nothing."""
    told = ["the soft target of a mixed image is the mix of two answers"] if mixed else []
    told += [] if whole else [f"of each answer the {TOP_LOGITS} largest logits are kept"]
    return "; ".join(told)


def _against(mode: str, requires: methods.Requires, arm: str, mixed: bool, has_taps: bool) -> str | None:
    if mode == "off":
        return "keeping its answers is turned off"
    if not requires.teacher:
        return f"method {arm} {ASKS_NONE}"
    if requires.live_teacher:
        return f"method {arm} needs the teacher itself"
    if mixed and (mode == "auto" or has_taps):
        return "images are mixed, and what it said of two images is not what it would say of their mix"
    return None


def hear(
    run: Run,
    data: Dataset,
    teacher: CheckedTeacher,
    machine: Machine,
    epochs: int,
    screen: Screen,
) -> tuple[Dataset, Teacher]:
    """The teacher that students hear in this run, and the data with as many views as it answers.

    The decision is recorded in the run folder, and a run that goes on keeps to it.

    Raises:
        UsageError: ``teacher.cache`` is ``on`` and cannot be.
        RunError: ``on``, and the answers cannot be kept or are of another teacher.
        DataError: ``on``, and the disk is full.
    """
    config, file = run.config, run.path(FILE)
    taps = methods.taps(config.method.name, **config.method.options).teacher
    live = teacher.live(machine, taps)
    begun = _has_begun(run)
    if not file.exists():
        decision = (
            Decision(False, data.num_views, "the run was begun by a version that could not keep answers")
            if begun
            else decide(config, data, live.shapes, epochs, _there(config, data, teacher, machine, epochs))
        )
        write_json(file, {**asdict(decision), "sentence": decision.sentence, "seconds": 0.0})
    record = read_json(file)
    known = ("kept", "num_views", "reason", "num_bytes", "changed")
    decision = Decision(**{name: record[name] for name in known}, latents=record.get("latents", False))
    run.log(f"teacher: {decision.sentence}")
    data = replace(data, num_views=decision.num_views)
    if not decision.kept or decision.latents:
        return data, live
    return data, kept_or_live(run, data, teacher, live, machine, taps, screen)


def kept_or_live(
    run: Run,
    data: Dataset,
    teacher: CheckedTeacher,
    live: Teacher,
    machine: Machine,
    taps: tuple[str, ...],
    screen: Screen,
) -> Teacher:
    """The kept answers of a teacher; where they cannot be kept, and need not, the teacher itself. Both are recorded.

    Raises:
        RunError: ``on``, or the run has heard kept answers: they cannot be kept, or are of another teacher.
        DataError: ``on``, or the run has heard kept answers: the disk is full.
    """
    config, file, record = run.config, run.path(FILE), recorded(run)
    try:
        cached, seconds = keep(data, teacher, live, machine, taps, config.evaluate.batch_size, screen)
    except (CannotHoldError, DataError) as error:
        if config.teacher.cache == "on" or _has_begun(run):  # a run that has heard kept answers goes on with them
            raise
        instead = Decision(False, record["num_views"], str(error.what))
        write_json(file, {**record, **asdict(instead), "sentence": instead.sentence})
        run.log(f"teacher: {instead.sentence}")
        return live
    if seconds:
        write_json(file, {**record, "seconds": round(record["seconds"] + seconds, 3)})
        run.log(f"teacher: its answers were kept in {duration(seconds)}: {cached.store.place.name}")
    else:
        run.log(f"teacher: its answers were there: {cached.store.place.name}")
    return cached


def _has_begun(run: Run) -> bool:
    """Whether students of the run were trained, or half trained."""
    return any(run.path("checkpoints").glob("seed*")) or any(run.path("members").glob("*-s*/member.json"))


def _there(config: RunConfig, data: Dataset, teacher: CheckedTeacher, machine: Machine, epochs: int) -> dict[str, int]:
    views = settle_views(config, epochs, mixed=data.mix.is_on)
    return bytes_there(fingerprint(data, teacher, machine), data.split.train, num_views=views)


def recorded(run: Run) -> dict[str, Any]:
    """How students of a run heard their teacher, as it was decided; empty where nobody decided."""
    file = run.path(FILE)
    return dict(read_json(file)) if file.exists() else {}


def keep(
    data: Dataset,
    teacher: CheckedTeacher,
    live: Teacher,
    machine: Machine,
    taps: tuple[str, ...],
    batch_size: int,
    screen: Screen,
) -> tuple[CachedTeacher, float]:
    """The kept answers of a teacher, made where they are missing, and the seconds that took."""
    store = open_store_of(data, teacher, machine)
    total = data.num_views * len(store.rows)
    with screen.bar("teacher's answers", total) as bar:
        seconds = build_answers(
            store,
            live,
            data,
            taps=taps,
            batch_size=batch_size,
            device=machine.device,
            progress=lambda done: bar.advance(done, ""),
        )
    return CachedTeacher(live, store, num_classes=data.num_classes, taps=taps, multi_label=data.multi_label), seconds


def open_store_of(data: Dataset, teacher: CheckedTeacher, machine: Machine) -> AnswerStore:
    """Where the answers of this teacher to these views lie."""
    return open_answers(
        fingerprint(data, teacher, machine), data.split.train, num_views=data.num_views, name=data.source.name
    )


def fingerprint(data: Dataset, teacher: CheckedTeacher, machine: Machine) -> dict[str, Any]:
    """Everything that the answers depend on: neither seed, student nor method of a run."""
    return {
        **{f"teacher.{k}": v for k, v in teacher.identity.items()},
        "sapling": environment()["sapling"],
        "data": data.store.fingerprint,
        "img_size": data.img_size,
        "views": asdict(data.spec),
        "view_seed": data.view_seed,
        "device": machine.device.partition(":")[0],
        "precision": machine.precision,
    }


def _free(folder: Path) -> int:
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(place).free


def size_in_words(count: int) -> str:
    """``12.3 MB`` of a number of bytes."""
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= u or n == "kB")
    return f"{count / unit:,.1f} {name}"
