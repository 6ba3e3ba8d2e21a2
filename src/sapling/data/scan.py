"""Reads the headers of all images: size, format, mode, orientation. No pixel is decoded; no torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import ExifTags, Image

from sapling.data.broken import BadImage, bad_image
from sapling.data.raster import Picture, Raster
from sapling.data.sources import Source

# The endings of names by the format that Pillow finds inside.
SUFFIXES = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "MPO": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "DIB": ("bmp",),
    "WEBP": ("webp",),
    "AVIF": ("avif",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "JPEG2000": ("jp2", "j2k"),
}
_KNOWN = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of an image say.

    Attributes:
        key: its path inside the source.
        width: pixels, as it is shown (after its EXIF rotation).
        height: pixels, as it is shown.
        format: what it really is, in Pillow's words (``JPEG``, ``PNG``, ..); empty for images without a file.
        mode: its pixels, in Pillow's words (``RGB``, ``L``, ``P``, ``RGBA``, ``I;16``, ..), or bands and type
            (``13 x uint16``).
        is_rotated: whether its EXIF tag turns or mirrors it.
    """

    key: str
    width: int
    height: int
    format: str
    mode: str
    is_rotated: bool

    @property
    def has_wrong_suffix(self) -> bool:
        """Whether the name says that it is another kind of image; it is read all the same."""
        suffix = PurePosixPath(self.key).suffix.lower().removeprefix(".")
        return suffix in _KNOWN and self.format in SUFFIXES and suffix not in SUFFIXES[self.format]


def scan_headers(
    source: Source, *, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Header], list[BadImage]]:
    """Read the headers of all images of a source.

    Args:
        source: the images.
        progress: is called with (images done, images in all).

    Returns:
        One header per readable image in the order of the source, and the images that have none.
    """
    headers, bad = [], []
    with warnings.catch_warnings():
        # Huge pictures are refused by name, and remarks of decoders on odd files are no news.
        warnings.simplefilter("ignore")
        for done, item in enumerate(source.items, 1):
            try:
                with source.open(item) as image:
                    headers.append(_header(item.key, image))
            except Exception as error:  # whatever a decoder raises on a damaged file belongs to that file
                bad.append(bad_image(item.key, error))
            if progress is not None:
                progress(done, len(source.items))
    return headers, bad


def _header(key: str, image: Picture) -> Header:
    orientation = image.orientation if isinstance(image, Raster) else _orientation(image)
    width, height = image.size
    if orientation in _SIDEWAYS:
        width, height = height, width
    if isinstance(image, Raster):
        return Header(key, width, height, "TIFF", f"{image.num_bands} x {image.dtype}", orientation != 1)
    # A grey picture of 16 bits is "I" in some versions of Pillow and "I;16" in others.
    mode = "I;16" if image.mode.startswith("I") else image.mode
    return Header(key, width, height, image.format or "", mode, orientation != 1)


def _orientation(image: Image.Image) -> int:
    try:
        # Not image.getexif(): that of PNG decodes all pixels to look for a tag behind them.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged tag costs nothing but itself
        return 1
