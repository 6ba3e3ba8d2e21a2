"""Which sizes images are stored and seen at, where nobody says. No torch."""

from __future__ import annotations

from sapling.data.packed import default_store_size, native_size
from sapling.data.sources import Source


def choose_sizes(source: Source, img_size: int | None = None, store_size: int | None = None) -> tuple[int, int, int]:
    """Choose what is not given.

    Args:
        source: the images.
        img_size: side that the networks see; default: the pictures' own short side, rounded down to a multiple of
            32, 32 to 224.
        store_size: side of the stored pictures; default: 15 % more, where the pictures have that.

    Returns:
        ``img_size``, ``store_size`` and the median short side of the pictures.

    Raises:
        DataError: no image can be read.
    """
    native = native_size(source)
    if img_size is None:
        # The digits have 8 pixels, which no network takes.
        img_size = 32 if source.kind == "digits" else min(max(native // 32 * 32, 32), 224)
    return img_size, store_size if store_size is not None else default_store_size(img_size, native), native
