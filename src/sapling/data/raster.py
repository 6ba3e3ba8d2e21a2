"""Pictures of many bands, 16 bits or floats, decoded by tifffile (the extra ``geo``). No torch.

tifffile believes what a file says of itself and inflates what it finds, so that is checked before it is called: sizes
against a limit, places of the data against the length of the file, compressed parts by inflating no more of them than
the picture can hold.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sapling.data.tiff import TiffHeader, check_readable, is_tiff, needs_raster, read_header
from sapling.errors import DataError

EXTRA = "pip install 'sapling-kd[geo]'"
MAX_RASTER_BYTES = 512 * 2**20
"""Largest picture that is decoded: width x height x bands x bytes."""

_DEFLATE = (8, 32946)
_PLAIN = 1
_WITH_CODECS = {5: "LZW", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
_FLOAT_DIFFERENCES = 3
_own = threading.local()


class MissingPackageError(DataError):
    """A picture that another package is needed for: it is sound, so it is never skipped."""


class Raster:
    """A picture whose values are read as they are: ``[H,W,C]`` of any type.

    It has Pillow's ``size`` and can be used in a ``with`` statement, as Pillow's pictures can.

    Attributes:
        header: what the file says.
        num_bands: C.
        dtype: type of the values.
        size: width and height.
        nodata: the value that means "not measured", or None.
        orientation: 1 to 8 as in EXIF.
    """

    def __init__(self, data: bytes, header: TiffHeader) -> None:
        self.dtype = check_readable(header)
        self._data, self.header = data, header
        self.num_bands, self.size = header.num_bands, header.size
        self.nodata, self.orientation = header.nodata, header.orientation
        _check_size(math.prod(self.size), self.num_bands, self.dtype.itemsize)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data = b""

    def read(self) -> npt.NDArray[Any]:
        """Decode the values, ``[H,W,C]``, not turned.

        Raises:
            MissingPackageError: tifffile, or imagecodecs for this kind of compression, is not installed.
            DataError: the file is damaged, or its data would not fit.
        """
        check_installed()
        self._check_codec()
        import tifffile

        try:
            with _quiet(), tifffile.TiffFile(io.BytesIO(self._data)) as file:
                pages = [file.pages[number] for number in range(self.header.pages)]
                arrays = [self._page(page) for page in pages]
        except (DataError, MemoryError):
            raise
        except Exception as error:  # whatever tifffile and numpy raise on a damaged file
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"the TIFF file is damaged: {reason[:120]}") from error
        if len(arrays) == 1:
            return arrays[0]
        pages_last = np.concatenate(arrays, axis=2)  # [H,W,pages]
        return pages_last if self.header.bands_first else pages_last.transpose(2, 0, 1)

    def _page(self, page: Any) -> npt.NDArray[Any]:
        """One page as ``[H,W,samples]``, checked before it is decoded."""
        header = self.header
        shaped = tuple(int(side) for side in page.shaped)  # planes, depth, height, width, samples
        planes, depth, height, width, samples = shaped
        if (depth, height, width, planes * samples) != (1, header.height, header.width, header.num_samples):
            raise DataError("the TIFF file contradicts itself about its size")
        if page.dtype is None or np.dtype(page.dtype).newbyteorder("=") != self.dtype:
            raise DataError("the TIFF file contradicts itself about its type")
        self._check_segments(page, planes)
        values: npt.NDArray[Any] = page.asarray(squeeze=False, maxworkers=1)
        if values.shape != shaped:
            raise DataError("the TIFF file holds less than it says")
        return values[:, 0].transpose(1, 2, 0, 3).reshape(height, width, planes * samples)

    def _check_segments(self, page: Any, planes: int) -> None:
        """Refuse strips and tiles that lie outside of the file or hold more than they say."""
        side = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        height, width = int(min(side[0], 2**31)), int(side[1])
        if not page.is_tiled:
            height = min(height, int(page.imagelength))
        per_pixel = self.header.num_samples // planes * self.dtype.itemsize
        largest = height * width * per_pixel
        across = math.ceil(page.imagewidth / max(width, 1))
        needed = planes * math.ceil(page.imagelength / max(height, 1)) * across
        if largest < 1 or largest * needed > 2 * MAX_RASTER_BYTES:
            raise DataError("the parts of the TIFF file are larger than the picture")
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        # Of an uncompressed picture tifffile joins neighbouring strips into one.
        if len(segments) != needed and not (len(segments) == 1 and page.compression == _PLAIN):
            raise DataError(f"the TIFF file has {len(segments)} parts of {needed}")
        for offset, count in segments:
            if offset < 0 or count < 0 or offset + count > len(self._data):
                raise DataError("the file is cut off")
            if page.compression in _DEFLATE and count:
                inflated = zlib.decompressobj().decompress(self._data[offset : offset + count], largest + 1)
                if len(inflated) > largest:
                    raise DataError("a compressed part of the TIFF file holds more than the picture")
        held = sum(count for _, count in segments)
        if page.compression == _PLAIN and held < self.header.height * self.header.width * per_pixel * planes:
            raise DataError("the file is cut off")

    def _check_codec(self) -> None:
        kind, predictor = self.header.compression, self.header.predictor
        if kind not in (_PLAIN, *_DEFLATE, *_WITH_CODECS):
            raise DataError(
                f"it is compressed in a way that is not read (TIFF's number {kind})",
                allowed="none, deflate, LZW, PackBits, LZMA, Zstandard",
            )
        if (kind in _WITH_CODECS or predictor == _FLOAT_DIFFERENCES) and not _has("imagecodecs"):
            how = f"compressed with {_WITH_CODECS[kind]}" if kind in _WITH_CODECS else "stored as differences of floats"
            raise MissingPackageError(
                f"it is {how}, which needs the package imagecodecs (pip install imagecodecs)",
                remedy="pip install imagecodecs, or write the files anew with deflate compression",
            )


Picture: TypeAlias = Image.Image | Raster
"""What a source opens: an ordinary picture as Pillow has it, or one of many bands."""


def open_raster(data: bytes) -> Raster | None:
    """Open what Pillow would not show as it is; None for ordinary pictures, and for what Pillow is to refuse.

    Raises:
        DataError: more values than are decoded, or of a type that is not read.
    """
    if not is_tiff(data):
        return None
    header = read_header(data)
    return Raster(data, header) if header is not None and needs_raster(header) else None


def check_installed() -> None:
    """Refuse to go on without tifffile.

    Raises:
        MissingPackageError: it is not installed.
    """
    if not _has("tifffile"):
        raise MissingPackageError(
            f"pictures of many bands or 16 bits need the package tifffile ({EXTRA})", remedy=EXTRA
        )


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _check_size(num_pixels: int, num_bands: int, num_bytes: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and num_pixels > limit:
        raise DataError(f"the picture has {num_pixels:,} pixels, more than the {limit:,} that are decoded")
    if num_pixels * num_bands * num_bytes > MAX_RASTER_BYTES:
        raise DataError(
            f"the picture has {num_pixels:,} pixels of {num_bands} bands, more than the {MAX_RASTER_BYTES:,} bytes "
            "that are decoded"
        )


class _NotOurs(logging.Filter):
    """Lets through what tifffile logs for others; about our files the user hears from us."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_own, "reads", False)


@contextmanager
def _quiet() -> Iterator[None]:
    # By thread: changing the logger's level would race with the other threads of a build.
    logger = logging.getLogger("tifffile")
    if not any(isinstance(one, _NotOurs) for one in logger.filters):
        logger.addFilter(_NotOurs())
    _own.reads = True
    try:
        yield
    finally:
        _own.reads = False
