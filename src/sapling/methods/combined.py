"""Several methods as one: their terms are added, and the labels count once.

Nothing here knows any method. The name ``kd+at`` makes a class whose parts are the two methods; whatever the engine
asks, the parts answer:

* **Terms** are those of all parts, with one label term. Names that two parts have get the part's name in front (see
  ``combination.term_names``).
* **Weights**: a term keeps the weight that it has in its own method, with the settings of its part, times the part's
  ``weight``; terms that only train parts of the method (``own_terms``) are not multiplied. The label term has the
  smallest weight that a part gives it: what one part takes from the labels (ctkd: 0.1 in place of 1) the others do
  not give back. So ``ctkd+at`` is 0.1 ce + 0.9 kd + 1000 at. ``weights`` of the whole stand above all that, and
  ``alpha`` of the whole is handed to every part: ce = alpha, and every other term 1 - alpha times its natural size.
* **Random numbers**: every part is drawn as if it stood alone, so its first parameters are those of the plain method,
  and a combination of one is that method, bit for bit. While training, parts draw one after the other.
* **Phases**: those before the students belong to their part, as in a run of that method alone, and so does what they
  make; in the one with the student all parts learn together.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from inspect import getattr_static
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, Field, create_model
from torch import Tensor, nn

from sapling.errors import ConfigError, MethodError
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.methods.combination import (
    SIGN,
    WEIGHT,
    WEIGHT_SCHEMA,
    check_parts,
    check_ships_nothing,
    joined_requires,
    joined_terms,
    key_of,
    term_names,
)
from sapling.methods.registry import load_class
from sapling.methods.weights import LABEL_TERM
from sapling.types import Batch, Outputs, PairInfo, Phase, Step, Taps

HANDED_ON = frozenset(
    {
        *("taps", "requires_with", "softens_logits", "asks_logits", "notes"),
        *("phases", "phase_inputs", "examine", "begin_phase", "forward", "observations", "check_weights"),
        *("weights", "weights_in", "active_terms", "train", "pair", "constant", "class_numbers"),
    }
)
"""What a part may do in its own way, because it is asked for it; a part with another way of its own is refused."""


class Combined(Method):
    """Base of the classes that :func:`combine` makes.

    Attributes:
        classes: the parts, by the name that they have in settings and terms.
        called: of each part, own name of a term to its name here.
    """

    classes: ClassVar[Mapping[str, type[Method]]] = {}
    called: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self, config: MethodConfig, info: PairInfo) -> None:
        """Build every part, then work out weights and phases.

        Raises:
            ConfigError: settings contradict each other, or nothing has a weight.
            MethodError: the parts cannot be trained together; says which and why.
        """
        super().__init__(config, info)
        self.parts = nn.ModuleDict()
        start = torch.get_rng_state()
        for name, (part, settings) in self.parts_with(config).items():
            torch.set_rng_state(start)
            try:
                self.parts[name] = part(settings, info)
            except (ConfigError, MethodError) as error:
                what, allowed, remedy = (_placed(t or "", name) for t in (error.what, error.allowed, error.remedy))
                raise type(error)(what, where=error.where, allowed=allowed, remedy=remedy) from error
        self._weights = self._joined_weights()
        if not any(self._weights.values()):
            raise ConfigError(f"method {self.name!r}: every term has weight 0; there would be nothing to learn")
        for name, own_part in self._each():
            own_part.check_weights({own: self.weights[self._called(term)] for own, term in self.called[name].items()})
        self._stages: dict[str, dict[str, Phase]] = {}
        self._phases = self._joined_phases()

    @classmethod
    def parts_with(cls, config: MethodConfig) -> dict[str, tuple[type[Method], MethodConfig]]:
        """Every part with its settings, an instance of its own ``Config``, and in them what is given for the whole.

        So a part checks weights and alpha of the whole as its own.

        Raises:
            ConfigError: settings of the whole and of a part contradict each other.
        """
        found = {}
        for name, part in cls.classes.items():
            given = getattr(config, name).model_dump(exclude_unset=True, exclude={WEIGHT})
            settings = part.Config.model_validate({**part.beside_others, **given})
            found[name] = (part, settings.model_copy(update=cls._handed_down(config, name, settings)))
        return found

    @classmethod
    def _handed_down(cls, whole: MethodConfig, name: str, own: MethodConfig) -> dict[str, Any]:
        """What alpha and weights of the whole change in the settings of a part."""
        called, given = cls.called[name], whole.weights or {}
        named = {term: given[joint] for term, joint in called.items() if term != LABEL_TERM and joint in given}
        if whole.alpha is not None:
            mine, other = "alpha", {"alpha": own.alpha, "weights": own.weights}
        elif named:
            mine, other = f"weights.{called[next(iter(named))]}", {"alpha": own.alpha}
        else:
            return {}
        for key, value in other.items():
            if value is not None:
                raise ConfigError(f"method {cls.name!r}: {mine}: given together with {name}.{key}; give one of the two")
        if whole.alpha is None:
            return {"weights": {**(own.weights or {}), **named}}
        return {"alpha": whole.alpha} if LABEL_TERM in called else {}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The taps of all parts."""
        wanted = [part.taps(settings) for part, settings in cls.parts_with(config).values()]
        return Taps(_unique(t for taps in wanted for t in taps.student), _unique(t for w in wanted for t in w.teacher))

    @classmethod
    def requires_with(cls, config: MethodConfig) -> Requires:
        """Whatever one of the parts needs."""
        return _joined([part.requires_with(settings) for part, settings in cls.parts_with(config).values()])

    def separate(self) -> list[Method]:
        """The parts."""
        return [part for _, part in self._each()]

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give the label term, and of every part what the phase wants of it."""
        terms = self.label_terms(student, batch, step)
        stage = self._stage(step.phase)
        for name, part in self._each():
            if name not in stage:
                continue
            called, own = self.called[name], stage[name]
            wanted = tuple(t for t in own.terms or part.terms if t != LABEL_TERM and step.wants(called[t]))
            if wanted:
                found = part(student, teacher, batch, Step(own.name, step.epoch, step.progress, wanted))
                terms |= {called[term]: value for term, value in found.items() if term in wanted}
        return terms

    def phases(self) -> list[Phase]:
        """Those of the parts before there are students, one after the other; then one for all."""
        return list(self._phases)

    def weights_in(self, phase: Phase) -> dict[str, float]:
        """As the part says in its own phase; in that of all, the weights of the whole."""
        if phase.uses_student:
            return super().weights_in(phase)
        return {
            self.called[name][term]: weight
            for name, own in self._stage(phase.name).items()
            for term, weight in self._part(name).weights_in(own).items()
        }

    def begin_phase(self, phase: Phase) -> None:
        """Begin it in every part that has a share in it."""
        stage = self._stage(phase.name)
        for name, part in self._each():
            if name in stage:
                part.begin_phase(stage[name])
        self.train(self.training)

    def phase_inputs(self, phase: Phase) -> Mapping[str, Any]:
        """As the part says whose phase it is."""
        part, own = self._owner(phase)
        return super().phase_inputs(phase) if part is None else part.phase_inputs(own)

    def examine(self, phase: Phase, teacher: Iterable[Outputs]) -> dict[str, Any]:
        """As the part does whose phase it is."""
        part, own = self._owner(phase)
        if part is None:
            return {}
        name = next(name for name, other in self._each() if other is part)
        found = part.examine(own, teacher)
        return {k: [_placed(str(text), name) for text in v] if k == "problems" else v for k, v in found.items()}

    def observations(self) -> dict[str, Tensor]:
        """Those of all parts; a name that is taken gets the part's in front."""
        found: dict[str, Tensor] = {}
        for name, part in self._each():
            found |= {f"{name}_{k}" if k in found else k: v for k, v in part.observations().items()}
        return found

    def _each(self) -> Iterator[tuple[str, Method]]:
        for name in self.classes:
            yield name, self._part(name)

    def _part(self, name: str) -> Method:
        part = self.parts[name]
        assert isinstance(part, Method)
        return part

    def _stage(self, phase: str) -> dict[str, Phase]:
        """Part to its own phase, in a phase of the whole."""
        return self._stages.get(phase, self._stages[self._phases[-1].name])

    def _owner(self, phase: Phase) -> tuple[Method | None, Phase]:
        """The part whose phase before the students it is; None if it is that of all."""
        if phase.uses_student:
            return None, phase
        ((name, own),) = self._stage(phase.name).items()
        return self._part(name), own

    def _joined_weights(self) -> dict[str, float]:
        whole, weights = self.config, {}
        labels = [part.weights[part.label_term] for _, part in self._each() if LABEL_TERM in part.terms]
        if labels:
            weights[self.label_term] = min(labels)
        for name, part in self._each():
            factor = getattr(whole, name).weight
            for term, joint in self.called[name].items():
                if term == LABEL_TERM:
                    continue
                weights[joint] = part.weights[term] * (1.0 if term in part.own_terms else factor)
                if whole.alpha is not None and LABEL_TERM not in part.terms:
                    weights[joint] *= 1 - whole.alpha
        return weights | {self._called(term): weight for term, weight in (whole.weights or {}).items()}

    @property
    def usual_weights(self) -> dict[str, float]:
        """Those of the parts by themselves; of the labels the smallest."""
        found: dict[str, float] = {}
        for name, part in self._each():
            for term, weight in part.usual_weights.items():
                joint = self._called(self.called[name].get(term, term))
                found[joint] = min(found.get(joint, weight), weight)
        return found

    def _joined_phases(self) -> list[Phase]:
        """Fill ``_stages`` and give the phases of the whole."""
        phases: list[Phase] = []
        last, terms, frozen = Phase(), list[str](), list[str]()
        self._stages[last.name] = {}
        for name, part in self._each():
            *before, own = sorted(part.phases(), key=lambda p: p.uses_student)
            if any(p.uses_student for p in before) or not own.uses_student or own.epochs is not None:
                raise MethodError(
                    f"method {self.name!r}: {name} trains the student in phases of its own, and the parts of a "
                    "combination share one",
                    remedy=f"--method {name} alone",
                )
            called = self.called[name]
            for phase in before:
                if phase.name in self._stages:
                    raise MethodError(
                        f"method {self.name!r}: two of its parts have a phase {phase.name!r} before the students",
                        remedy=f"leave {name} away",
                    )
                self._stages[phase.name] = {name: phase}
                inside = tuple(f"parts.{name}.{p}" for p in phase.parts) or (f"parts.{name}",)
                named = tuple(called[t] for t in phase.terms or part.terms)
                phases.append(replace(phase, terms=named, frozen=_inside(name, phase), parts=inside))
            self._stages[last.name][name] = own
            terms += [called[t] for t in own.terms or part.terms]
            frozen += _inside(name, own)
        in_order = tuple(t for t in self.terms if t in terms)
        return [*phases, replace(last, terms=in_order, frozen=tuple(frozen))]


def combine(names: Iterable[str]) -> type[Combined]:
    """Make the class that joins these methods.

    Raises:
        MethodError: one of them is unknown, or they cannot stand together.
    """
    parts = tuple(names)
    check_parts(parts)
    return _combine(tuple((key_of(part), load_class(part)) for part in parts))


@functools.cache
def _combine(parts: tuple[tuple[str, type[Method]], ...]) -> type[Combined]:
    classes = dict(parts)
    terms = {name: part.terms for name, part in parts}
    called, joint = term_names(terms), joined_terms(terms)
    if len(joint) != sum(t != LABEL_TERM for own in terms.values() for t in own) + (LABEL_TERM in joint):
        raise MethodError(f"method {SIGN.join(classes)!r}: two of its terms would have one name: {', '.join(joint)}")
    alphas = [part.default_alpha for part in classes.values() if part.default_alpha is not None]
    made = {name: _block(name, part) for name, part in parts}
    blocks: dict[str, Any] = {name: (block, Field(default_factory=block)) for name, block in made.items()}
    content = {
        "__module__": __name__,
        "__doc__": f"The methods {', '.join(classes)} at once.",
        "name": SIGN.join(classes),
        "classes": classes,
        "called": called,
        "terms": tuple(joint),
        "own_terms": tuple(called[name][term] for name, part in parts for term in part.own_terms),
        "requires": _joined([part.requires for part in classes.values()]),
        "default_alpha": min(alphas, default=None),
        "Config": create_model("Config", __base__=MethodConfig, **blocks),
    }
    return type("Combined", (Combined,), content)


def _block(name: str, part: type[Method]) -> type[BaseModel]:
    """The settings of a part: its own, and the weight of its terms.

    Raises:
        MethodError: it does something in its own way that no combination would ask it for.
    """
    check_ships_nothing(name, ships=part.ships_own_parts())
    usual = {hook for hook in vars(Method) if not hook.startswith("_") and callable(getattr(Method, hook))}
    own = [hook for hook in sorted(usual - HANDED_ON - {"Config"}) if getattr_static(part, hook) != vars(Method)[hook]]
    if own:
        raise MethodError(f"method {name!r} has {', '.join(own)} of its own and cannot be a part of a combination")
    if WEIGHT in part.Config.model_fields:
        raise MethodError(f"method {name!r} has a setting {WEIGHT!r} of its own and cannot be a part of a combination")
    limits = {"gt": WEIGHT_SCHEMA["exclusiveMinimum"], "le": WEIGHT_SCHEMA["maximum"]}
    weight: Any = (float, Field(WEIGHT_SCHEMA["default"], description=WEIGHT_SCHEMA["description"], **limits))
    block: type[BaseModel] = create_model(f"{name}Block", __base__=part.Config, **{WEIGHT: weight})
    return block


def _placed(text: str, name: str) -> str:
    """What a part says of its settings, with the place that they have in the whole."""
    return re.sub(r"\bmethod\.(?=\w)", lambda _: f"method.{name}.", text)


def _inside(name: str, phase: Phase) -> tuple[str, ...]:
    """The frozen parts of a phase of part ``name``, as seen from the whole; ``student`` is the engine's."""
    return tuple(part if part == "student" else f"parts.{name}.{part}" for part in phase.frozen)


def _joined(parts: Iterable[Requires]) -> Requires:
    return Requires(**joined_requires(map(asdict, parts)))


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
