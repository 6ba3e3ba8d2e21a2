"""From the terms of a method to one number to minimise."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from sapling.errors import MethodError, TrainingError
from sapling.types import Step

DIVERGED = "training diverged"
ANEW = "; other settings need another --output"
REMEDIES = {
    "ce": f"lower the learning rate (--lr), or check the labels and images{ANEW}",
    "bce": f"lower the learning rate (--lr), or check the labels and images{ANEW}",
    "": f"lower the weight of this term or the learning rate (--lr), or use --amp fp32{ANEW}",
}
TOO_HEAVY = 10.0  # times its usual weight: then the weight is named before the learning rate


def heavy_term(weights: Mapping[str, float], usual: Mapping[str, float]) -> str | None:
    """What to do about the term whose weight is furthest above its usual one; None where none is far above."""
    above = {t: w / usual[t] for t, w in weights.items() if t not in REMEDIES and usual.get(t, 0) > 0}
    name = max(above, key=above.__getitem__, default=None)
    if name is None or above[name] <= TOO_HEAVY:
        return None
    return (
        f"lower the weight of {name!r}: it is {weights[name]:g}, by itself {usual[name]:g} "
        f"(--set method.weights.{name}={usual[name]:g}); only then lower the learning rate (--lr){ANEW}"
    )


def active_terms(weights: Mapping[str, float]) -> tuple[str, ...]:
    """Terms with a weight other than 0: the rest are not even computed, so alpha = 1 *is* the control."""
    return tuple(name for name, weight in weights.items() if weight != 0)


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """``sum_k weights[k] * terms[k]`` over the active terms, a scalar.

    Raises:
        MethodError: the method gave no mapping, left out an active term, or gave one that is no scalar tensor.
    """
    if not isinstance(terms, Mapping):
        raise MethodError(f"the method's forward gave {type(terms).__name__}", allowed="a dict: term to scalar tensor")
    total: Tensor | None = None
    for name in active_terms(weights):
        if name not in terms:
            raise MethodError(
                f"the method's forward gave no term {name!r}, which its class declares in terms; it gave "
                + (", ".join(map(str, terms)) or "none")
            )
        term = terms[name]
        if not isinstance(term, Tensor):
            raise MethodError(f"term {name!r} is {type(term).__name__}", allowed="a tensor, a scalar")
        if term.dim() != 0:
            raise MethodError(f"term {name!r} has the shape {tuple(term.shape)}", allowed="a scalar")
        part = term if weights[name] == 1 else term * weights[name]
        total = part if total is None else total + part
    if total is None:
        raise MethodError("every term has weight 0: there is nothing to learn", remedy="give alpha or weights")
    return total


def check_finite(values: Mapping[str, float], *, member: str, step: Step, batch: int, heavy: str | None = None) -> None:
    """Stop when a term is NaN or infinite.

    Args:
        values: term name to value.
        member: which student.
        step: where training stands.
        batch: number of the batch in the epoch, from 0.
        heavy: of :func:`heavy_term`; then that is the remedy.

    Raises:
        TrainingError: with the term, the epoch and what to do.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{DIVERGED}: term {name!r} of member {member!r} became {value} in epoch {step.epoch + 1}, "
                f"batch {batch + 1}",
                where=f"phase {step.phase}",
                remedy=heavy or REMEDIES.get(name, REMEDIES[""]),
            )
