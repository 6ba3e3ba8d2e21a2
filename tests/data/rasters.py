"""TIFFs of many bands for tests; everything follows from a seed."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile


def values(bands: int = 13, side: int = 16, dtype: str = "uint16", seed: int = 0, top: int = 4000) -> npt.NDArray[Any]:
    """``[side,side,bands]``: every band a slope of its own, with some noise."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 1, side)[:, None, None] * rng.uniform(0.3, 1, bands) + rng.uniform(
        0, 0.2, (side, side, bands)
    )
    return np.asarray(slope / 1.2 * top).astype(dtype)


def tiff(array: npt.NDArray[Any], **options: Any) -> bytes:
    """``[H,W,C]`` as the file that most programs write: one page, bands beside each other."""
    file = io.BytesIO()
    given = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None, **options}
    tifffile.imwrite(file, array, **given)
    return file.getvalue()


def set_tag(data: bytes, tag: int, value: int) -> bytes:
    """Overwrite the value of a tag of a little-endian file."""
    at = tag_place(data, tag) + 8
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def tag_place(data: bytes, tag: int) -> int:
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    return next(
        at for at in range(start + 2, start + 2 + 12 * count, 12) if struct.unpack_from("<H", data, at)[0] == tag
    )


def multispectral(root: Path, *, each: int = 12, side: int = 16, bands: int = 13, **options: Any) -> Path:
    """A folder of three classes that differ in a few bands only, as fields and forests do."""
    for label, name in enumerate(("field", "forest", "water")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            array = values(bands, side, seed=100 * label + number).astype(np.float64)
            array[:, :, 3 * label : 3 * label + 3] *= 2
            (root / name / f"{name}{number:02}.tif").write_bytes(tiff(array.astype("uint16"), **options))
    return root
