"""How strongly each term pulls at the student, measured at a few steps without touching them.

The pull of a term is the norm of the gradient of ``weight * term`` with respect to all weights of the student. Weights,
and not logits or a feature: terms on logits and terms on feature maps meet nowhere else, and the weights are what the
step moves. The price is one more backward pass per term, so it is paid at one step in about seventy (see
:func:`stride`): a hundredth of the time of training, at most twice that in a short run. The graph is only read:
``backward`` then finds it as it was, and no random number is drawn, so training is the same bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sapling.engine.objective import active_terms

COST = 0.01
"""Share of the time of a pass that measuring may take; twice that where it would else be fewer than `ENOUGH` steps."""
BACKWARD = 2 / 3
"""A backward pass takes about twice as long as its forward pass."""
ENOUGH, FEWEST = 4, 2
"""Measured steps that a short run may pay twice the share for, and those that it has whatever they cost."""
TOTAL = "total"


def stride(num_terms: Sequence[int], total_steps: int) -> int | None:
    """Every how many steps of a pass the pulls are measured.

    Args:
        num_terms: active terms of each member. A member with one term costs nothing: its only gradient is the one
            that the step makes anyway.
        total_steps: of the pass.

    Returns:
        A number of steps, the same for all members, who are compared; None where no member has two terms.
    """
    extra = sum(n for n in num_terms if n > 1)
    if not extra:
        return None
    affordable = math.ceil(BACKWARD * extra / (len(num_terms) * COST))
    short = max(math.ceil(affordable / 2), total_steps // ENOUGH)
    return max(1, min(affordable, short, total_steps // FEWEST))


def is_due(number: int, every: int | None) -> bool:
    """Whether step ``number`` (from 0, over the whole pass) is measured: in the middle of each stretch."""
    return every is not None and number % every == every // 2


def term_norms(terms: Mapping[str, Tensor], weights: Mapping[str, float], student: nn.Module) -> dict[str, Tensor]:
    """Norm of the gradient of each weighted active term with respect to the student's weights.

    To be called before ``backward``; neither the graph nor any ``.grad`` is changed.

    Args:
        terms: scalars, not yet weighted.
        weights: by term.
        student: its parameters that learn are looked at.

    Returns:
        Term to a scalar; 0 for a term that does not reach the student.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    found = {}
    for name in active_terms(weights):
        term = terms[name] * weights[name]
        gradients: Sequence[Tensor | None] = ()
        if term.requires_grad and parameters:
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        found[name] = norm(gradients, term)
    return found


def total_norm(student: nn.Module, like: Tensor) -> Tensor:
    """Norm of the gradient that ``backward`` left in the student, before it is clipped."""
    return norm((p.grad for p in student.parameters()), like)


def norm(gradients: Iterable[Tensor | None], like: Tensor) -> Tensor:
    """Euclidean norm over all tensors together, a scalar on the device of ``like``; 0 of none."""
    norms = [torch.linalg.vector_norm(g.detach()) for g in gradients if g is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros((), device=like.device)
