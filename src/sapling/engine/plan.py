"""Which phase of a method an epoch belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sapling.errors import RunError
from sapling.methods.base import Method
from sapling.types import Phase, Step

MIN_WHOLE_STEPS = 50
"""Of training on whole images after small ones: 0.5 % of a running mean with momentum 0.1 is then left of the small."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A phase and its epochs.

    Attributes:
        phase: what is trained.
        first: its first epoch.
        last: the epoch after its last.
    """

    phase: Phase
    first: int
    last: int

    def step(self, epoch: int, share: float, terms: tuple[str, ...]) -> Step:
        """Where a batch stands, ``share`` of epoch ``epoch`` being done."""
        done = (epoch - self.first + share) / (self.last - self.first)
        return Step(self.phase.name, epoch, done, terms)


def before_students(method: Method) -> list[Phase]:
    """Phases that are trained without the student and have anything to do."""
    return [p for p in method.phases() if not p.uses_student and method.active_terms(p)]


def stretches(method: Method, epochs: int) -> list[Stretch]:
    """Share the common epochs out among the phases that use the student.

    A phase has the epochs that it asks for; those that ask for none share what is left, and what is left over goes to
    the last.

    Raises:
        RunError: there are fewer epochs than the phases need.
    """
    phases = [p for p in method.phases() if p.uses_student]
    open_ended = [p for p in phases if p.epochs is None]
    left = epochs - sum(p.epochs or 0 for p in phases)
    if left < len(open_ended) or not phases:
        wanted = ", ".join(f"{p.name} {p.epochs or 1}" for p in phases)
        raise RunError(
            f"the phases of {method.name!r} need more epochs ({wanted}) than the {epochs} of this run",
            remedy=f"--epochs {epochs - left + len(open_ended)} or more",
        )
    found: list[Stretch] = []
    first = 0
    for phase in phases:
        length = phase.epochs if phase.epochs is not None else left // len(open_ended)
        last = epochs if phase is phases[-1] else first + length
        found.append(Stretch(phase, first, last))
        first = last
    return found


def half_size_epochs(share: float, epochs: int, steps: int) -> int:
    """The number of epochs, from the first, with images of half the side.

    At least ``MIN_WHOLE_STEPS`` steps, and an epoch, are left for whole images: statistics of small images that batch
    norm has gathered would be shipped otherwise.

    Args:
        share: of the epochs that is wanted.
        epochs: in all.
        steps: of an epoch.
    """
    return max(0, min(round(share * epochs), epochs - math.ceil(MIN_WHOLE_STEPS / steps)))
