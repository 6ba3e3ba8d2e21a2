"""From a picture to pixels: :func:`prepare_image` is the only place where that happens.

Training, evaluation and prediction (with torch or without) all go through it, so they see the same numbers.
No torch here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from sapling.bands import Bands, rgb_bands
from sapling.data.raster import Picture, Raster
from sapling.data.values import centre_square, count_bands, is_missing, orientation, prepare_bands, read_values
from sapling.errors import DataError

PIXELS = 1
"""Raised whenever :func:`prepare_image` gives other pixels than before: stores are then built anew."""

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def prepare_image(picture: Picture, store_size: int, bands: Bands | None = None) -> npt.NDArray[np.uint8]:
    """Turn any picture into ``[S,S,C]`` uint8: the one truth about pixels.

    Without ``bands`` an ordinary picture becomes RGB (C = 3): upright by its EXIF tag, RGB, centre square, antialiased
    bicubic resize. A picture that already has this size keeps its pixels. Transparent parts are shown on white, as on
    a page; of 16 bits the upper 8 are kept; of several frames the first.

    Args:
        picture: as :func:`sapling.data.sources.decode_image` opened it.
        store_size: S, the side of the result.
        bands: which bands become channels, and which values 0 and 255; see
            :func:`sapling.data.values.prepare_bands`.

    Raises:
        DataError: pixels whose range is not known (32-bit float), or another number of bands than ``bands`` says.
        OSError: the file is damaged.
    """
    if bands is not None:
        return prepare_bands(picture, store_size, bands)
    if isinstance(picture, Raster):
        raise DataError(
            f"it has {count_bands(picture.num_bands)} of {picture.dtype}, and an ordinary picture is expected"
        )
    # First the pixels: Pillow turns a TIFF itself when it decodes it, and then removes the tag.
    picture.load()
    transpose = _TRANSPOSES.get(orientation(picture))
    image = _to_rgb(picture)
    if transpose is not None:
        image = image.transpose(transpose)
    width, height = image.size
    if min(width, height) < 1:
        raise DataError("the picture has no pixels")
    # The centre square is cut before the resize: the same picture as after it, and long images cost less.
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if (width, height) != (side, side):
        image = image.crop((left, top, left + side, top + side))
    if side != store_size:
        image = image.resize((store_size, store_size), Image.Resampling.BICUBIC)
    return np.array(image, dtype=np.uint8)


def thumbnail(picture: Picture, side: int) -> npt.NDArray[np.uint8]:
    """Show any picture to people: ``[side,side,3]`` uint8.

    Of many bands three are shown (red, green and blue where it is known which they are), each stretched to its own
    values from the 2nd to the 98th percentile; so are 16 bits and floats of one band. It is no input of a network.

    Raises:
        DataError: a picture that cannot be read.
        OSError: the file is damaged.
    """
    if not isinstance(picture, Raster) and not picture.mode.startswith(("I", "F")):
        return prepare_image(picture, side)
    values, nodata = read_values(picture)
    square = centre_square(values)
    step = max(square.shape[0] // 64, 1)
    chosen, low, high = rgb_bands(values.shape[2]), [], []
    for band in chosen:
        seen = square[::step, ::step, band - 1]
        seen = seen[~is_missing(seen, nodata) & np.isfinite(seen)].astype(np.float64)
        darkest, brightest = np.percentile(seen, (2, 98)) if seen.size else (0.0, 1.0)
        low.append(float(darkest))
        high.append(float(brightest) if brightest > darkest else float(darkest) + 1)
    return prepare_bands(picture, side, Bands(values.shape[2], chosen, tuple(low), tuple(high)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise DataError("the picture has 32-bit float pixels, whose range is not known")
    if image.mode.startswith("I"):
        # A grey PNG of 16 bits is "I" in some versions of Pillow and "I;16" in others.
        values = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        page = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        page.alpha_composite(colours)
        return page.convert("RGB")
    return image.convert("RGB")
