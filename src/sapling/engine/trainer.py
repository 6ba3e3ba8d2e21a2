"""The loop: one batch, one teacher, every member of the pass.

    batch -> teacher.outputs(batch) -> student(images) -> method(student, teacher) -> weighted sum -> step

All members see the same images in the same order with the same augmentation; that is what makes control and
distilled student comparable, and the data and the teacher are paid once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sapling.engine.averaging import Average
from sapling.engine.checkpoint import load_checkpoint, save_checkpoint
from sapling.engine.gradients import TOTAL, is_due, stride, term_norms, total_norm
from sapling.engine.objective import ANEW, DIVERGED, check_finite, heavy_term, weighted_sum
from sapling.engine.optim import OptimSettings, learning_rate, make_optimizer
from sapling.engine.plan import Stretch, stretches
from sapling.engine.prefetch import ahead
from sapling.engine.stopwatch import Stopwatch
from sapling.errors import RunError, TrainingError
from sapling.methods.base import Method
from sapling.methods.own import explained
from sapling.models.tapped import TappedModel, resized
from sapling.types import Batch, Outputs, Step, Teacher

GPU_CHECK_STEPS = 20  # reading a loss waits for the GPU: do it now and then


@dataclass
class Member:
    """One student being trained.

    Attributes:
        name: unique in the run, ``kd-s0`` for example; names its folder.
        arm: what it stands for in the comparison: ``control`` or the method's name.
        seed: initial weights, batch order, random numbers.
        student: the network.
        method: turns outputs into terms; its own parameters are trained with the student's.
        optim: how weights move.
        ema_decay: of the moving average of the student's weights that is evaluated and kept; None: no average.
    """

    name: str
    arm: str
    seed: int
    student: TappedModel
    method: Method
    optim: OptimSettings
    ema_decay: float | None = None
    average: Average | None = field(init=False, default=None)
    optimizer: torch.optim.Optimizer = field(init=False)
    seconds: float = 0.0
    active: dict[str, float] = field(init=False, default_factory=dict)
    terms: tuple[str, ...] = field(init=False, default=())
    stretch: Stretch = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer([self.student, self.method], self.optim)
        self.weights = dict(self.method.weights)

    def enter(self, stretch: Stretch) -> None:
        """Begin a phase, or go on with it: its terms count, its frozen parts stand still."""
        if stretch != getattr(self, "stretch", None):
            self.method.begin_phase(stretch.phase)
            self.active = self.method.weights_in(stretch.phase)
            self.terms = tuple(self.active)
        self.stretch = stretch


class TrainData(Protocol):
    """What the loop needs of the data."""

    def num_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""

    def train_batches(
        self, epoch: int, *, batch_size: int, seed: int, device: str, channels_last: bool
    ) -> Iterator[Batch]:
        """The batches of an epoch: a pure function of (seed, epoch)."""


@dataclass(frozen=True, slots=True)
class PassSettings:
    """How a pass is run.

    Attributes:
        name: ``teacher``, ``seed0``, ..; names the checkpoint and the log lines.
        epochs: number of epochs.
        batch_size: images per step.
        seed: of the batch order; all members of a pass share it.
        device: ``cpu``, ``cuda``, ..
        bf16: whether the forward runs under bf16 autocast; losses never do.
        channels_last: memory format of images and weights.
        half_size_epochs: so many epochs, from the first, in which students read their images at half the side; the
            teacher is always asked about the whole ones.
    """

    name: str
    epochs: int
    batch_size: int
    seed: int
    device: str
    bf16: bool
    channels_last: bool
    half_size_epochs: int = 0


class Watcher(Protocol):
    """Sees training without touching it."""

    def advance(self, steps: int, note: str) -> None:
        """So many steps are done."""


Evaluate = Callable[[Member], Mapping[str, Any]]
Report = Callable[[list[dict[str, Any]]], None]


@explained()
def fit(
    members: Sequence[Member],
    data: TrainData,
    settings: PassSettings,
    *,
    teacher: Teacher | None = None,
    evaluate: Evaluate | None = None,
    report: Report | None = None,
    checkpoint: Path | None = None,
    watcher: Watcher | None = None,
) -> dict[str, float]:
    """Train all members of a pass; goes on from ``checkpoint`` when it exists.

    Phases of a method without the student are not trained here but before, by :func:`sapling.engine.phases.fit_phase`.

    Args:
        members: of one seed.
        data: gives the batches.
        settings: how.
        teacher: needed when any member's method uses one.
        evaluate: called for each member after each epoch (on validation); its result is reported.
        report: called once per epoch with one row per member.
        checkpoint: written after every epoch.
        watcher: progress.

    Returns:
        Seconds: ``teacher``, ``data``, ``evaluation``, and each member by name.

    Raises:
        TrainingError: a term is not finite.
        RunError: members of several seeds, or a checkpoint that does not fit.
    """
    if len({m.seed for m in members}) != 1 or len({m.name for m in members}) != len(members):
        raise RunError("a pass holds members of one seed with different names", where=settings.name)
    plan = {m.name: stretches(m.method, settings.epochs) for m in members}
    first_epoch, clock = 0, dict.fromkeys(("teacher", "data", "evaluation", *(m.name for m in members)), 0.0)
    for member in members:
        member.student.to(settings.device)
        member.method.to(settings.device)
        if settings.channels_last:
            member.student.to(memory_format=torch.channels_last)
        member.average = Average(member.student, member.ema_decay) if member.ema_decay is not None else None
    if checkpoint and checkpoint.exists():
        first_epoch, seconds = load_checkpoint(checkpoint, members)
        clock.update({k: float(v) for k, v in seconds.items()})
        if watcher:
            watcher.advance(first_epoch * data.num_batches(settings.batch_size), f"resumed at epoch {first_epoch + 1}")
    for epoch in range(first_epoch, settings.epochs):
        for member in members:
            member.enter(next(s for s in plan[member.name] if s.first <= epoch < s.last))
            if member.average and epoch >= settings.half_size_epochs:
                # an average begins anew with whole images: that of small ones holds their batch-norm statistics
                member.average.first_step = settings.half_size_epochs * data.num_batches(settings.batch_size)
        rows = _train_epoch(members, data, settings, epoch, teacher, clock, watcher)
        for member in members:
            check_state(member, epoch)
        started = time.perf_counter()
        for member, row in zip(members, rows, strict=True):
            if evaluate:
                with member.average.applied() if member.average else contextlib.nullcontext():
                    row["val"] = dict(evaluate(member))
        clock["evaluation"] += time.perf_counter() - started
        if report:
            report(rows)
        if checkpoint:
            phases = {m.name: m.stretch.phase.name for m in members}
            save_checkpoint(checkpoint, members, epochs_done=epoch + 1, extra=clock, phases=phases)
    for member in members:
        member.seconds = clock[member.name]
        if member.average:
            member.average.settle()
    return clock


def check_state(member: Member, epoch: int) -> None:
    """Refuse weights and batch-norm statistics that are not finite, before a checkpoint keeps them.

    Raises:
        TrainingError: names the tensor and the epoch.
    """
    for name, value in member.student.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(
                f"{DIVERGED}: {name} of member {member.name!r} is no longer finite after epoch {epoch + 1}",
                remedy=heavy_term(member.active, member.method.usual_weights)
                or f"lower the learning rate (--lr), or use --amp fp32{ANEW}",
            )


def _train_epoch(
    members: Sequence[Member],
    data: TrainData,
    settings: PassSettings,
    epoch: int,
    teacher: Teacher | None,
    clock: dict[str, float],
    watcher: Watcher | None,
) -> list[dict[str, Any]]:
    num_batches = data.num_batches(settings.batch_size)
    needs_teacher = any(m.method.requires.teacher and set(m.terms) - {"ce", "bce"} for m in members)
    meters, pulls = ({m.name: Meter() for m in members} for _ in range(2))
    every = stride([len(m.terms) for m in members], num_batches * settings.epochs)
    before = dict(clock)
    phases = "".join(sorted({f"{m.stretch.phase.name}, " for m in members if len(m.method.phases()) > 1}))
    for member in members:
        member.student.train()
        member.method.train()
    batches = data.train_batches(
        epoch,
        batch_size=settings.batch_size,
        seed=settings.seed,
        device=settings.device,
        channels_last=settings.channels_last,
    )
    watch = Stopwatch(clock, settings.device)
    with ahead(batches, in_thread=settings.device != "cpu") as ready:
        for number, batch in enumerate(ready):
            watch.charge("data")
            target = teacher.outputs(batch) if teacher is not None and needs_teacher else None
            watch.charge("teacher")
            if epoch < settings.half_size_epochs:
                batch = replace(batch, images=resized(batch.images, members[0].student.half_size))
            for member in members:
                step = member.stretch.step(epoch, number / num_batches, member.terms)
                place = epoch * num_batches + number
                pull = pulls[member.name] if is_due(place, every) else None
                terms = _train_step(member, batch, target, step, place, settings, pull)
                if settings.device == "cpu" or number % GPU_CHECK_STEPS == 0 or number + 1 == num_batches:
                    heavy = heavy_term(member.active, member.method.usual_weights)
                    check_finite(floats(terms), member=member.name, step=step, batch=number, heavy=heavy)
                meters[member.name].add(terms)
                watch.charge(member.name)
            if watcher:
                watcher.advance(1, f"{phases}epoch {epoch + 1}/{settings.epochs}")
    watch.settle()
    return [
        {
            "pass": settings.name,
            "member": m.name,
            "epoch": epoch,
            "epochs": settings.epochs,
            "phase": m.stretch.phase.name,
            "lr": learning_rate(m.optim, (epoch + 1) * num_batches - 1),
            "train": meters[m.name].means(),
            **({"gradients": {**p.means(), "steps": p.count}} if (p := pulls[m.name]).count else {}),
            "seconds": round(clock[m.name] - before[m.name], 3),
        }
        for m in members
    ]


def _train_step(
    member: Member,
    batch: Batch,
    target: Outputs | None,
    step: Step,
    number: int,
    settings: PassSettings,
    pull: Meter | None = None,
) -> dict[str, Tensor]:
    """One step of one member; returns its detached terms, ``loss`` among them. ``pull`` gets their gradients' norms."""
    # the same stream of random numbers for every member of this seed at this step, wherever a run was resumed
    torch.manual_seed((member.seed << 32) + number)
    for group in member.optimizer.param_groups:
        group["lr"] = learning_rate(member.optim, number) * group.get("lr_scale", 1.0)
    is_small = step.epoch < settings.half_size_epochs
    with autocast(settings.device, bf16=settings.bf16):
        student = member.student(batch.images, batch.images.shape[-1] if is_small else None)
    terms = member.method(student, target, batch, step)
    loss = weighted_sum(terms, member.active)
    norms = term_norms(terms, member.active, member.student) if pull is not None and len(member.terms) > 1 else {}
    member.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if pull is not None:
        total = total_norm(member.student, loss)
        pull.add({**(norms or {member.terms[0]: total}), TOTAL: total})
    if member.optim.clip_norm is not None:
        # apart: a method's own gradients must not shorten the student's step against its control's
        for parameters in (list(member.student.parameters()), list(member.method.parameters())):
            if parameters:
                torch.nn.utils.clip_grad_norm_(parameters, member.optim.clip_norm)
    member.optimizer.step()
    if member.average:
        member.average.update(number)
    seen = {f"_{k}": v for k, v in member.method.observations().items()}  # the report draws no curve of a _name
    return {**{k: v.detach() for k, v in terms.items()}, **seen, "loss": loss.detach()}


def autocast(device: str, *, bf16: bool) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where it is wanted, nothing elsewhere."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16) if bf16 else contextlib.nullcontext()


class Meter:
    """Mean of each term over an epoch, kept on the device until it is read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take in the terms of a batch."""
        self.count += 1
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()

    def means(self) -> dict[str, float]:
        """The mean of each."""
        return {name: float(total) / self.count for name, total in self._sums.items()}


def floats(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Values of terms; waits for the device."""
    return {name: float(value) for name, value in terms.items()}
