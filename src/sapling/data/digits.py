"""scikit-learn's handwritten digits, the built-in source. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from sapling.data.base import Source
from sapling.data.layout import Item
from sapling.data.raster import Picture


@dataclass
class DigitsSource(Source):
    """scikit-learn's 1,797 handwritten digits: 8 x 8 grey values, ten classes, no download."""

    pixels: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 8, 8), np.uint8), repr=False)

    def open(self, item: Item) -> Picture:
        """Open one image; see :meth:`Source.open`."""
        return Image.fromarray(self.pixels[int(item.key.rpartition("/")[2])])

    def _marks(self) -> Iterator[str]:
        return ("digits 1" for _ in self.items)


def open_digits() -> DigitsSource:
    """Open scikit-learn's digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    items = tuple(Item(f"digits/{number:04d}", int(label)) for number, label in enumerate(bunch.target))
    return DigitsSource(
        name="digits",
        location="digits",
        kind="digits",
        classes=tuple(str(digit) for digit in range(10)),
        items=items,
        # A mirrored 2 is no 2.
        default_views="shift",
        pixels=pixels,
    )
