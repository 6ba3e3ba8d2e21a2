"""What every source of images is, and how an encoded image is opened. No torch.

A source lists its images and opens them one at a time; no image is decoded that would not fit into memory.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from sapling.data.layout import Item
from sapling.data.pngfile import check_png
from sapling.data.raster import Picture, open_raster
from sapling.errors import DataError

MAX_FILE_BYTES = 256 * 2**20
# Pillow knows formats that run other programs (EPS) or fetch files; these decode pixels and nothing else.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


@cache
def _decoders() -> list[str]:
    """List the formats of these that the installed Pillow has."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def decode_image(data: bytes) -> Picture:
    """Open an encoded image; its content counts, not the ending of its name.

    TIFFs of many bands, of 16 bits or of floats are a :class:`~sapling.data.raster.Raster`, all else Pillow's.

    Raises:
        DataError: the file or the picture is too large to be decoded safely, or a PNG with a wrong checksum.
        OSError: it is not an image, or a damaged one (also when its pixels are loaded later).
    """
    if len(data) > MAX_FILE_BYTES:
        raise too_large(len(data))
    if (raster := open_raster(data)) is not None:
        return raster
    try:
        image = Image.open(io.BytesIO(data), formats=_decoders())
        pixels = image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pixels, image = -1, None
    limit = Image.MAX_IMAGE_PIXELS
    if image is None or (limit is not None and pixels > limit):
        size = f"{image.width} x {image.height}" if image is not None else "far too many"
        raise DataError(f"the picture has {size} pixels, more than the {limit:,} that are decoded")
    check_png(data)
    return image


def too_large(size: int) -> DataError:
    """The error for a file that is not read because of its size."""
    return DataError(f"the file has {size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read")


@dataclass
class Source(ABC):
    """Labelled images that can be opened one at a time.

    Attributes:
        name: short name for files and headings.
        location: where it was opened from, as text.
        kind: ``folder``, ``zip``, ``csv`` or ``digits``.
        classes: class names in the order of the labels.
        items: all images, ordered by key.
        default_views: preset of :mod:`sapling.data.views` that suits it.
        notes: what was left out or decided while reading, one sentence each.
        options: flags with which a command opens it like this, each with a blank before it.
    """

    name: str
    location: str
    kind: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    default_views: str = "light"
    notes: tuple[str, ...] = ()
    options: str = ""

    @abstractmethod
    def open(self, item: Item) -> Picture:
        """Open one image; pixels are decoded when they are first used."""

    def head(self, item: Item, num_bytes: int) -> bytes:
        """Read the first bytes of an image's file; empty where it has no file or cannot be read."""
        return b""

    @abstractmethod
    def _marks(self) -> Iterator[str]:
        """One cheap mark per item that changes with its content."""

    def content_marks(self) -> tuple[str, ...]:
        """One cheap mark per item, in their order, that changes with the content of its file."""
        return tuple(self._marks())

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``[N]``: the label of every item; see :attr:`Item.label`."""
        return np.fromiter((item.label for item in self.items), dtype=np.int64, count=len(self.items))

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return bool(self.items) and self.items[0].labels is not None

    @property
    def targets(self) -> npt.NDArray[np.uint8]:
        """``[N,K]``: 1 where an image has a label."""
        found = np.zeros((len(self.items), len(self.classes)), dtype=np.uint8)
        for row, item in zip(found, self.items, strict=True):
            row[list((item.label,) if item.labels is None else item.labels)] = 1
        return found

    def count_labels(self, chosen: npt.NDArray[np.int64] | slice = slice(None)) -> npt.NDArray[np.int64]:
        """``[K]``: images of each class, or with each label, among those at the positions ``chosen``."""
        if self.multi_label:
            return np.asarray(self.targets[chosen].sum(0, dtype=np.int64))
        return np.bincount(self.labels[chosen], minlength=len(self.classes))

    @property
    def truth(self) -> npt.NDArray[np.int64] | npt.NDArray[np.uint8]:
        """:attr:`labels`, or :attr:`targets` where an image may have several."""
        return self.targets if self.multi_label else self.labels

    def label_name(self, item: Item) -> str:
        """The class of an image as text, or all its labels with ``;`` between them."""
        if item.labels is None:
            return self.classes[item.label]
        return ";".join(self.classes[label] for label in item.labels)

    def stamp(self) -> str:
        """Cheap identity of all images and labels, without reading a pixel.

        See :mod:`sapling.data.marks`. It does not depend on where the source lies, but files that were copied have
        new times.
        """
        digest = hashlib.sha256()
        for item, mark in zip(self.items, self._marks(), strict=True):
            # Names that are no UTF-8 (surrogates) are hashed as their bytes.
            label = item.label if item.labels is None else list(item.labels)
            digest.update(f"\n{item.key}\0{label}\0{mark}".encode(errors="surrogateescape"))
        return digest.hexdigest()
