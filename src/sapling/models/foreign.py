"""Weights that were trained elsewhere: find out which network they belong to and rename them to ours.

Only renaming: a tensor is never cut, padded or resampled. What does not fit exactly is refused by name.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from sapling.errors import ModelError
from sapling.models.build import build_network, nearest_model, public_name, resolve_name
from sapling.models.cifar import PLAIN
from sapling.models.wrapped import PREFIX, to_wrapped

# fmt: off
CANDIDATES: Mapping[str, int] = {
    "sapling_cnn3": 17, "sapling_cnn4": 22, "sapling_resnet20": 107, "sapling_resnet32": 167, "sapling_resnet44": 227,
    "sapling_resnet56": 287, "sapling_resnet110": 557, "sapling_resnet8x4": 52, "sapling_resnet32x4": 172,
    "sapling_resnet18_cifar": 102, "sapling_resnet34_cifar": 182, "sapling_resnet50_cifar": 267, "sapling_wrn_16_1": 69,
    "sapling_wrn_16_2": 70, "sapling_wrn_40_1": 189, "sapling_wrn_40_2": 190, "resnet18": 102, "resnet34": 182,
    "resnet50": 267, "resnet101": 522, "resnet152": 777, "wide_resnet50_2": 267, "resnext50_32x4d": 267, "vgg11": 22,
    "vgg13": 26, "vgg16": 32, "vgg19": 38, "vgg11_bn": 54, "vgg13_bn": 66, "vgg16_bn": 84, "vgg19_bn": 102,
    "densenet121": 606, "inception_v3": 472, "legacy_xception": 236, "mobilenetv2_100": 262,
    "mobilenetv3_small_100": 210, "mobilenetv3_large_100": 266, "efficientnet_b0": 311, "efficientnet_b1": 439,
    "convnext_tiny": 182, "convnext_small": 344, "vit_tiny_patch16_224": 152, "vit_small_patch16_224": 152,
    "vit_base_patch16_224": 152, "swin_tiny_patch4_window7_224": 173,
    "sapling_torchvision_alexnet": 16, "sapling_torchvision_googlenet": 287,
    "sapling_torchvision_mnasnet0_5": 262, "sapling_torchvision_mnasnet0_75": 262,
    "sapling_torchvision_mnasnet1_0": 262, "sapling_torchvision_mnasnet1_3": 262,
    "sapling_torchvision_shufflenet_v2_x0_5": 282, "sapling_torchvision_shufflenet_v2_x1_0": 282,
    "sapling_torchvision_shufflenet_v2_x1_5": 282, "sapling_torchvision_shufflenet_v2_x2_0": 282,
    "sapling_torchvision_squeezenet1_0": 52, "sapling_torchvision_squeezenet1_1": 52,
}
# fmt: on
"""Networks that are tried when weights come without a name, with their number of tensors (`count_tensors`), so that few
need to be built. No two of them have the same names and shapes."""

_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.")
_OWNERS = ("model.", "backbone.", "net.", "network.", "encoder.", "student.", "teacher.")
# Buffers that a network computes by itself, and heads that are for training only.
_DERIVED = re.compile(r"(^|\.)(relative_position_index|attn_mask|relative_coords_table|n_averaged)$")
_AUXILIARY = re.compile(r"(^|\.)(aux|aux1|aux2|AuxLogits|aux_logits)\.")
_COUNTER = "num_batches_tracked"

Rename = Callable[[str], str]


def _regex(*pairs: tuple[str, str]) -> Rename:
    compiled = [(re.compile(pattern), new) for pattern, new in pairs]

    def rename(name: str) -> str:
        for pattern, new in compiled:
            name = pattern.sub(new, name)
        return name

    return rename


def _weiaicunzai(name: str) -> str:
    """``conv3_x.0.residual_function.3.weight`` -> ``layer2.0.conv2.weight``."""
    found = re.match(r"conv([2-5])_x\.(\d+)\.(residual_function|shortcut)\.(\d+)\.(.+)", name)
    if not found:
        return re.sub(r"^conv1\.0\.", "conv1.", re.sub(r"^conv1\.1\.", "bn1.", name))
    stage, block, part, number, rest = found.groups()
    layer = f"layer{int(stage) - 1}.{block}"
    if part == "shortcut":
        return f"{layer}.downsample.{number}.{rest}"
    index, is_norm = divmod(int(number), 3)  # conv, norm, ReLU, conv, norm, ..
    return f"{layer}.{'bn' if is_norm else 'conv'}{index + 1}.{rest}"


DIALECTS: Mapping[str, Rename] = {
    "as it is": lambda name: name,
    "kuangliu, akamaster": _regex((r"\bshortcut\.", "downsample."), (r"^linear\.", "fc.")),
    "RepDistiller's Wide ResNet": _regex((r"^block(\d)\.layer\.", r"layer\1."), (r"\bconvShortcut\b", "downsample")),
    "weiaicunzai": _weiaicunzai,
    "mmpretrain": _regex((r"^head\.(fc|classifier)\.", "fc.")),
    "a classifier called otherwise": _regex((r"^(classifier|head|linear|last_linear)\.(weight|bias)$", r"fc.\2")),
}


@dataclass(slots=True)
class Fit:
    """How far weights fit one network.

    Attributes:
        architecture: timm's name.
        arguments: what it is built with beside the number of classes.
        num_classes: K of the weights' classifier; 0 if they have none.
        weights: under the network's own names.
        problems: what is missing, unknown or of another shape; none: they fit.
        dialect: whose names they were.
    """

    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    dialect: str = ""


def fit_weights(tensors: Mapping[str, Tensor], name: str, *, img_size: int | None = None) -> Fit:
    """Fit weights of any of the known naming habits to the network called ``name``.

    Args:
        tensors: as `sapling.models.weights.read_weights` gives them.
        name: as `sapling.models.resolve_name` takes it.
        img_size: for networks that are bound to a size which the weights do not show.

    Raises:
        ModelError: they do not fit; the message names a few of the differences.
    """
    best = _best_fit(tensors, resolve_name(name).partition(".")[0], img_size)
    if best.problems:
        shown = "; ".join(best.problems[:3]) + (f"; and {len(best.problems) - 3} more" if best.problems[3:] else "")
        others = [f"{public_name(fit.architecture)}=.." for fit in _fitting(tensors, img_size)]
        raise ModelError(
            f"the weights do not fit {public_name(best.architecture)}: {shown}",
            remedy="they fit " + " or ".join(others) if others else "another name before the path: NAME=weights.pth",
        )
    return best


def find_network(tensors: Mapping[str, Tensor], *, said: str | None = None, img_size: int | None = None) -> Fit:
    """Find the network that weights belong to: the one the file names, or the one whose weights look alike.

    Args:
        tensors: as in `fit_weights`.
        said: name in the file, if any.
        img_size: as in `fit_weights`.

    Raises:
        ModelError: none of the usual networks fits; the nearest are named.
    """
    if said is not None:
        with contextlib.suppress(ModelError):  # scripts have names of their own
            fit = _best_fit(tensors, resolve_name(said).partition(".")[0], img_size)
            if not fit.problems:
                return fit
    exact = _fitting(tensors, img_size)
    if len(exact) == 1:
        return exact[0]
    count = count_tensors(tensors)
    close = sorted(CANDIDATES, key=lambda architecture: abs(CANDIDATES[architecture] - count))[:3]
    fits = sorted((_best_fit(tensors, known, img_size) for known in close), key=lambda fit: len(fit.problems))
    near = ", ".join(f"{public_name(f.architecture)} ({len(f.problems)} differences)" for f in fits)
    hint = nearest_model(said) if said else ""
    raise ModelError(
        f"these {len(tensors)} tensors are of none of the {len(CANDIDATES)} usual networks; the nearest: {near}",
        allowed="NAME=path with any name of sapling models, for example resnet34=weights.pth",
        remedy=f"the file says {said!r}; {hint}" if said else f"the first names are {', '.join(list(tensors)[:3])}",
    )


def count_tensors(tensors: Mapping[str, Tensor]) -> int:
    """Count the tensors that every way of saving keeps."""
    return sum(not name.endswith(_COUNTER) and not _is_left_out(name) for name in tensors)


def _fitting(tensors: Mapping[str, Tensor], img_size: int | None) -> list[Fit]:
    """All usual networks that the weights fit exactly: one, or none."""
    count = count_tensors(tensors)
    likely = [known for known, number in CANDIDATES.items() if number - count in (0, _padded_away(known))]
    fits = (_best_fit(tensors, architecture, img_size) for architecture in likely)
    return [fit for fit in fits if not fit.problems]


def _padded_away(architecture: str) -> int:
    """Tensors of a small ResNet's shortcuts, which option A does without: a filter and four of a norm each."""
    plain = PLAIN.get(architecture.removeprefix("sapling_"))
    return 5 * sum(a != b for a, b in itertools.pairwise(plain[1])) if plain else 0


def _best_fit(tensors: Mapping[str, Tensor], architecture: str, img_size: int | None) -> Fit:
    best: Fit | None = None
    for dialect, weights in _variants(tensors, architecture):
        fit = _compare(weights, architecture, img_size)
        fit.dialect = dialect
        if best is None or len(fit.problems) < len(best.problems):
            best = fit
        if not fit.problems:
            break
    assert best is not None
    return best


def _variants(tensors: Mapping[str, Tensor], architecture: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the weights under every set of names that they may have meant, the plainest first."""
    plain = {_without_wrappers(name): tensor for name, tensor in tensors.items()}
    owned = [{}, *({prefix: ""} for prefix in _OWNERS if any(name.startswith(prefix) for name in plain))]
    seen: list[list[str]] = []
    for owner in owned:
        prefix = next(iter(owner), "")
        stripped = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
        for dialect, rename in DIALECTS.items():
            weights = {rename(name): tensor for name, tensor in stripped.items()}
            if len(weights) != len(tensors) or list(weights) in seen:
                continue  # two tensors of one name: not what was meant
            seen.append(list(weights))
            yield dialect, weights
        if architecture.startswith(PREFIX):
            yield "torchvision", to_wrapped(stripped)
        else:
            converted = _by_timm(stripped, architecture)
            if converted is not None:
                yield "timm's own conversion", converted


def _without_wrappers(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name.replace("._orig_mod.", ".")


def _by_timm(weights: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor] | None:
    """What timm's converter for this family makes of the weights, if it only renames and reshapes."""
    skeleton = _skeleton(architecture, ())
    module = sys.modules[type(skeleton).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is None:
        return None
    given = (dict(weights), skeleton)[: len(inspect.signature(convert).parameters)]
    try:
        converted = convert(*given)
    except Exception:  # a converter made for other names fails as it likes
        return None
    if not isinstance(converted, Mapping) or not all(isinstance(value, Tensor) for value in converted.values()):
        return None
    # Converters also resample: then another number of values comes out.
    before, after = (sum(t.numel() for n, t in m.items() if not _is_left_out(n)) for m in (weights, converted))
    return dict(converted) if before == after else None


def _compare(weights: dict[str, Tensor], architecture: str, img_size: int | None) -> Fit:
    arguments = _arguments(weights, architecture, img_size)
    try:
        network = _skeleton(architecture, tuple(sorted(arguments.items())))
    except ModelError as error:
        return Fit(architecture, arguments, problems=[error.what, *weights], weights=weights)
    own = network.state_dict()
    weights = {name: t for name, t in weights.items() if name in own or not _is_left_out(name)}
    heads = head_names(network)
    rows = {weights[name].shape[0] for name in heads if name in weights and weights[name].dim()}
    fit = Fit(architecture, arguments, num_classes=rows.pop() if len(rows) == 1 else 0, weights=weights)
    for name, tensor in own.items():
        shape = list(tensor.shape)
        if name in heads and shape:
            shape[0] = fit.num_classes or shape[0]
        if name not in weights:
            if name.endswith(_COUNTER):
                weights[name] = torch.zeros((), dtype=torch.int64)
                continue
            fit.problems.append(f"{name} is missing" + (" (the classifier)" if name in heads else ""))
        elif list(weights[name].shape) != shape:
            fit.problems.append(f"{name} is {list(weights[name].shape)}, not {shape}")
    fit.problems += [f"{name} is unknown to the network" for name in weights if name not in own]
    return fit


def _is_left_out(name: str) -> bool:
    return bool(_DERIVED.search(name) or _AUXILIARY.search(name))


def head_names(network: nn.Module) -> frozenset[str]:
    """Names of the classifier's weights in the state dict."""
    head = network.get_classifier()  # type: ignore[operator]
    heads = head if isinstance(head, (tuple, list)) else (head,)
    ours = {id(tensor) for module in heads for tensor in module.state_dict(keep_vars=True).values()}
    return frozenset(name for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in ours)


def _arguments(weights: Mapping[str, Tensor], architecture: str, img_size: int | None) -> dict[str, Any]:
    """What the weights show of how their network was built."""
    arguments: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    first = weights.get(f"{config.first_conv}.weight") if config and isinstance(config.first_conv, str) else None
    if first is not None and first.dim() == 4:
        own = _skeleton(architecture, ()).get_parameter(f"{config.first_conv}.weight")
        if first.shape[1] != own.shape[1] and first.shape[0] == own.shape[0]:
            arguments["in_chans"] = int(first.shape[1])
    plain = architecture.removeprefix("sapling_") in PLAIN
    if plain and any(name.startswith("layer2.") for name in weights) and not any(".downsample." in n for n in weights):
        arguments["shortcut"] = "pad"
    if config is not None and config.fixed_input_size:
        side = _side_of(weights, architecture) or img_size
        if side is not None:
            arguments["img_size"] = side
    return arguments


def _side_of(weights: Mapping[str, Tensor], architecture: str) -> int | None:
    """Image size of a ViT from its position embedding: its square of patches."""
    embedding = weights.get("pos_embed")
    network = _skeleton(architecture, ())
    own, patches = getattr(network, "pos_embed", None), getattr(network, "patch_embed", None)
    grid, patch = getattr(patches, "grid_size", None), getattr(patches, "patch_size", None)
    if embedding is None or embedding.dim() != 3 or own is None or grid is None or patch is None:
        return None
    tokens = embedding.shape[1] - (own.shape[1] - grid[0] * grid[1])
    side = math.isqrt(max(tokens, 0))
    return side * int(patch[0]) if side * side == tokens and side else None


@functools.lru_cache(maxsize=256)
def _skeleton(architecture: str, arguments: tuple[tuple[str, Any], ...]) -> nn.Module:
    """The network without values: names and shapes only, for two classes."""
    with torch.device("meta"):
        return build_network(architecture, num_classes=2, arguments=dict(arguments))
