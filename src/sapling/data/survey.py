"""Look at a sample of the pictures: how many bands they have, of which type, and which values. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sapling.bands import Bands, check_range, choose
from sapling.data.broken import BadImage, bad_image, refusal
from sapling.data.layout import Item, printable
from sapling.data.raster import MissingPackageError, Raster, check_installed
from sapling.data.sources import Source
from sapling.data.values import centre_square, count_bands, is_missing, kind_of, read_values
from sapling.errors import DataError

NUM_SAMPLED = 200
"""Pictures that are looked at, spread over the data."""
PERCENTILES = (0.5, 99.5)
"""Share of the values of a band that lies below and above its range: a glint must not darken all the rest."""

_PIXELS_EACH = 4096
_DARK = 65536 // 8
_EXAMPLES = 2


@dataclass(frozen=True, slots=True)
class _Kind:
    num_bands: int
    dtype: str

    def __str__(self) -> str:
        return f"{count_bands(self.num_bands)} of {self.dtype}"


def settle_bands(
    source: Source,
    *,
    sample: npt.NDArray[np.int64],
    bands: Iterable[int] | str | None = None,
    value_range: tuple[float, float] | None = None,
) -> tuple[Bands | None, tuple[str, ...]]:
    """Settle which bands become channels, and which of their values 0 and 255.

    Ordinary pictures (what Pillow shows as a photograph) are left alone where neither setting is given: the result is
    None, and they become RGB as ever. Else all pictures must have the same number of bands. The range of values is
    the one that is given; that of 8 bits is 0 to 255; else, per band, the 0.5th to the 99.5th percentile of the
    pictures in ``sample``.

    Args:
        source: the pictures.
        sample: positions of pictures that values may be taken from (those of the training part).
        bands: the setting: numbers from 1, ``rgb``, or None for all.
        value_range: the setting: the values that become 0 and 255 in all bands, or None.

    Returns:
        What was settled, and notes for the user.

    Raises:
        DataError: pictures of different kinds; a package is missing; none can be read.
        ConfigError: a band that the pictures do not have.
    """
    examples, failures = _kinds(source)
    if not examples:
        raise refusal(source, failures)
    # What Pillow reads as 32 bits may be negative or far above 65,535: the upper 8 of 16 bits would be black.
    is_plain = all(kind.dtype not in ("float32", "int32") and not raster for kind, raster in examples)
    if bands is None and value_range is None and is_plain:
        return None, _notes_on_dark(source, sample, {kind.dtype for kind, _ in examples})
    if any(raster for _, raster in examples):
        with _named(source):
            check_installed()
    _refuse_mixture(source, examples, with_range=value_range is not None)
    kind = next(iter(examples))[0]
    chosen = choose(bands, kind.num_bands)
    if value_range is not None:
        check_range(*value_range)
        low, high = [value_range[0]] * len(chosen), [value_range[1]] * len(chosen)
    elif kind.dtype == "uint8":
        low, high = [0.0] * len(chosen), [255.0] * len(chosen)
    else:
        ranges = {band: _robust_range(values) for band, values in _values(source, sample, {*chosen}).items()}
        low, high = [ranges[band][0] for band in chosen], [ranges[band][1] for band in chosen]
    settled = Bands(kind.num_bands, chosen, tuple(low), tuple(high))
    return settled, (f"The pictures have {kind}; used: {settled}.",)


def _spread(source: Source, positions: npt.NDArray[np.int64]) -> Iterator[Item]:
    """Up to ``NUM_SAMPLED`` of the images at ``positions``, evenly spread."""
    picks = np.unique(np.linspace(0, len(positions) - 1, num=NUM_SAMPLED).astype(np.int64))
    return (source.items[int(position)] for position in positions[picks])


def _kinds(source: Source) -> tuple[dict[tuple[_Kind, bool], list[str]], list[BadImage]]:
    """Kinds of pictures with examples of each (and whether Pillow cannot show them), the most frequent first."""
    found: dict[tuple[_Kind, bool], list[str]] = {}
    failures: list[BadImage] = []
    with _without_remarks():
        for item in _spread(source, np.arange(len(source.items))):
            try:
                with source.open(item) as picture:
                    found.setdefault((_Kind(*kind_of(picture)), isinstance(picture, Raster)), []).append(item.key)
            except Exception as error:  # listed with all others when the store is built
                failures.append(bad_image(item.key, error))
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1]))), failures


def _refuse_mixture(source: Source, examples: Mapping[tuple[_Kind, bool], list[str]], *, with_range: bool) -> None:
    """Refuse pictures of different numbers of bands, and bytes beside longer values where no range is given."""
    named: dict[str, list[str]] = {}
    for (kind, _), keys in examples.items():
        length = "" if with_range else " of 8 bits" if kind.dtype == "uint8" else " of more than 8 bits"
        named.setdefault(count_bands(kind.num_bands) + length, []).extend(keys)
    if len(named) == 1:
        return
    shown = "".join(
        f"\n    {what}: {', '.join(printable(key) for key in keys[:_EXAMPLES])}"
        + (f" and {len(keys) - _EXAMPLES} more of those looked at" if len(keys) > _EXAMPLES else "")
        for what, keys in named.items()
    )
    raise DataError(
        f"the pictures are of different kinds:{shown}",
        where=source.location,
        allowed="the same number of bands, and the same type, in all pictures",
        remedy="keep the pictures of one kind, or make the others anew from the same bands",
    )


def _values(source: Source, positions: npt.NDArray[np.int64], bands: Set[int]) -> dict[int, npt.NDArray[np.float64]]:
    """Measured values of some bands of the sampled pictures, from a grid of pixels each."""
    found: dict[int, list[npt.NDArray[np.float64]]] = {band: [] for band in bands}
    failures: list[BadImage] = []
    with _without_remarks():
        for item in _spread(source, positions):
            try:
                values, nodata = read_values(source.open(item))
                square = centre_square(values)
                step = max(int(np.ceil(square.shape[0] / np.sqrt(_PIXELS_EACH))), 1)
                for band, parts in found.items():
                    plane = square[::step, ::step, band - 1]
                    seen = plane[~is_missing(plane, nodata)].astype(np.float64)
                    parts.append(seen[np.isfinite(seen)])
            except MissingPackageError as error:
                with _named(source):
                    raise error
            except Exception as error:  # listed with all others when the store is built
                failures.append(bad_image(item.key, error))
    if len(failures) and not any(found.values()):
        raise refusal(source, failures)
    return {band: np.concatenate(parts) for band, parts in found.items()}


def _robust_range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Range of the values without the outermost; a band without contrast gets one step above its value."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    if not low < high:
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low, low + max(1.0, abs(low)))


def _notes_on_dark(source: Source, positions: npt.NDArray[np.int64], dtypes: Set[str]) -> tuple[str, ...]:
    """Say where grey pictures of 16 bits use so few of them that their upper 8 are almost black."""
    if dtypes.isdisjoint(("uint16", "int32")):
        return ()
    highest = 0
    with _without_remarks():
        for item in _spread(source, positions):
            try:
                picture = source.open(item)
                if kind_of(picture)[1] != "uint8":
                    highest = max(highest, int(read_values(picture)[0].max()))
                else:
                    highest = max(highest, 65535)
            except Exception:  # noqa: S112  (listed with all others when the store is built)
                continue
    if not 0 < highest < _DARK:
        return ()
    note = (
        f"Dark pictures: they have 16 bits and values up to {highest:,} of 65,535, so of their upper 8 bits little is "
        f"left; --value-range 0,{highest} uses all of them."
    )
    return (note,)


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Add where the pictures are to the error that a package is missing."""
    try:
        yield
    except MissingPackageError as error:
        raise MissingPackageError(error.what, where=source.location, remedy=error.remedy) from None


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep remarks of decoders from the user; what is too large is refused all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield
