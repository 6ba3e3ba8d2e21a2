"""The teacher's latents, kept in place of its features: what a first phase that froze an encoder makes of them.

The features of a large teacher may not fit on the disk where the latents do. The first phase then hears the teacher
itself, and after it the teacher is asked once for every view, and what the frozen encoder makes of the answer is kept
beside the logits: exactly what students would else make of it in every step, rounded to float16. The name of the part
holds the hashes of the encoder's weights and of all that made them, so that latents of another phase are never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from sapling.data.dataset import Dataset
from sapling.methods.base import Method
from sapling.record import Run
from sapling.screen import Screen
from sapling.types import LATENT, Batch, Outputs, Teacher
from sapling.workflows.answers import kept_or_live, recorded
from sapling.workflows.passes import Machine
from sapling.workflows.phases import phase_identity
from sapling.workflows.teacher import CheckedTeacher


@runtime_checkable
class Encodes(Protocol):
    """A method with a first phase after which it can hear latents."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one image's latent."""

    def latents(self, teacher: Outputs) -> Tensor:
        """What it makes of the teacher's features."""


class LatentTeacher:
    """A teacher that answers with logits and latents.

    Args:
        live: the teacher, with the taps of the method.
        method: after its first phase.
        name: of the latents among the features.
    """

    def __init__(self, live: Teacher, method: Encodes, name: str) -> None:
        self._live, self._method, self._name = live, method, name
        self.shapes: Mapping[str, tuple[int, ...]] = {name: method.latent_shape}
        self.taps_without_activation: tuple[str, ...] = ()
        self.card = live.card

    def outputs(self, batch: Batch) -> Outputs:
        """Logits, and the latents as the only feature."""
        found = self._live.outputs(batch)
        return Outputs(found.logits, {self._name: self._method.latents(found)})


def after_phases(
    run: Run,
    data: Dataset,
    teacher: CheckedTeacher,
    heard: Teacher,
    machine: Machine,
    methods: Iterable[Method],
    screen: Screen,
) -> Teacher:
    """The teacher that students of these methods hear, whose phases before them are done: ``heard``, or its latents.

    Raises:
        RunError: latents were heard before, and cannot be kept any more; or must be kept (``on``), and cannot.
        DataError: the same, the disk being full.
    """
    if not recorded(run).get("latents"):
        return heard
    method = next(m for m in methods if isinstance(m, Encodes))
    found = latent_teacher(run, heard, machine, method)
    return kept_or_live(run, data, teacher, found, machine, tuple(found.shapes), screen)


def latent_teacher(run: Run, live: Teacher, machine: Machine, method: Encodes) -> LatentTeacher:
    """The teacher as students of a run hear it, by a method that has what the run's phases before them made."""
    assert isinstance(method, Method)
    method.to(machine.device)
    method.begin_phase(next(phase for phase in method.phases() if phase.uses_student))  # the encoder stands still
    return LatentTeacher(live, method, LATENT + phase_identity(run, method)[:16])
