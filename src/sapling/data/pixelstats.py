"""Statistics of stored pixels: mean and spread of the channels, grey and empty pictures. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sapling.data.packed import PackedStore
from sapling.data.pairs import plain
from sapling.data.splits import Indices

_MAX_BYTES = 10**9
"""Of larger stores an even part is read: the mean of thousands of pictures does not need them all."""
_CHUNK_BYTES = 2**24
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Channels:
    """What the pixels are like, over an even part of the images.

    Attributes:
        mean: of red, green and blue (or the chosen bands) of the training images, in [0,1].
        std: the same.
        num_images: how many training images were read for them.
        grey_share: share of all images that were read whose channels are the same.
        num_flat: images of one colour all over.
        flat: the first of them by key.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_images: int
    grey_share: float
    num_flat: int
    flat: tuple[str, ...]


def channel_statistics(store: PackedStore, train: Indices) -> Channels:
    """Read the pixels once.

    Args:
        store: the pixels.
        train: positions of the training images; where there is none, all images count.
    """
    total = len(store.images)
    width = store.num_channels
    bytes_each = width * store.size**2
    picks = np.unique(np.linspace(0, total - 1, num=max(min(total, _MAX_BYTES // bytes_each), 1)).astype(np.int64))
    is_train = np.zeros(total, dtype=bool)
    is_train[train if len(train) else slice(None)] = True
    sums, squares = np.zeros(width), np.zeros(width)
    num_grey, num_train, flat = 0, 0, []
    step = max(_CHUNK_BYTES // bytes_each, 1)
    for start in range(0, len(picks), step):
        chunk = picks[start : start + step]
        pixels = np.asarray(store.images[chunk]).reshape(len(chunk), -1, width)
        used = pixels[is_train[chunk]].reshape(-1, width)
        num_train += int(is_train[chunk].sum())
        for channel in range(width):
            # Counting the 256 values is exact, and quicker than making floats of every pixel.
            counts = np.bincount(used[:, channel], minlength=256)
            sums[channel] += counts @ np.arange(256.0)
            squares[channel] += counts @ np.arange(256.0) ** 2
        num_grey += int((pixels == pixels[..., :1]).all(axis=(1, 2)).sum())
        is_flat = (pixels == pixels[:, :1]).all(axis=(1, 2))
        flat += [plain(store.keys[int(k)]) for k in chunk[is_flat]]
    count = max(num_train * store.size**2, 1)
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return Channels(
        mean=_rounded(mean / 255.0),
        std=_rounded(std / 255.0),
        num_images=num_train,
        grey_share=round(num_grey / len(picks), 6),
        num_flat=len(flat),
        flat=tuple(flat[:_SHOWN]),
    )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
