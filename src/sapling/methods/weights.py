"""From ``alpha`` or ``weights`` to one weight per term. Imports no torch: checking settings needs it too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sapling.errors import ConfigError, nearest

LABEL_TERM = "ce"
SEVERAL_LABELS_TERM = "bce"
"""What the label term is called where an image may have several labels; settings call it ``ce`` there, too."""


def default_weights(terms: Sequence[str], default_alpha: float | None, scales: Mapping[str, float]) -> dict[str, float]:
    """Weights of a method that is given neither ``alpha`` nor ``weights``.

    With a ``default_alpha`` they are those of that alpha; without, the label term counts 1 and every other
    term its natural scale.

    Args:
        terms: of the method.
        default_alpha: share of the label term in the paper, or None where the paper just adds.
        scales: natural size of a term's weight (a mean over pixels may need 1,000); 1 where not given.
    """
    if default_alpha is not None:
        return alpha_weights(terms, default_alpha, scales)
    return {term: 1.0 if term == LABEL_TERM else float(scales.get(term, 1.0)) for term in terms}


def alpha_weights(terms: Sequence[str], alpha: float, scales: Mapping[str, float]) -> dict[str, float]:
    """``ce = alpha``, every other term ``(1 - alpha) * scale``: alpha always multiplies the label term."""
    return {term: float(alpha) if term == LABEL_TERM else (1.0 - alpha) * scales.get(term, 1.0) for term in terms}


def given_weights(
    terms: Sequence[str],
    default_alpha: float | None,
    scales: Mapping[str, float],
    weights: Mapping[str, float] | None,
    alpha: float | None,
) -> dict[str, float]:
    """Weights of a method with what was given: those of ``alpha``, or the defaults but for the named ones."""
    if alpha is not None:
        return alpha_weights(terms, alpha, scales)
    return {**default_weights(terms, default_alpha, scales), **(weights or {})}


def check_weights(
    terms: Sequence[str],
    weights: Mapping[str, float] | None,
    alpha: float | None,
    defaults: Mapping[str, float],
) -> list[str]:
    """Say what is wrong with ``weights`` and ``alpha``, each sentence opening with the setting; empty if
    nothing.

    Args:
        terms: of the method.
        weights: as given, term to number; terms that are not named keep their default.
        alpha: as given.
        defaults: weights of the terms that are not named.
    """
    problems: list[str] = []
    if weights is not None and alpha is not None:
        problems.append(
            "alpha: given together with weights; give one of the two (alpha is the weight of ce, the others "
            "share 1 - alpha)"
        )
    if alpha is not None and LABEL_TERM not in terms:
        problems.append(f"alpha: {alpha} would be the weight of {LABEL_TERM!r}, which this method does not have")
    elif alpha is not None and alpha < 1 and len(terms) == 1:
        problems.append(f"alpha: {alpha} leaves nothing for the only term {terms[0]!r}; leave alpha away")
    for term, weight in (weights or {}).items():
        if term not in terms:
            hint = nearest(term, terms) or f"allowed: {', '.join(terms)}"
            problems.append(f"weights.{term}: unknown term; {hint}")
        elif not math.isfinite(weight) or weight < 0:
            problems.append(f"weights.{term}: {weight} is not allowed; must be a finite number, 0 or more")
    if weights is not None and not problems and not any({**defaults, **weights}.values()):
        problems.append("weights: every term has weight 0; there would be nothing to learn")
    return problems


def without(
    weights: Mapping[str, float], reasons: Mapping[str, str], given: Mapping[str, float] | None, name: str
) -> dict[str, float]:
    """``weights`` with 0 for terms that can do nothing.

    Args:
        weights: of all terms of a method.
        reasons: why, by term.
        given: weights that a user asked for.
        name: of the method.

    Raises:
        ConfigError: a user asked for one of them.
    """
    for term, reason in reasons.items():
        if (given or {}).get(term):
            raise ConfigError(f"method {name!r}: weights.{term} can do nothing: {reason}")
    return {**weights, **dict.fromkeys(reasons, 0.0)}
