"""Views: augmentation as a pure function of (view seed, image index, view number).

Any process, batch order, batch size and number of threads draws the same picture, bit by bit, which is what allows
a teacher's answers to be kept. Parameters come from a hash (:mod:`sapling.data.parameters`), pixels are moved by one
gather or one bilinear sampling (:mod:`sapling.data.geometry`), colours follow (:mod:`sapling.data.colour`), a
rectangle is erased at the end (:mod:`sapling.data.erasing`). No view costs a loop over images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sapling.data.colour import blur, change_colours, change_tones, colour_matrices, draw_blur, sharpen
from sapling.data.erasing import draw_erasing, erase
from sapling.data.geometry import affine_maps, move_pixels, sample
from sapling.data.parameters import Draws, hash_number, moves, operation_amounts
from sapling.data.viewspec import PRESETS, ViewSpec, preset
from sapling.data.workspace import Workspace, moved
from sapling.errors import ConfigError

__all__ = ["CENTRE_VIEW", "PRESETS", "ViewSpec", "centre_view", "hash_number", "make_views", "preset"]

CENTRE_VIEW = -1
"""The view number of the plain centre crop, which evaluation and prediction see."""

_CHUNK_PIXELS = 1 << 18
"""Pixels of views that are made at once: what is worked on stays in the processor's cache."""

_WORK = Workspace()


def make_views(
    images: Tensor, indices: Tensor, views: Tensor, *, spec: ViewSpec, view_seed: int, img_size: int
) -> Tensor:
    """Make the views of B stored pictures.

    Args:
        images: ``[B,S,S,C]`` uint8, on any device.
        indices: ``[B]`` int64 positions in the store; with ``views`` and ``view_seed`` they alone decide.
        views: ``[B]`` int64 view numbers; negative ones are the centre view.
        spec: what views are made of.
        view_seed: the seed of the views (not of the training).
        img_size: side of the views, at most S.

    Returns:
        ``[B,C,img_size,img_size]`` uint8 in channels-last memory.

    Raises:
        ConfigError: the pictures are smaller than the views, or have no colours that could be changed.
    """
    _check_images(images, img_size)
    if spec == PRESETS["none"]:
        return centre_view(images, img_size)
    draws = Draws(indices.cpu().numpy(), views.cpu().numpy(), view_seed)
    if not spec.changes_pixels:
        return move_pixels(images, moves(draws, spec, img_size), img_size).permute(0, 3, 1, 2)
    return _change_pixels(images, draws, spec, img_size).permute(0, 3, 1, 2)


def _change_pixels(images: Tensor, draws: Draws, spec: ViewSpec, img_size: int) -> Tensor:
    """``[B,s,s,C]`` uint8: everything that is more than moving whole pixels, in its fixed order."""
    batch, side, channels, device = images.shape[0], images.shape[1], images.shape[3], images.device
    spec.check_channels(channels)
    if side < 2:
        raise ConfigError("pictures of one pixel cannot be resized", allowed="stored pictures of 2 x 2 or more")
    amounts = operation_amounts(draws, spec) if spec.operations else {}
    maps = moved(torch.from_numpy(affine_maps(draws, spec, amounts, side, img_size)), device)
    drawn = colour_matrices(draws, spec, amounts) if spec.changes_colours else None
    colours = tuple(moved(torch.from_numpy(values), device) for values in drawn) if drawn else None
    blurs = draw_blur(draws, spec) if spec.blur else None
    erased = draw_erasing(draws, spec, img_size) if spec.erase else None

    result = torch.empty((batch, img_size, img_size, channels), dtype=torch.uint8, device=device)
    _WORK.device = device
    step = max(1, _CHUNK_PIXELS // img_size**2)
    for start in range(0, batch, step):
        part = slice(start, start + step)
        pixels = sample(images[part], maps[:, part], img_size, turned=spec.is_turned, work=_WORK)
        if amounts:
            change_tones(pixels, {name: amount[part] for name, amount in amounts.items()}, _WORK)
        if colours:
            pixels = change_colours(pixels, colours[0][..., part], colours[1][part], _WORK)
        if amounts:
            sharpen(pixels, amounts["sharpness"][part], _WORK)
        if blurs:
            blur(pixels, blurs[0][part], blurs[1][part], _WORK)
        if erased is not None:
            erase(pixels, erased[:, part], spec.erase_fill, _WORK)
        for channel, plane in enumerate(pixels):
            result[part, :, :, channel] = plane
    return result


def centre_view(images: Tensor, img_size: int) -> Tensor:
    """Cut the centre of B stored pictures.

    Args:
        images: ``[B,S,S,C]`` uint8.
        img_size: side of the crop, at most S.

    Returns:
        ``[B,C,img_size,img_size]`` uint8, a view of ``images`` in channels-last memory.
    """
    _check_images(images, img_size)
    start = (images.shape[1] - img_size) // 2
    end = start + img_size
    return images[:, start:end, start:end].permute(0, 3, 1, 2)


def _check_images(images: Tensor, img_size: int) -> None:
    if images.ndim != 4 or images.shape[1] != images.shape[2] or not 1 <= img_size <= images.shape[1]:
        raise ConfigError(
            f"views of {img_size} pixels from stored pictures of shape {tuple(images.shape)}",
            allowed="[B,S,S,C] with S of at least the view's size",
        )
