"""Which bands of a picture a network sees, and which values become its darkest and its brightest. No torch.

The words are those of remote sensing: a *band* is one layer of values in the file and is counted from 1, as GDAL
and the manuals of satellites do; a *channel* is one of the layers that a network gets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sapling.errors import ConfigError

MAX_BANDS = 512
PRESETS = ("rgb",)
# Sentinel-2 level 1C has 13 bands, level 2A 12 (no cirrus): red, green and blue are 4, 3 and 2 in both.
_RGB = {3: (1, 2, 3), 4: (1, 2, 3), 12: (4, 3, 2), 13: (4, 3, 2)}


@dataclass(frozen=True, slots=True)
class Bands:
    """How the values of a picture become bytes; settled once per data set and kept with every network.

    Attributes:
        num_bands: bands that every picture has.
        chosen: the band of each channel, counted from 1; one band may serve several channels.
        low: per channel the value that becomes 0, as do all below it and what is missing (NaN, nodata).
        high: per channel the value that becomes 255, as do all above it.
    """

    num_bands: int
    chosen: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.num_bands <= MAX_BANDS:
            raise ConfigError(f"pictures of {self.num_bands} bands", allowed=f"1 to {MAX_BANDS}")
        check_chosen(self.chosen, self.num_bands)
        if not len(self.chosen) == len(self.low) == len(self.high):
            raise ConfigError(f"{len(self.chosen)} bands, {len(self.low)} lowest and {len(self.high)} highest values")
        for low, high in zip(self.low, self.high, strict=True):
            check_range(low, high)

    @property
    def num_channels(self) -> int:
        """C."""
        return len(self.chosen)

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for config.json, ONNX files and the store."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        same = len({*zip(self.low, self.high, strict=True)}) == 1
        values = f"{self.low[0]:g} to {self.high[0]:g}" if same else "a range per band"
        if self.chosen == tuple(range(1, self.num_bands + 1)):
            which = f"all {self.num_bands} bands" if self.num_bands > 1 else "its band"
        else:
            which = f"bands {', '.join(map(str, self.chosen))} of {self.num_bands}"
        if self.num_bands == 1 and self.num_channels > 1:
            which = f"its band as {self.num_channels} equal channels"
        return f"{which}, values {values}"


def bands_from(content: Any) -> Bands:
    """Read what :meth:`Bands.as_dict` gave.

    Raises:
        ConfigError: it is something else.
    """
    try:
        if not isinstance(content, Mapping) or not all(type(number) is int for number in content["chosen"]):
            raise TypeError
        low, high = (tuple(float(value) for value in content[key]) for key in ("low", "high"))
        return Bands(int(content["num_bands"]), tuple(content["chosen"]), low, high)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ConfigError("the description of the bands is damaged", allowed="num_bands, chosen, low, high") from None


def positions(wanted: Bands, given: Bands) -> tuple[int, ...] | None:
    """Where the channels of one network are among the channels of images that were read as ``given``.

    Returns:
        A position for each channel of ``wanted``; None where one is missing or its values were read otherwise.
    """
    channels = list(zip(given.chosen, given.low, given.high, strict=True))
    own = list(zip(wanted.chosen, wanted.low, wanted.high, strict=True))
    if wanted.num_bands != given.num_bands or not set(own) <= set(channels):
        return None
    return tuple(channels.index(channel) for channel in own)


def check_chosen(chosen: Iterable[int], num_bands: int) -> None:
    """Refuse a choice that pictures of ``num_bands`` bands cannot give.

    Raises:
        ConfigError: no band, too many, or one that is not there.
    """
    chosen = tuple(chosen)
    if not 1 <= len(chosen) <= MAX_BANDS:
        raise ConfigError(f"{len(chosen)} bands are chosen", allowed=f"1 to {MAX_BANDS}")
    for number in chosen:
        if not 1 <= number <= num_bands:
            raise ConfigError(
                f"there is no band {number}: the pictures have {num_bands}", allowed=f"1 to {num_bands}, from 1"
            )


def check_range(low: float, high: float) -> None:
    """Refuse a range of values that is none.

    Raises:
        ConfigError: not finite, or the lower end is not below the upper one.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high and math.isfinite(high - low)):
        raise ConfigError(f"the range of values is {low:g} to {high:g}", allowed="two numbers, the lower one first")


def rgb_bands(num_bands: int) -> tuple[int, int, int]:
    """Red, green and blue of pictures with so many bands: 4, 3, 2 of Sentinel-2's, else the first three.

    Pictures of fewer than three bands show their first one, in grey.
    """
    return _RGB.get(num_bands, (1, 2, 3) if num_bands >= 3 else (1, 1, 1))


def choose(wanted: Iterable[int] | str | None, num_bands: int) -> tuple[int, ...]:
    """Settle the bands that become channels.

    Args:
        wanted: band numbers, ``rgb``, or None for all; of a single band None makes three equal channels, as of a
            grey photograph.
        num_bands: bands that the pictures have.

    Raises:
        ConfigError: a band that is not there, or ``rgb`` of pictures whose colours are not known.
    """
    if wanted is None:
        return tuple(range(1, num_bands + 1)) if num_bands > 1 else (1, 1, 1)
    if wanted == "rgb":
        if num_bands not in _RGB:
            known = ", ".join(map(str, sorted(_RGB)))
            raise ConfigError(
                f"which of {num_bands} bands are red, green and blue is not known",
                allowed=f"rgb for pictures of {known} bands, or numbers",
                remedy="--bands with three numbers, red first",
            )
        return _RGB[num_bands]
    try:
        chosen = tuple(number for number in parse_bands(wanted) or () if isinstance(number, int))
    except ValueError as error:
        raise ConfigError(f"bands: {error}") from None
    check_chosen(chosen, num_bands)
    return chosen


def parse_bands(given: Any) -> tuple[int, ...] | str | None:
    """Read the setting ``bands``: ``"4,3,2"``, ``[4, 3, 2]``, ``4``, ``"rgb"`` or None.

    Raises:
        ValueError: it is none of these.
    """
    if given is None or given in PRESETS:
        return given  # type: ignore[no-any-return]
    words = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int) else given
    try:
        numbers = tuple(int(word) if isinstance(word, str) else word for word in words)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(type(number) is int and 1 <= number <= MAX_BANDS for number in numbers):
        raise ValueError(f"{given!r} is not allowed; band numbers from 1, such as 4,3,2, or {', '.join(PRESETS)}")
    if len(numbers) > MAX_BANDS:
        raise ValueError(f"{len(numbers)} bands are too many; at most {MAX_BANDS}")
    return numbers


def parse_range(given: Any) -> tuple[float, float] | None:
    """Read the setting ``value_range``: ``"0,3000"``, ``[0, 3000]`` or None.

    Raises:
        ValueError: it is none of these.
    """
    if given is None:
        return None
    words = given.split(",") if isinstance(given, str) else given
    try:
        if isinstance(given, (Mapping, bool)) or any(isinstance(word, bool) for word in words):
            raise TypeError
        low, high = (float(word) for word in words)
        check_range(low, high)
    except (TypeError, ValueError, ConfigError):
        raise ValueError(f"{given!r} is not allowed; two numbers, the lower one first, such as 0,3000") from None
    return low, high


def band_options(bands: Iterable[int] | str | None, value_range: tuple[float, float] | None) -> str:
    """Write the two settings as flags of a command, each with a blank before it; nothing for what is not given."""
    chosen = bands if isinstance(bands, str) or bands is None else ",".join(map(str, bands))
    flags = f" --bands {chosen}" if chosen is not None else ""
    return flags + (f" --value-range={value_range[0]:g},{value_range[1]:g}" if value_range is not None else "")
