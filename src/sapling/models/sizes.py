"""Which image sizes a network can read: found by running it without values, before any image is decoded."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from sapling.errors import ModelError
from sapling.models.build import build_network, public_name, resolve_name, size_arguments

SMALLEST, LARGEST = 8, 1024
_STEPS = (1, 4, 7, 8, 14, 16, 28, 32, 64)
_USUAL = (96, 128, 160, 192, 224, 256, 299, 384)
_MOST_TRIALS = 24
_NO_PIXEL = "its poolings and strides leave no pixel"
_PATCHES = "cuts images into patches"
_SHRUNK = ("Output size is too small", "Kernel size can't be greater", "non-empty 3D or 4D")


def check_size(name: str, img_size: int, *, in_chans: int = 3) -> None:
    """Refuse images that ``name`` cannot read, with the reason and the nearest sizes that it can.

    Args:
        name: as `sapling.models.resolve_name` takes it.
        img_size: side of the images in pixels.
        in_chans: their channels.

    Raises:
        ModelError: no such network, or not at this size.
    """
    architecture = resolve_name(name).partition(".")[0]
    reason = reason_against(architecture, img_size, in_chans)
    if reason is None:
        return
    below, above = sizes_near(architecture, img_size, in_chans)
    possible = [size for size in (below, above) if size is not None]
    step = _patch_of(architecture)
    rule = f"multiples of {step}" if step and any(size % step == 0 for size in possible) else ""
    if below is None and above is not None:
        rule = f"{above} pixels or more" + (f", {rule}" if rule else "")
    raise ModelError(
        f"{public_name(architecture)} cannot read images of {img_size} pixels: {reason}",
        allowed=rule or None,
        remedy=" or ".join(f"--img-size {size}" for size in possible) or "another network",
    )


def reason_against(architecture: str, img_size: int, in_chans: int = 3) -> str | None:
    """Why a network cannot read images of this size; None if it can. Costs no memory and little time."""
    reason = _try(architecture, img_size, in_chans, "meta")
    if reason is None or reason.startswith((_NO_PIXEL, _PATCHES)):
        return reason
    # A few networks compute with values while they are built: those are run in earnest before they are refused.
    return _try(architecture, img_size, in_chans, "cpu")


def sizes_near(architecture: str, img_size: int, in_chans: int = 3) -> tuple[int | None, int | None]:
    """The nearest sizes below and above ``img_size`` that the network can read, each None if none was found."""

    def works(size: int) -> bool:
        return _try(architecture, size, in_chans, "meta") is None

    patch = _patch_of(architecture)
    below = next(filter(works, _candidates(img_size, -1, patch)), None)
    above = next(filter(works, _candidates(img_size, 1, patch)), None)
    if above is not None and patch is None and works(above + 1):
        # no grid but a least size, from which on everything works: halve the way to it
        low, high = img_size, above
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if works(middle) else (middle, high)
        above = high
    return below, above


def _candidates(img_size: int, direction: int, patch: int | None) -> list[int]:
    """Sizes on one side, nearest first: multiples of the patch, or of the usual strides and windows."""
    found: set[int] = set()
    for step in (patch,) if patch else _STEPS:
        start = img_size // step * step
        found |= {start + direction * step * k for k in range(3 if direction < 0 else 5)}
    if direction < 0:
        return sorted((size for size in found if SMALLEST <= size < img_size), reverse=True)[:_MOST_TRIALS]
    found |= {size for size in _USUAL if patch is None or size % patch == 0}
    return sorted(size for size in found if img_size < size <= LARGEST)[:_MOST_TRIALS]


@functools.lru_cache(maxsize=512)
def _try(architecture: str, img_size: int, in_chans: int, device: str) -> str | None:
    arguments = size_arguments(architecture, in_chans=in_chans, img_size=img_size)
    try:
        model = _build(architecture, tuple(sorted(arguments.items())), device)
    except ModelError as error:
        return error.what.removeprefix(f"{architecture} ")
    try:
        with torch.no_grad():
            model(torch.zeros(2, in_chans, img_size, img_size, device=device))
    except Exception as error:  # networks complain in many ways; the first line of it is what a user needs
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return f"{_NO_PIXEL} ({text})" if any(sign in text for sign in _SHRUNK) else text
    return None


@functools.lru_cache(maxsize=8)
def _build(architecture: str, arguments: tuple[tuple[str, Any], ...], device: str) -> nn.Module:
    with torch.device(device):
        return build_network(architecture, num_classes=2, arguments=dict(arguments), seed=0).eval()


@functools.lru_cache(maxsize=64)
def _patch_of(architecture: str) -> int | None:
    """Side of the patches into which the network cuts images, if it does."""
    try:
        model = _build(architecture, (), "meta")
    except ModelError:
        return None
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return int(patch[0]) if isinstance(patch, tuple) else None
