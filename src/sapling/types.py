"""The few types that pass between the parts. Imports torch and nothing of Sapling.

Shapes: B batch, C channels, H and W pixels, T tokens, D embedding, K classes, N training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

LATENT = "latent:"
"""How the name of a feature begins that a method made of the teacher's with parts that stand still."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of views, on the device.

    Attributes:
        images: ``[B,C,H,W]`` float32 in [0,1]; each network normalises for itself.
        labels: ``[B]`` int64, or None where the images have no labels.
        indices: ``[B]`` int64, positions in the packed store.
        views: ``[B]`` int64, number of the view that was drawn.
        targets: ``[B,K]`` float32 for mixed or multi-label images, else None.
        shares: ``[B]`` float32 where each image is mixed with the next one (the last with the first): its own weight
            in its target; else None. The images that were mixed are the views of ``indices``.
        known: ``indices`` and ``views`` in the processor's own memory, where they are there anyway; see :meth:`on_cpu`.
    """

    images: Tensor
    labels: Tensor | None
    indices: Tensor
    views: Tensor
    targets: Tensor | None = None
    shares: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None

    def on_cpu(self) -> tuple[Tensor, Tensor]:
        """``indices`` and ``views`` on the CPU, to look something up; waits for a GPU only where nobody kept them."""
        return self.known or (self.indices.cpu(), self.views.cpu())


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a network says of a batch; one type for student, live teacher and cached teacher.

    Always float32 when a method sees it.

    Attributes:
        logits: ``[B,K]``.
        features: tap name to ``[B,C,H,W]``, ``[B,T,D]`` or ``[B,D]``.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taps:
    """Names of the features that a method wants: ``stage1``.., ``embedding``, ``last_map``, a module path, .."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PairInfo:
    """What a method may know of the pair when it is built.

    Attributes:
        num_classes: K.
        num_samples: N.
        student_shapes: tap name to shape without B.
        teacher_shapes: the same for the teacher.
        train_labels: ``[N]`` int64, or None.
        teacher_card: classifier weight and bias, class-mean embeddings and such, or None.
        student_without_activation: those of the student's taps with ``.pre`` that no activation follows: they
            give the stage's output itself. A method that needs values below 0 asks here.
        teacher_without_activation: the same for the teacher.
        multi_label: whether an image may have several labels: the label term is then ``bce``, each logit answers for
            itself, and batches have targets and no labels.
        train_indices: ``[N]`` int64, what ``Batch.indices`` calls the images of ``train_labels``; None: 0 to N - 1.
        student_places: tap name to where it lies in the student (``TappedModel.places``), for a method that ships
            another network than the student.
    """

    num_classes: int
    num_samples: int
    student_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    teacher_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    train_labels: Tensor | None = None
    teacher_card: Mapping[str, Tensor] | None = None
    student_without_activation: tuple[str, ...] = ()
    teacher_without_activation: tuple[str, ...] = ()
    multi_label: bool = False
    train_indices: Tensor | None = None
    student_places: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with its own terms.

    Attributes:
        name: what the log calls it.
        epochs: its length; None means all that the run gives.
        terms: the terms that are active; empty means all.
        frozen: own parts of the method (attribute names) that stand still in eval mode.
        uses_student: False for a phase that runs before the common epochs and leaves the student alone. What follows
            is for such phases; the others have the settings of the run.
        parts: own parts that it trains and hands on; empty means all.
        min_steps: it has more epochs than ``epochs`` where that would be fewer steps.
        optimizer: ``sgd`` or ``adamw``; None: as the students'.
        lr: highest learning rate of a cosine; None: as the students'.
        weight_decay: None: as the students'.
    """

    name: str = "train"
    epochs: int | None = None
    terms: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    uses_student: bool = True
    parts: tuple[str, ...] = ()
    min_steps: int = 0
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Where training stands when a method is called.

    Attributes:
        phase: name of the phase.
        epoch: number of the epoch, from 0.
        progress: share of the phase that is done, in [0,1).
        terms: the terms that the objective will use; empty means all.
    """

    phase: str = "train"
    epoch: int = 0
    progress: float = 0.0
    terms: tuple[str, ...] = ()

    def wants(self, term: str) -> bool:
        """Whether ``term`` is used at all: a term of weight 0 need not be computed."""
        return not self.terms or term in self.terms


class Teacher(Protocol):
    """Anything that gives the teacher's outputs for a batch, without gradient."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name to shape without B."""

    @property
    def taps_without_activation(self) -> tuple[str, ...]:
        """Taps with ``.pre`` that are the stage's output itself, because no activation makes it."""

    @property
    def card(self) -> Mapping[str, Tensor] | None:
        """Classifier weight and bias and such, or None."""

    def outputs(self, batch: Batch) -> Outputs:
        """Outputs for the batch, detached and float32."""
