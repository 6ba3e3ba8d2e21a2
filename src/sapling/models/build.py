"""From a name to a network without trained weights, and the record of where weights came from."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from torch import nn

from sapling.errors import ModelError, nearest
from sapling.models import cifar, reusing, small, wrapped
from sapling.reused import ReusedClassifier

PREFIX = "sapling_"
REGISTERING = (cifar, reusing, small, wrapped)
"""Importing these registers our own networks with timm."""

# What a config.json may never ask of timm: each of these opens files, adds hooks or changes what is built.
_FORBIDDEN_ARGS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "exportable",
        "features_only",
        "no_jit",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_model_args",
        "pruned",
        "scriptable",
    }
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a network's weights came from, as the gate and the report read it.

    Attributes:
        architecture: timm's name, without tag.
        weights: ``random``, ``pretrained`` (published weights) or ``checkpoint`` (a file of the user's).
        head: ``fresh`` if the classifier was drawn at random and knows nothing, ``loaded`` if it was trained.
        source: hub name, path, or None.
        model_args: what the architecture needs beside the number of classes to be built again.
        licence: of the weights, as their publisher states it; None: not stated.
        started_from: published weights that training started from; None: random ones, or not known.
    """

    architecture: str
    weights: str = "random"
    head: str = "fresh"
    source: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    started_from: str | None = None


def origin_of(model: nn.Module) -> Origin | None:
    """Read the record that `create_model` and `load_model` leave on a network; None for other networks."""
    origin = getattr(model, "sapling_origin", None)
    return origin if isinstance(origin, Origin) else None


def set_origin(model: nn.Module, origin: Origin) -> None:
    """Leave ``origin`` on ``model``."""
    model.sapling_origin = origin  # type: ignore[assignment]


def recorded_as(model: nn.Module, student: str) -> str:
    """Record of a network that a method made of the student ``student`` how it is built again.

    Returns:
        The name to save it by: ``student`` for the student itself.
    """
    if not isinstance(model, ReusedClassifier):
        return student
    body = origin_of(model.backbone) or Origin(student)
    arguments = reusing.arguments_of(model, student, body.model_args)
    set_origin(model, replace(body, architecture=reusing.NAME, model_args=arguments))
    return reusing.NAME


def resolve_name(name: str) -> str:
    """Give the full timm name: ``cnn3`` is ``sapling_cnn3``; a tag (``resnet18.a1_in1k``) is kept.

    ``torchvision:alexnet`` is ``sapling_torchvision_alexnet``. Names with a source (``hf-hub:``, ``local-dir:``)
    pass unchanged.

    Raises:
        ModelError: timm knows no such network or no such tag.
    """
    if name.startswith(("hf-hub:", "local-dir:")):
        return name
    if name.startswith(wrapped.PUBLIC):
        return _resolve_torchvision(name)
    architecture, _, tag = name.partition(".")
    if timm.is_model(PREFIX + architecture) and not tag:
        return PREFIX + architecture
    if not timm.is_model(architecture):
        raise ModelError(
            f"no network is called {name!r}",
            allowed=nearest_model(architecture) or f"{len(list_models())} names of timm",
            remedy=f"sapling models '*{architecture[:4].lower()}*' lists what there is",
        )
    if tag and not any(known == name for known in timm.list_pretrained(architecture + ".*")):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(architecture + ".*")]
        raise ModelError(
            f"{architecture} has no weights with the tag {tag!r}",
            allowed=", ".join(tags) or "no tags: there are no published weights",
            remedy=nearest(tag, tags) or f"leave the tag away: {architecture}",
        )
    return name


def _resolve_torchvision(name: str) -> str:
    """``torchvision:<name>`` to the name that it is registered under, or say where that network is."""
    plain = name.removeprefix(wrapped.PUBLIC)
    if plain in wrapped.PLANS:
        return wrapped.PREFIX + plain
    tagged = [known for known in timm.list_pretrained("*.tv_*") if known.partition(".")[0] == plain]
    choices = [wrapped.PUBLIC + known for known in wrapped.PLANS]
    twin = tagged[0] if tagged else plain
    raise ModelError(
        f"there is no {name!r}: torchvision: is for the few networks that timm lacks",
        allowed=", ".join(choices),
        remedy=f"timm has it: {twin}" if timm.is_model(twin.partition(".")[0]) else nearest_model(plain),
    )


def nearest_model(name: str) -> str:
    """Say which networks are meant by ``name``, as `sapling.errors.nearest`; torchvision's by their plain names."""
    by_plain = {known.removeprefix(wrapped.PUBLIC): known for known in reversed(list_models())}
    hint = nearest(name.lower(), by_plain, count=3)
    for plain in wrapped.PLANS:
        hint = hint.replace(repr(plain), repr(by_plain[plain]))
    return hint


def public_name(architecture: str) -> str:
    """The name by which a user calls a registered network: ``cnn3``, ``torchvision:alexnet``, ``resnet18``."""
    if architecture.startswith(wrapped.PREFIX):
        return wrapped.PUBLIC + architecture.removeprefix(wrapped.PREFIX)
    return architecture.removeprefix(PREFIX)


def list_models(pattern: str = "*") -> list[str]:
    """List the names that `create_model` takes, filtered by a shell pattern; our own (``cnn3``) first.

    A pattern without ``torchvision:`` finds those networks too: ``squeezenet*``.
    """
    names = [name for name in timm.list_models() if name != reusing.NAME]  # nobody makes one by name
    own = [public_name(name) for name in names if name.startswith(PREFIX)]
    own.sort(key=lambda name: name.startswith(wrapped.PUBLIC))  # stable
    others = [name for name in names if not name.startswith(PREFIX)]
    return [n for n in own + others if any(fnmatch.fnmatch(x, pattern) for x in (n, n.removeprefix(wrapped.PUBLIC)))]


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw weights from ``seed`` and leave the global generator as it is; None draws from the global one."""
    if seed is None:
        yield
        return
    # Weights are drawn on the CPU; torch.manual_seed would reseed the accelerators as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def size_arguments(architecture: str, *, in_chans: int, img_size: int) -> dict[str, Any]:
    """Find the arguments beside ``num_classes`` that fit ``architecture`` to the images, for config.json.

    ``img_size`` only where the architecture is bound to a size (a ViT's position embedding is).
    """
    config = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    arguments: dict[str, Any] = {}
    if config is not None and config.fixed_input_size:
        arguments["img_size"] = img_size
    if in_chans != 3:
        arguments["in_chans"] = in_chans
    return arguments


def check_arguments(arguments: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Refuse arguments of a config.json (from outside!) that do more than shape a network."""
    for key, value in arguments.items():
        if key in _FORBIDDEN_ARGS:
            raise ModelError(
                f"model_args may not hold {key!r}: it does more than shape the network",
                where=where,
                remedy=f"remove {key!r} from model_args",
            )
        values = value if isinstance(value, list) else [value]
        if not all(item is None or isinstance(item, (str, int, float, bool)) for item in values):
            raise ModelError(f"model_args.{key} is neither a plain value nor a list of them", where=where)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


def build_network(
    architecture: str,
    *,
    num_classes: int,
    arguments: Mapping[str, Any],
    where: str | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Build a network with random weights on the CPU, in training mode.

    Raises:
        ModelError: timm cannot build it with these arguments.
    """
    if num_classes < 2:
        raise ModelError(f"a classifier needs at least 2 classes, not {num_classes}", where=where)
    config = dict(pretrained_cfg) if pretrained_cfg is not None else None
    try:
        with seeded(seed):
            model = timm.create_model(
                architecture, pretrained=False, num_classes=num_classes, pretrained_cfg=config, **arguments
            )
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "its default arguments"
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"{architecture} cannot be built with {given}: {reason[0] if reason else type(error).__name__}",
            where=where,
            remedy="another img_size (a multiple of the network's patch size), or another network",
        ) from error
    assert isinstance(model, nn.Module)
    _check_patches(model, architecture, arguments, where)
    return model


def _check_patches(model: nn.Module, architecture: str, arguments: Mapping[str, Any], where: str | None) -> None:
    """Refuse a size that timm would take and then drop the pixels beyond the last whole patch."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    size = arguments.get("img_size")
    if not isinstance(patch, tuple) or size is None:
        return
    side = size[0] if isinstance(size, tuple) else size
    if side < patch[0] or side % patch[0]:
        below = max(side // patch[0], 1) * patch[0]
        raise ModelError(
            f"{architecture} cuts images into patches of {patch[0]} pixels: img_size={side} does not fit",
            where=where,
            allowed=f"multiples of {patch[0]}",
            remedy=f"img_size={below}",
        )
