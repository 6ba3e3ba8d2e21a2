"""Headers of TIFF files: how large, how many bands, of which type. Reads no pixel; needs numpy and Pillow only.

Pillow opens TIFFs of up to four bands of 8 bits, and grey ones of any depth. For the others this reader tells what
they are without trusting a number in them: nothing is allocated by what a file says of itself.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sapling.bands import MAX_BANDS
from sapling.errors import DataError

MAX_PAGES = 4096
_MAX_TAGS = 4096
_MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the types that counts, sizes and offsets are written in
_ASCII = 2
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 256, 257, 258, 259, 262, 270
_ORIENTATION, _SAMPLES, _PREDICTOR, _EXTRA, _SAMPLE_FORMAT, _NODATA = 274, 277, 317, 338, 339, 42113
_GREY, _CMYK = (0, 1), 5
_ALPHA = (1, 2)
_JPEG = (6, 7)


class PictureInfo(NamedTuple):
    """What a header says: ``format`` (TIFF), ``dtype`` of its values, ``bands``, ``width`` and ``height``."""

    format: str
    dtype: str
    bands: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """The first picture of a TIFF file.

    Attributes:
        width: in pixels.
        height: in pixels.
        num_samples: values per pixel.
        dtype: numpy's name of their type, or None where numpy has none (12 bits, complex, of several types).
        photometric: 0 and 1 are grey values, 2 RGB, 3 a palette, 5 CMYK, 6 YCbCr.
        extra: meaning of the samples beyond the colours: 0 not said, 1 and 2 transparency.
        compression: TIFF's number.
        predictor: 1 none, 2 differences, 3 differences of floats.
        orientation: 1 to 8 as in EXIF.
        nodata: the value that means "not measured" (GDAL's tag), or None.
        pages: number of pictures that are the bands or the rows of one array, where the file says so (tifffile's
            way to write an array ``[C,H,W]``); else 1.
        bands_first: whether such pages are the bands.
    """

    width: int
    height: int
    num_samples: int
    dtype: str | None
    photometric: int
    extra: tuple[int, ...]
    compression: int
    predictor: int
    orientation: int
    nodata: float | None
    pages: int = 1
    bands_first: bool = True

    @property
    def num_bands(self) -> int:
        """Bands of the picture, over all of its pages."""
        if self.pages == 1:
            return self.num_samples
        return self.pages if self.bands_first else self.width

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture, over all of its pages."""
        return (self.width, self.height) if self.pages == 1 or self.bands_first else (self.height, self.pages)


def is_tiff(data: bytes) -> bool:
    """Whether these bytes begin as a TIFF file does, whatever its name."""
    return data[:4] in _MAGIC


def read_header(data: bytes) -> TiffHeader | None:
    """Read the header of a TIFF file; None for what is no TIFF, or too damaged to tell."""
    if not is_tiff(data):
        return None
    try:
        return _Reader(data).header()
    except (struct.error, IndexError, KeyError, ValueError, OverflowError, RecursionError):
        return None


def picture_info(data: bytes) -> PictureInfo | None:
    """Tell what a TIFF file holds without decoding it; None for other formats and damaged headers.

    Args:
        data: the file; its header may stand anywhere in it, so the beginning alone is not enough.
    """
    header = read_header(data)
    if header is None:
        return None
    width, height = header.size
    return PictureInfo("TIFF", header.dtype or "unknown", header.num_bands, width, height)


def needs_raster(header: TiffHeader) -> bool:
    """Whether the picture is more than an ordinary one, so that its values have to be read as they are.

    More than four bands, several of 16 bits or floats, two to four that are neither colours nor transparency, or
    pages that are bands. What Pillow shows as a photograph (grey of any depth, RGB, RGBA, CMYK) stays with it.
    """
    samples = header.num_samples
    if header.pages > 1 or samples > 4:
        return True
    if samples == 1:
        return header.dtype == "float16"
    if header.compression in _JPEG or header.photometric == _CMYK:
        return False
    if header.dtype != "uint8":
        return header.dtype is not None
    colours = 1 if header.photometric in _GREY else 3
    unknown = [kind for kind in header.extra if kind not in _ALPHA]
    # Samples that no tag explains are bands as well (GDAL writes "not said", others nothing at all).
    return samples > colours and (bool(unknown) or len(header.extra) < samples - colours or samples - colours > 1)


def check_readable(header: TiffHeader) -> np.dtype[np.generic]:
    """Refuse what is too large or of no usable type; gives the type of the values.

    Raises:
        DataError: see above.
    """
    if header.dtype is None:
        raise DataError("its bands are of a type that is not read", allowed="8, 16, 32 or 64 bits, all bands alike")
    if min(header.size) < 1 or header.num_bands < 1:
        raise DataError("the picture has no pixels")
    if header.num_bands > MAX_BANDS:
        raise DataError(f"the picture has {header.num_bands} bands, more than the {MAX_BANDS} that are read")
    return np.dtype(header.dtype)


class _Reader:
    """Walks through the directories of a TIFF file; every position is checked by slicing or unpacking."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order, self.big = _MAGIC[data[:4]]

    def header(self) -> TiffHeader | None:
        start = self._number("Q", 8) if self.big else self._number("I", 4)
        tags, following = self._directory(start)
        width, height = self._value(tags, _WIDTH, 0), self._value(tags, _HEIGHT, 0)
        samples = self._value(tags, _SAMPLES, 1)
        if not (0 < width < 2**31 and 0 < height < 2**31 and 0 < samples < 2**16):
            return None
        pages, bands_first = self._pages(tags, following, (width, height)) if samples == 1 else (1, True)
        return TiffHeader(
            width=width,
            height=height,
            num_samples=samples,
            dtype=self._dtype(tags),
            photometric=self._value(tags, _PHOTOMETRIC, 1),
            extra=self._values(tags, _EXTRA),
            compression=self._value(tags, _COMPRESSION, 1),
            predictor=self._value(tags, _PREDICTOR, 1),
            orientation=self._value(tags, _ORIENTATION, 1),
            nodata=self._nodata(tags),
            pages=pages,
            bands_first=bands_first,
        )

    def _number(self, form: str, offset: int) -> int:
        return int(struct.unpack_from(self.order + form, self.data, offset)[0])

    def _directory(self, offset: int) -> tuple[dict[int, tuple[int, int, int]], int]:
        """Tags of the directory at ``offset`` as (type, count, place of the values), and where the next one is."""
        count = self._number("Q", offset) if self.big else self._number("H", offset)
        if not 0 < count <= _MAX_TAGS:
            raise ValueError(count)
        at, length, room = (offset + 8, 20, 8) if self.big else (offset + 2, 12, 4)
        tags: dict[int, tuple[int, int, int]] = {}
        for _ in range(count):
            tag, kind = self._number("H", at), self._number("H", at + 2)
            number = self._number("Q" if self.big else "I", at + 4)
            value_at = at + length - room
            size = struct.calcsize(_FORMATS[kind]) if kind in _FORMATS else 1
            if kind in _FORMATS or kind == _ASCII:
                inside = number * size <= room
                tags.setdefault(tag, (kind, number, value_at if inside else self._offset(value_at)))
            at += length
        return tags, self._offset(at)

    def _offset(self, at: int) -> int:
        return self._number("Q" if self.big else "I", at)

    def _values(self, tags: dict[int, tuple[int, int, int]], tag: int) -> tuple[int, ...]:
        kind, count, at = tags.get(tag, (3, 0, 0))
        if kind not in _FORMATS:
            raise ValueError(tag)
        count = min(count, MAX_BANDS)
        return tuple(struct.unpack_from(f"{self.order}{count}{_FORMATS[kind]}", self.data, at))

    def _value(self, tags: dict[int, tuple[int, int, int]], tag: int, default: int) -> int:
        return next(iter(self._values(tags, tag)), default)

    def _text(self, tags: dict[int, tuple[int, int, int]], tag: int, most: int) -> str:
        kind, count, at = tags.get(tag, (_ASCII, 0, 0))
        if kind != _ASCII:
            return ""
        return self.data[at : at + min(count, most)].split(b"\0")[0].decode("ascii", "replace").strip()

    def _dtype(self, tags: dict[int, tuple[int, int, int]]) -> str | None:
        bits, kinds = {*self._values(tags, _BITS)} or {1}, {*self._values(tags, _SAMPLE_FORMAT)} or {1}
        if len(bits) != 1 or len(kinds) != 1:
            return None
        width, kind = bits.pop(), _KINDS.get(kinds.pop())
        if width not in (8, 16, 32, 64) or kind is None or (kind == "f" and width == 8):
            return None
        return np.dtype(f"{kind}{width // 8}").name

    def _nodata(self, tags: dict[int, tuple[int, int, int]]) -> float | None:
        return read_nodata(self._text(tags, _NODATA, 64))

    def _pages(self, tags: dict[int, tuple[int, int, int]], following: int, size: tuple[int, int]) -> tuple[int, bool]:
        """Number of pages that make one array ``[C,H,W]`` or ``[H,W,C]``, and whether they are its bands."""
        text = self._text(tags, _DESCRIPTION, 4096)
        if not following or not text.startswith('{"shape"'):
            return 1, True
        shape = json.loads(text).get("shape")
        whole = isinstance(shape, list) and len(shape) == 3 and all(type(side) is int for side in shape)
        if not whole or (shape[2], shape[1]) != size or not 1 < shape[0] <= MAX_PAGES:
            return 1, True
        # Whether all pages are there shows when they are read: half a picture is a damaged one, not a smaller one.
        # The file does not say which side is that of the bands. Square pages are bands (patches of satellite images
        # may have fewer pixels than bands); otherwise it is the shorter one.
        return shape[0], shape[1] == shape[2] or shape[0] <= shape[2]


def read_nodata(text: str) -> float | None:
    """Read GDAL's tag of the value that means "not measured"; None where it holds no number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value  # NaN means the same whether or not it is declared
