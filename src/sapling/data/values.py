"""The values of a picture as they stand in the file, ``[H,W,C]`` of any type, and how they become bytes. No torch."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from sapling.bands import Bands
from sapling.data.raster import Picture, Raster
from sapling.data.tiff import read_nodata
from sapling.errors import DataError

_NODATA = 42113


def orientation(picture: Picture) -> int:
    """How the picture lies, 1 to 8 as in EXIF; 1 where that is not said or damaged."""
    if isinstance(picture, Raster):
        return picture.orientation
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged tag (Pillow raises many kinds here) must not cost a sound picture
        return 1


def kind_of(picture: Picture) -> tuple[int, str]:
    """Number of bands and type of the values, as :func:`read_values` would give them; decodes nothing."""
    if isinstance(picture, Raster):
        return picture.num_bands, picture.dtype.name
    if picture.mode == "F":
        return 1, "float32"
    if picture.mode.startswith("I"):
        return 1, "int32" if picture.mode == "I" else "uint16"
    return (3 if picture.mode == "P" else 4 if picture.mode == "PA" else len(picture.getbands())), "uint8"


def read_values(picture: Picture) -> tuple[npt.NDArray[Any], float | None]:
    """Decode a picture: ``[H,W,C]`` values, upright, and the one among them that means "not measured".

    Of Pillow's pictures every layer is a band, transparency too; a palette gives its three colours.

    Raises:
        DataError: a damaged file, or one that needs a package which is not installed.
        OSError: a damaged file.
    """
    if not isinstance(picture, Raster):
        picture.load()  # Pillow turns a TIFF itself when it decodes it, and then removes the tag
    lies = orientation(picture)
    if isinstance(picture, Raster):
        values, nodata = picture.read(), picture.nodata
    else:
        if picture.mode in ("1", "P", "PA"):
            picture = picture.convert({"1": "L", "P": "RGB", "PA": "RGBA"}[picture.mode])
        values, nodata = np.asarray(picture), None
        with contextlib.suppress(Exception):  # Pillow raises many kinds on damaged tags
            nodata = read_nodata(str(getattr(picture, "tag_v2", {}).get(_NODATA)))
    return _upright(values if values.ndim == 3 else values[:, :, None], lies), nodata


def prepare_bands(picture: Picture, store_size: int, bands: Bands) -> npt.NDArray[np.uint8]:
    """Turn a picture of many bands, or of other than 8 bits, into ``[S,S,C]`` uint8.

    Upright, chosen bands, centre square, range of values to 0..255, antialiased bicubic resize (of floats: they are
    rounded once, at the end).

    Raises:
        DataError: it has another number of bands than the others.
    """
    found, _ = kind_of(picture)
    if found != bands.num_bands:
        raise DataError(f"it has {count_bands(found)}, and {count_bands(bands.num_bands)} are expected")
    values, nodata = read_values(picture)
    values = centre_square(values)
    result = np.empty((store_size, store_size, bands.num_channels), np.uint8)
    done: dict[tuple[int, float, float], npt.NDArray[np.uint8]] = {}
    for channel, key in enumerate(zip(bands.chosen, bands.low, bands.high, strict=True)):
        if key not in done:
            done[key] = _to_bytes(values[:, :, key[0] - 1], nodata, key[1], key[2], store_size)
        result[:, :, channel] = done[key]
    return result


def count_bands(number: int) -> str:
    """``1 band``, ``13 bands``."""
    return f"{number} band" + ("s" if number != 1 else "")


def centre_square(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cut the centre square of ``[H,W,C]``.

    Raises:
        DataError: there is no pixel.
    """
    height, width = values.shape[:2]
    side = min(height, width)
    if side < 1:
        raise DataError("the picture has no pixels")
    top, left = (height - side) // 2, (width - side) // 2
    return values[top : top + side, left : left + side]


def is_missing(plane: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_]:
    """Which values were not measured: NaN, and those that the file declares as such."""
    missing = np.isnan(plane) if plane.dtype.kind == "f" else np.zeros(plane.shape, np.bool_)
    if nodata is None:
        return missing
    if plane.dtype.kind == "f":
        # The tag is decimal text: -3.4028235e+38 is meant for the float nearest to it.
        with np.errstate(over="ignore"):
            nodata = float(plane.dtype.type(nodata))
    return np.asarray(missing | (plane == nodata), np.bool_)


def _to_bytes(
    plane: npt.NDArray[Any], nodata: float | None, low: float, high: float, store_size: int
) -> npt.NDArray[np.uint8]:
    """One band ``[H,H]`` to bytes ``[S,S]``."""
    # Float32 holds every 16-bit value; longer ones are scaled before they are shortened.
    is_short = plane.dtype.itemsize <= 2 or plane.dtype == np.float32
    exact: npt.NDArray[Any] = plane.astype(np.float32 if is_short else np.float64)
    with np.errstate(all="ignore"):
        scaled: npt.NDArray[Any] = (exact - low) * (255 / (high - low))
    scaled = np.where(is_missing(plane, nodata) | np.isnan(scaled), 0, scaled)
    scaled = np.clip(scaled, 0, 255).astype(np.float32)
    if scaled.shape[0] != store_size:
        picture = Image.fromarray(scaled).resize((store_size, store_size), Image.Resampling.BICUBIC)
        scaled = np.clip(np.asarray(picture), 0, 255)
    result: npt.NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return result


def _upright(values: npt.NDArray[Any], lies: int) -> npt.NDArray[Any]:
    """Turn ``[H,W,C]`` as EXIF says, like Pillow's transposes."""
    if lies in (5, 6, 7, 8):
        values = values.transpose(1, 0, 2)
    down, right = lies in (3, 4, 7, 8), lies in (2, 3, 6, 7)
    return values[:: -1 if down else 1, :: -1 if right else 1]
