"""What decides, beside the file, which pixels a picture becomes: two stores of one recipe may share rows. No torch."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import __version__ as pillow_version
from PIL import features

from sapling.bands import Bands
from sapling.data.pixels import PIXELS, prepare_image
from sapling.data.raster import Picture


@dataclass(frozen=True, slots=True)
class Recipe:
    """How pictures become pixels.

    Attributes:
        size: S, the side of the stored pictures.
        pixels: version of the rules.
        bands: which bands become channels, and which values 0 and 255; None for RGB of ordinary pictures.
    """

    size: int
    pixels: int = PIXELS
    bands: Bands | None = None

    @property
    def num_channels(self) -> int:
        """C."""
        return self.bands.num_channels if self.bands is not None else 3

    def prepare(self, picture: Picture) -> npt.NDArray[np.uint8]:
        """``[S,S,C]`` uint8 of a picture; see :func:`sapling.data.pixels.prepare_image`."""
        return prepare_image(picture, self.size, self.bands)

    def text(self) -> str:
        """Everything above, as text: a part of the name of a store."""
        return json.dumps(self.as_dict(), sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        """Everything above, as JSON."""
        bands = {"bands": self.bands.as_dict()} if self.bands is not None else {}
        return {"size": self.size, "num_channels": self.num_channels, "pixels": self.pixels, **bands}


@cache
def decoder() -> str:
    """Name the decoders with their versions: another one may give other bits, so its rows are not mixed in."""
    codecs = ("jpg", "libjpeg_turbo", "zlib", "zlib_ng", "webp", "libtiff", "jpg_2000", "avif")
    found = [f"Pillow {pillow_version}", *(f"{name} {features.version(name)}" for name in codecs)]
    for name in ("tifffile", "imagecodecs"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)
