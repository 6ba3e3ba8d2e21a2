"""Batch norm that stands still is part of the convolution before it: a frozen network with fewer steps.

In eval mode batch norm is ``y -> g (y - m) / sqrt(v + eps) + b`` per channel, and behind a convolution ``w * x + c``
that is the convolution ``(s w) * x + s (c - m) + b`` with ``s = g / sqrt(v + eps)``: the same function, up to rounding,
and one pass over every map less. Which layers follow each other is seen in a forward and not read from their names; the
result is compared with the network as it was, so a pair that only looked like one costs nothing but this attempt.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, TypeVar, cast

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from sapling.types import Outputs

TOLERANCE = 1e-4
"""Largest difference of logits and of any tapped feature, as a share of its largest value; rounding makes 1e-6."""

Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network, images: Tensor) -> Network:
    """Give a copy of a frozen network whose batch norms are folded into their convolutions.

    Pairs with a hook on either layer are left alone: what a tap records stays what it was. All other weights are
    shared with ``network``, which is not changed.

    Args:
        network: in eval mode, its answer to ``images`` is an `Outputs`.
        images: ``[B,C,H,W]`` on which pairs are found and the copy is checked; random ones will do.

    Returns:
        The copy; or ``network`` itself where there is nothing to fold, or where the copy's answer differs from its own
        by more than ``TOLERANCE``.
    """
    with torch.no_grad():
        pairs = _pairs(network, images)
        if not pairs:
            return network
        # weights that are not folded are not held twice
        shared: dict[int, Any] = {id(t): t for t in (*network.parameters(), *network.buffers())}
        result = copy.deepcopy(network, shared)
        for convolution, norm in pairs:
            _fold(result, convolution, norm)
        same = _agree(network(images), result(images))
    return result if same else network


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Paths of convolutions and of the batch norms that read their very output, and nothing but that, in every call."""
    calls: Counter[str] = Counter()
    made: list[tuple[str, Tensor]] = []  # keeps the tensors, or another one could lie where one was
    found: list[tuple[str, str]] = []

    def note_output(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            calls[path] += 1
            made.append((path, output))

        return hook

    def note_input(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls[path] += 1
            found.extend((source, path) for source, tensor in made if tensor is inputs[0])

        return hook

    handles = []
    for path, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(note_output(path)))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.running_var is not None:
            handles.append(module.register_forward_pre_hook(note_input(path)))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [(c, n) for (c, n), times in Counter(found).items() if calls[c] == calls[n] == times]


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    conv = cast("nn.Conv2d", network.get_submodule(convolution))
    bn = cast("nn.BatchNorm2d", network.get_submodule(norm))
    mean, variance = cast("Tensor", bn.running_mean).double(), cast("Tensor", bn.running_var).double()
    scale = (variance + bn.eps).rsqrt()
    if bn.affine:
        scale = scale * bn.weight.double()
    shift = -mean if conv.bias is None else conv.bias.double() - mean
    shift = shift * scale + (bn.bias.double() if bn.affine else 0.0)
    weight = (conv.weight.double() * scale.view(-1, 1, 1, 1)).to(conv.weight.dtype)
    conv.weight = nn.Parameter(torch.empty_like(conv.weight).copy_(weight), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
    behind = nn.Sequential(bn.drop, bn.act) if isinstance(bn, BatchNormAct2d) else nn.Identity()
    network.set_submodule(norm, behind.eval())


def _agree(one: Outputs, other: Outputs) -> bool:
    pairs = [(one.logits, other.logits), *((value, other.features[tap]) for tap, value in one.features.items())]
    return all(bool((a - b).abs().max() <= TOLERANCE * a.abs().max()) for a, b in pairs)
