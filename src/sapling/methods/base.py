"""What a distillation method is: a function from two ``Outputs`` to named, unweighted, scalar terms.

A method never holds or calls a network. A new method is one file beside this one: a docstring (see
``describe.py`` for its headings), a class with ``terms``, ``Config`` and ``forward``. Everything else has a
default here. The life of a method:

1. ``taps(config)`` says which features the two networks must hand out;
2. ``__init__(config, info)`` makes its own parts (projectors, banks) from the shapes in ``PairInfo``;
3. for each of ``phases()``: ``begin_phase(phase)``, then ``forward(student, teacher, batch, step)`` per
   batch; the engine multiplies the terms by ``weights``, adds them, and trains ``parameters()`` with the
   student's;
4. ``deployable(student)`` gives the network to ship.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from sapling.errors import ConfigError, MethodError, nearest
from sapling.losses.checks import full_precision
from sapling.methods.labelloss import LabelLoss
from sapling.methods.weights import (
    LABEL_TERM,
    SEVERAL_LABELS_TERM,
    check_weights,
    default_weights,
    given_weights,
)
from sapling.types import Batch, Outputs, PairInfo, Phase, Step, Taps


class MethodConfig(BaseModel):
    """Settings of every method. A method adds its own, one field each: default, range, description."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weights: dict[str, float] | None = Field(
        None, description="weight of each term; a term that is not named keeps its default"
    )
    alpha: float | None = Field(
        None, ge=0, le=1, description="weight of the label term ce; all other terms share 1 - alpha"
    )


@dataclass(frozen=True, slots=True)
class Requires:
    """What a method needs of data and teacher; the engine checks it before it trains.

    Attributes:
        labels: a term other than ``ce`` reads class numbers (so it cannot use mixed images).
        live_teacher: the teacher must run for each batch; a cached one will not do.
        views: views of each image in a batch.
        indices: ``batch.indices`` are used, to remember something per image.
        min_batch: fewer images per batch make no sense; ``pair`` refuses them.
        teacher: there must be a teacher at all.
        multi_label: it also works where an image may have several labels, so that logits are no classes that exclude
            each other; where it does not, it is refused.
    """

    labels: bool = True
    live_teacher: bool = False
    views: int = 1
    indices: bool = False
    min_batch: int = 1
    teacher: bool = True
    multi_label: bool = False


class Method(nn.Module):
    """Base of all methods; ``terms`` and ``forward`` are mandatory, ``Config`` where there are own settings.

    Attributes:
        name: the file's name, which is the name in settings, on the command line and in the docs.
        terms: names of the terms, the label term ``ce`` first.
        own_terms: those terms that train parts of the method and give the student no gradient.
        requires: what it needs.
        default_alpha: share of the label term when nothing is given; None: the terms are just added.
        scales: natural size of a term's weight where it is not 1.
        config: the settings it was built with.
        info: what was known of the pair.
        beside_others: defaults of its own settings that are others where it is a part of a combination.
        label_loss: what ``ce`` is instead of plain cross-entropy, or None; set by who builds the method.
        label_term: what the label term ``ce`` is called: ``bce`` where an image may have several labels.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    name: ClassVar[str] = ""
    terms: ClassVar[tuple[str, ...]] = ()
    own_terms: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[Requires] = Requires()
    default_alpha: ClassVar[float | None] = None
    scales: ClassVar[Mapping[str, float]] = {}
    beside_others: ClassVar[Mapping[str, Any]] = {}
    config: MethodConfig
    info: PairInfo
    label_loss: LabelLoss | None
    label_term: str

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = cls.__module__.rpartition(".")[2]

    def __init__(self, config: MethodConfig, info: PairInfo) -> None:
        """Keep the settings and work out the weights; a method with own parts calls this first.

        Args:
            config: an instance of ``Config``.
            info: what may be known of the pair.

        Raises:
            ConfigError: weights or alpha are wrong.
            MethodError: an image may have several labels, and the method needs one class for each.
        """
        super().__init__()
        if info.multi_label and not self.requires_with(config).multi_label:
            raise MethodError(
                f"method {self.name!r} needs one class per image, and these images may have several labels",
                remedy="--method dist, or another of those for several labels",
            )
        self.config, self.info = config, info
        self.label_term = SEVERAL_LABELS_TERM if info.multi_label else LABEL_TERM
        defaults = default_weights(self.terms, self.default_alpha, self.scales)
        problems = check_weights(self.terms, config.weights, config.alpha, defaults)
        if problems:
            raise ConfigError(f"method {self.name!r}: " + "; ".join(problems))
        weights = given_weights(self.terms, self.default_alpha, self.scales, config.weights, config.alpha)
        self._weights = {self._called(term): weight for term, weight in weights.items()}
        self.check_weights({term: self._weights[self._called(term)] for term in self.terms})
        self.label_loss = None
        self._frozen: tuple[str, ...] = ()
        self._stilled: list[nn.Parameter] = []

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """Features that the networks must hand out for these settings; none by default."""
        return Taps()

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give each term that ``step`` wants: a finite scalar, not yet weighted.

        Args:
            student: None in a phase with ``uses_student=False``.
            teacher: None where no term that is wanted needs one.
            batch: what both networks saw.
            step: where training stands, and which terms it wants.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward")

    @classmethod
    def requires_with(cls, config: MethodConfig) -> Requires:
        """What it needs with these settings; :attr:`requires` where they make no difference."""
        return cls.requires

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """Whether the teacher's logits are compared; by default where none of its features is."""
        return not cls.taps(config).teacher

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Whether ``config.temperature`` softens the teacher's logits before the student copies them."""
        return False

    @classmethod
    def parts_with(cls, config: MethodConfig) -> dict[str, tuple[type[Method], MethodConfig]]:
        """The methods that it joins, with the settings of each; none for a method that stands alone."""
        return {}

    def check_weights(self, weights: Mapping[str, float]) -> None:
        """Refuse weights that make no sense together; by default all do.

        Args:
            weights: of all own terms, the label term as ``ce``; in a combination those of the whole.

        Raises:
            ConfigError: says which, and what is allowed.
        """

    def separate(self) -> list[Method]:
        """The methods whose phases before the students are trained each by itself: this one, or those it joins."""
        return [self]

    @classmethod
    def notes(cls, config: MethodConfig, *, mixes: bool, epochs: int) -> list[str]:
        """What a user should know before a run with these settings, in sentences; nothing by default.

        Args:
            config: an instance of ``Config``.
            mixes: whether images are mixed (``data.mixup``, ``data.cutmix``).
            epochs: of the students.
        """
        return []

    def phases(self) -> list[Phase]:
        """Stretches of training, in order; one over all terms by default."""
        return [Phase()]

    def phase_inputs(self, phase: Phase) -> Mapping[str, Any]:
        """What the result of a phase without the student depends on, beside teacher and data, as JSON.

        Two methods that say the same get the same result, which is then made once. By default all settings and shapes;
        a method that leaves something out promises that the phase does not see it.
        """
        shapes = {"student": self.info.student_shapes, "teacher": self.info.teacher_shapes}
        return {
            "settings": self.config.model_dump(mode="json"),
            "shapes": {side: {k: list(v) for k, v in found.items()} for side, found in shapes.items()},
            "num_classes": self.info.num_classes,
        }

    def examine(self, phase: Phase, teacher: Iterable[Outputs]) -> dict[str, Any]:
        """Say how good the result of a phase without the student is; by default nothing is said.

        Args:
            phase: that was just trained, or loaded.
            teacher: the teacher's outputs on held-out images, batch by batch, on the device of the method.

        Returns:
            JSON types; where anything was measured with ``passed`` and ``problems``, a list of sentences for the user.
        """
        return {}

    def deployable(self, student: nn.Module) -> nn.Module:
        """Return the network to ship: the student itself, unless the method replaced a part of it.

        It is asked for whenever the student is measured, so training must go on as if it had not been.
        """
        return student

    @classmethod
    def ships_own_parts(cls) -> bool:
        """Whether :attr:`deployable` puts trained parts of the method into the network."""
        return cls.deployable is not Method.deployable

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every term, applied by the engine."""
        return dict(self._weights)

    @property
    def usual_weights(self) -> dict[str, float]:
        """Weight of every term where no setting changes it."""
        usual = default_weights(self.terms, self.default_alpha, self.scales)
        return {self._called(term): weight for term, weight in usual.items()}

    def active_terms(self, phase: Phase) -> tuple[str, ...]:
        """Terms of ``phase`` with a weight above 0; empty means that the phase has nothing to do."""
        wanted = [self._called(term) for term in phase.terms or self.terms]
        unknown = [t for t in wanted if t not in self._weights]
        if unknown:
            raise MethodError(
                f"phase {phase.name!r} of {self.name!r} names the unknown term {unknown[0]!r}",
                allowed=", ".join(self.terms),
            )
        return tuple(t for t in wanted if self._weights[t] > 0)

    def weights_in(self, phase: Phase) -> dict[str, float]:
        """Weight of every active term of ``phase``.

        A phase without the student has no label term that ``alpha`` could be a share of: its terms then have their
        natural weights, so every alpha gets the same result.
        """
        active = self.active_terms(phase)
        if phase.uses_student or self.config.weights is not None:
            return {term: self._weights[term] for term in active}
        return {term: float(self.scales.get(term, 1.0)) for term in active}

    def _called(self, term: str) -> str:
        return self.label_term if term == LABEL_TERM else term

    def begin_phase(self, phase: Phase) -> None:
        """Freeze ``phase.frozen`` and thaw the rest: a frozen part is in eval mode *and* without gradient.

        Gradients still flow *through* a frozen part. Eval mode outlasts ``train()``, or batch-norm statistics
        of a part that is not trained would move. The name ``student`` is the engine's and is passed over.

        Raises:
            MethodError: a name is no part of this method.
        """
        frozen = tuple(name for name in phase.frozen if name != "student")
        parts = dict(self.named_modules())
        for name in frozen:
            if name not in parts or not name:
                choices = [n for n in parts if n]
                raise MethodError(
                    f"phase {phase.name!r} of {self.name!r} freezes the unknown part {name!r}",
                    allowed=", ".join(choices) or "this method has no parts",
                    remedy=nearest(name, choices) or None,
                )
        for parameter in self._stilled:
            parameter.requires_grad_(True)
        parameters = [p for name in frozen for p in parts[name].parameters()]
        self._stilled = [p for p in parameters if p.requires_grad]  # not those that never learn anyway
        for parameter in self._stilled:
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimiser would still apply an old gradient
        self._frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Method:
        """Set train or eval mode; frozen parts stay in eval mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    def label_terms(self, student: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """``{"ce": ..}``, or ``{}`` when the label term is not wanted.

        ``ce`` is the mean cross-entropy in nats of ``[B,K]`` logits against ``batch.targets`` where there are
        any (mixed images), against ``batch.labels`` otherwise; or what :attr:`label_loss` makes of them. Where an
        image may have several labels it is ``bce``: the mean over images and labels of the binary cross-entropy of
        the sigmoid of each logit against ``batch.targets``.

        Raises:
            MethodError: there are neither labels nor targets.
        """
        name = self.label_term
        if not step.wants(name):
            return {}
        if student is None:
            raise MethodError(f"phase {step.phase!r} wants {name!r} but runs without the student")
        target = batch.targets if batch.targets is not None else batch.labels
        if target is None:
            raise MethodError(
                f"method {self.name!r} wants {name!r} but the images have no labels",
                remedy="give labels, or turn the label term off with --set method.alpha=0",
            )
        if self.label_loss is not None:
            return {name: self.label_loss(student.logits, target)}
        if name == SEVERAL_LABELS_TERM:
            return {name: F.binary_cross_entropy_with_logits(full_precision(student.logits), target)}
        return {name: F.cross_entropy(full_precision(student.logits), target)}

    def pair(self, student: Outputs | None, teacher: Outputs | None) -> tuple[Outputs, Outputs]:
        """Return both, the teacher's as constants.

        Raises:
            MethodError: one of the two is missing, or the batch is smaller than the method can use.
        """
        return self.present(student), self.constant(teacher)

    def present(self, student: Outputs | None) -> Outputs:
        """Return the student's outputs; for a method that has no teacher.

        Raises:
            MethodError: there are none, or the batch is smaller than the method can use.
        """
        if student is None:
            raise MethodError(f"method {self.name!r} needs the student's outputs, and there are none")
        size, least = student.logits.shape[0], self.requires.min_batch
        if size < least:
            raise MethodError(
                f"method {self.name!r} got a batch of {size} images",
                allowed=f"{least} or more",
                remedy=f"--batch-size {least} or more, or another method",
            )
        return student

    def constant(self, teacher: Outputs | None) -> Outputs:
        """Return the teacher's outputs cut from their graph: nothing that a method does trains a teacher.

        Raises:
            MethodError: there are none.
        """
        if teacher is None:
            raise MethodError(f"method {self.name!r} needs the teacher's outputs, and there are none")
        features = {name: feature.detach() for name, feature in teacher.features.items()}
        return Outputs(teacher.logits.detach(), features)

    def class_numbers(self, batch: Batch) -> Tensor:
        """Return ``batch.labels``, ``[B]`` int64, for a term that needs hard labels.

        Raises:
            MethodError: there are none, or the images were mixed.
        """
        if batch.labels is None or batch.targets is not None:
            why = "were mixed" if batch.targets is not None else "have none"
            raise MethodError(
                f"method {self.name!r} needs one class number per image, and the images {why}",
                remedy="use kd or dist, which need no labels, or turn mixing off",
            )
        return batch.labels

    def observations(self) -> dict[str, Tensor]:
        """Scalars of the last batch that are no terms: only logged, in ``metrics.jsonl`` under ``_name``."""
        return {}


def warmup(step: Step, share: float) -> float:
    """Rise from 0 to 1 over the first ``share`` of the phase, in a straight line; 1 where ``share`` is 0."""
    return min(step.progress / share, 1.0) if share > 0 else 1.0
