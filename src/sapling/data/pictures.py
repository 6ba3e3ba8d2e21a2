"""Small pictures for pages, as data URIs made from the packed store. No torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from sapling.data.packed import PackedStore
from sapling.data.sources import Source

_QUALITY = 82


def data_uris(store: PackedStore, keys: Iterable[str], *, side: int = 96) -> dict[str, str]:
    """Small pictures of some images.

    Args:
        store: the pixels.
        keys: of the images; those that are not in the store are left out.
        side: pixels; smaller pictures keep their size.

    Returns:
        A ``data:`` address of a JPEG by key.
    """
    position = {key: k for k, key in enumerate(store.keys)}
    return {key: _address(store, position[key], side) for key in dict.fromkeys(keys) if key in position}


def _address(store: PackedStore, position: int, side: int) -> str:
    picture = Image.fromarray(np.ascontiguousarray(store.shown[position]))
    if store.size > side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def contact_sheet(source: Source, *, num_images: int = 400, most: int = 10) -> list[list[str]]:
    """Choose a few images of each class, spread evenly over its images.

    Args:
        source: the images.
        num_images: about how many in all; never less than one of each class.
        most: how many of a class.

    Returns:
        Keys by class, in the order of the labels.
    """
    each = max(1, min(most, num_images // len(source.classes)))
    by_class: list[list[str]] = [[] for _ in source.classes]
    for item in source.items:
        for label in (item.label,) if item.labels is None else item.labels:
            by_class[label].append(item.key)
    return [
        [keys[int(k)] for k in np.unique(np.linspace(0, len(keys) - 1, num=min(each, len(keys))).round())]
        for keys in by_class
    ]
