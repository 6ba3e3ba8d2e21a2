"""A phase of a method that runs before there is a student: the method alone learns from the teacher's outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sapling.engine.averaging import Average
from sapling.engine.checkpoint import load_checkpoint, save_checkpoint
from sapling.engine.objective import ANEW, DIVERGED, check_finite, weighted_sum
from sapling.engine.optim import OptimSettings, learning_rate, make_optimizer
from sapling.engine.plan import Stretch
from sapling.engine.prefetch import ahead
from sapling.engine.trainer import GPU_CHECK_STEPS, Meter, PassSettings, TrainData, Watcher, floats
from sapling.errors import TrainingError
from sapling.methods.base import Method
from sapling.types import Phase, Teacher

MOST_CHECKPOINTS = 20
"""Phases of many short epochs would else write more than they train."""

Report = Callable[[dict[str, Any]], None]


@dataclass
class Apprentice:
    """What a checkpoint takes for a member: a method that has no student yet.

    Attributes:
        name: of the method.
        method: the same.
        optimizer: of the parts that the phase trains.
        student: an empty network.
        average: none.
    """

    name: str
    method: Method
    optimizer: torch.optim.Optimizer
    student: nn.Module = field(default_factory=nn.Module)
    average: Average | None = None


def phase_epochs(phase: Phase, num_batches: int) -> int:
    """How many epochs a phase without the student has, where an epoch has ``num_batches``."""
    return max(phase.epochs or 1, -(-phase.min_steps // num_batches))


def fit_phase(
    method: Method,
    phase: Phase,
    data: TrainData,
    settings: PassSettings,
    optim: OptimSettings,
    *,
    teacher: Teacher,
    report: Report | None = None,
    checkpoint: Path | None = None,
    watcher: Watcher | None = None,
) -> float:
    """Train the own parts of a method on the teacher's outputs; goes on from ``checkpoint`` when it exists.

    Batches, views and random numbers are functions of ``settings.seed`` and the epoch, as in a pass.

    Args:
        method: in the state in which the phase begins; its parts are changed in place.
        phase: one with ``uses_student=False``.
        data: gives the batches.
        settings: how; ``name`` tells the lines of this phase, ``epochs`` are its own.
        optim: how weights move.
        teacher: gives the outputs.
        report: called once per epoch with a row.
        checkpoint: written about 20 times.
        watcher: progress.

    Returns:
        Seconds that it took, those before a kill among them.

    Raises:
        TrainingError: a term or a weight is not finite.
        RunError: the checkpoint does not fit.
    """
    method.to(settings.device)
    method.train()
    method.begin_phase(phase)
    parts: list[nn.Module] = [method.get_submodule(name) for name in phase.parts] or [method]
    member = Apprentice(method.name, method, make_optimizer(parts, optim))
    stretch, weights = Stretch(phase, 0, settings.epochs), method.weights_in(phase)
    num_batches, seconds, first = data.num_batches(settings.batch_size), 0.0, 0
    if checkpoint and checkpoint.exists():
        first, extra = load_checkpoint(checkpoint, [member])
        seconds = float(extra.get("seconds", 0.0))
        if watcher:
            watcher.advance(first * num_batches, f"{phase.name}, resumed at epoch {first + 1}")
    every = max(1, settings.epochs // MOST_CHECKPOINTS)
    for epoch in range(first, settings.epochs):
        started, meter = time.perf_counter(), Meter()
        batches = data.train_batches(
            epoch,
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=settings.device,
            channels_last=settings.channels_last,
        )
        with ahead(batches, in_thread=settings.device != "cpu") as ready:
            for number, batch in enumerate(ready):
                count = epoch * num_batches + number
                torch.manual_seed((settings.seed << 32) + count)
                for group in member.optimizer.param_groups:
                    group["lr"] = learning_rate(optim, count)
                step = stretch.step(epoch, number / num_batches, tuple(weights))
                terms = method(None, teacher.outputs(batch), batch, step)
                loss = weighted_sum(terms, weights)
                member.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if optim.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_([p for m in parts for p in m.parameters()], optim.clip_norm)
                member.optimizer.step()
                found = {**{k: v.detach() for k, v in terms.items()}, "loss": loss.detach()}
                if settings.device == "cpu" or number % GPU_CHECK_STEPS == 0 or number + 1 == num_batches:
                    check_finite(floats(found), member=method.name, step=step, batch=number)
                meter.add(found)
                if watcher:
                    watcher.advance(1, f"{phase.name}, epoch {epoch + 1}/{settings.epochs}")
        _check_state(method, phase, epoch)
        taken = time.perf_counter() - started
        seconds += taken
        if report:
            row = {"pass": settings.name, "member": method.name, "epoch": epoch, "epochs": settings.epochs}
            rate = learning_rate(optim, (epoch + 1) * num_batches - 1)
            spent = round(taken, 3)
            report({**row, "phase": phase.name, "lr": rate, "train": meter.means(), "seconds": spent})
        if checkpoint and ((epoch + 1) % every == 0 or epoch + 1 == settings.epochs):
            name = {method.name: phase.name}
            save_checkpoint(checkpoint, [member], epochs_done=epoch + 1, extra={"seconds": seconds}, phases=name)
    return seconds


def _check_state(method: Method, phase: Phase, epoch: int) -> None:
    for name, value in method.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(
                f"{DIVERGED}: {name} of method {method.name!r} is no longer finite after epoch {epoch + 1}",
                where=f"phase {phase.name}",
                remedy=f"lower its learning rate (--set method.phase1_lr=1e-4), or use --amp fp32{ANEW}",
            )
