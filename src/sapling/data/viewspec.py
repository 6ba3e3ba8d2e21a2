"""What views are made of: the settings of the augmentation, and the presets. No torch.

Everything here is a range or a probability; what is drawn from it for one image stands in
:mod:`sapling.data.parameters`, what is done with it in :mod:`sapling.data.views`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sapling.errors import ConfigError, nearest

VIEW_PRESETS = ("none", "shift", "light", "aerial", "photo", "strong", "aerial_strong")
"""Names of the presets; this module imports neither torch nor numpy, because checking a name must cost nothing."""

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
"""The operations of RandAugment (Cubuk et al. 2020), as torchvision lists them."""

MAX_BLUR_SIGMA = 2.0
FILLS = ("noise", "grey")
# name: (least, largest) of a number, or of both numbers of a range
LIMITS: dict[str, tuple[float, float]] = {
    "shift": (0, 0.5),
    "scale": (0.01, 1),
    "ratio": (0.1, 10),
    "rotate": (0, 180),
    "shear": (0, 1),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 0.5),
    "grayscale": (0, 1),
    "blur": (0, 1),
    "blur_sigma": (0.1, MAX_BLUR_SIGMA),
    "operations": (0, len(OPERATIONS)),
    "strength": (0, 1),
    "erase": (0, 1),
    "erase_area": (0.001, 1),
    "erase_ratio": (0.1, 10),
}
ALLOWED = {
    "shift": "a share of the image size from 0 to 0.5",
    "scale": "null, or two shares of the stored picture's area, 0.01 to 1, the smaller first",
    "rotate": "0 to 180 degrees",
    "operations": f"a whole number from 0 to {len(OPERATIONS)}",
}


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """How views differ from the centre crop.

    Operations on colours are for pictures of three channels; those on places and erasing for any number.

    Attributes:
        shift: largest offset of the crop in each direction, as a share of the image size, 0 to 0.5. Where the
            stored picture has no margin for it, its border is mirrored.
        flip: whether half of the views are mirrored left to right.
        dihedral: whether views are turned by quarters and mirrored (8 ways); for pictures without an up.
        scale: smallest and largest area of a random crop that is resized to the view, as shares of the stored
            picture; None: no such crop, a view has the scale of the centre crop.
        ratio: narrowest and widest shape of that crop, width by height; drawn evenly on the logarithm, and
            brought nearer to a square where a crop of its area would not fit.
        rotate: largest angle, in degrees, in both directions. Corners show the mirrored picture.
        shear: largest shear in each direction.
        brightness: factor of the pixels is drawn from 1 - brightness to 1 + brightness.
        contrast: factor of the distance from the picture's mean grey, likewise.
        saturation: factor of the distance from the pixel's own grey, likewise.
        hue: largest turn of the hue, as a share of the full circle, in both directions.
        grayscale: probability of a view without colour.
        blur: probability of a Gaussian blur.
        blur_sigma: its least and largest width in pixels of the view.
        operations: how many operations of RandAugment are applied, drawn without repeats from
            :data:`OPERATIONS`.
        omit: operations that are never drawn.
        strength: their magnitude, 0 to 1; RandAugment's 9 of 30 is 0.3.
        erase: probability that a rectangle is erased.
        erase_area: its least and largest area, as shares of the view.
        erase_ratio: its narrowest and widest shape, width by height.
        erase_fill: ``noise`` (evenly distributed bytes) or ``grey`` (128).
    """

    shift: float = 0.0
    flip: bool = False
    dihedral: bool = False
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (0.75, 4 / 3)
    rotate: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 1.0)
    operations: int = 0
    omit: tuple[str, ...] = ()
    strength: float = 0.3
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.25)
    erase_ratio: tuple[float, float] = (0.3, 10 / 3)
    erase_fill: str = "noise"

    def __post_init__(self) -> None:
        for name, (least, largest) in LIMITS.items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(least <= number <= largest for number in numbers) or list(numbers) != sorted(numbers):
                kind = "two numbers, the smaller first, each" if isinstance(value, tuple) else "a number"
                raise ConfigError(
                    f"{name} is {value}", allowed=ALLOWED.get(name, f"{kind} from {least:g} to {largest:g}")
                )
        if unknown := [name for name in self.omit if name not in OPERATIONS]:
            hint = nearest(unknown[0], OPERATIONS)
            raise ConfigError(
                f"omit names {unknown[0]!r}" + (f": {hint}" if hint else ""), allowed=", ".join(OPERATIONS)
            )
        if self.operations > len(OPERATIONS) - len(set(self.omit)):
            raise ConfigError(
                f"operations is {self.operations}, and omit leaves {len(OPERATIONS) - len(set(self.omit))}",
                allowed="no more operations than are left",
            )
        if self.erase_fill not in FILLS:
            raise ConfigError(f"erase_fill is {self.erase_fill!r}", allowed=", ".join(FILLS))

    @property
    def is_resampled(self) -> bool:
        """Whether pixels are interpolated, rather than moved as they are."""
        moves = self.operations > 0 and self.strength > 0
        return self.scale is not None or self.rotate > 0 or self.shear > 0 or moves

    @property
    def is_turned(self) -> bool:
        """Whether a row of a view can come from several rows of the picture."""
        return self.dihedral or self.rotate > 0 or self.shear > 0 or (self.operations > 0 and self.strength > 0)

    @property
    def changes_colours(self) -> bool:
        """Whether operations on colours can be drawn."""
        names = ("brightness", "contrast", "saturation", "hue", "grayscale", "operations")
        return any(getattr(self, name) > 0 for name in names)

    @property
    def changes_pixels(self) -> bool:
        """Whether more is done than to move whole pixels."""
        return self.is_resampled or self.changes_colours or self.blur > 0 or self.erase > 0

    def check_channels(self, channels: int) -> None:
        """Refuse operations on colours for pictures that are not made of three channels.

        Raises:
            ConfigError: names what cannot be done.
        """
        if self.changes_colours and channels != 3:
            raise ConfigError(
                f"views change colours, and the pictures have {channels} channels",
                allowed="operations on colours for pictures of 3 channels; moves, blur and erasing for any number",
                remedy="views without colours, such as --views aerial; scale, rotate, erase as data.view_options",
            )


_DEFAULTS = ViewSpec()

_PHOTO: dict[str, Any] = {
    "flip": True,
    "scale": (0.35, 1.0),
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.03,
}
_STRONG: dict[str, Any] = {**_PHOTO, "scale": (0.25, 1.0), "operations": 2, "strength": 0.3, "erase": 0.25}

PRESETS: dict[str, ViewSpec] = {
    "none": ViewSpec(),
    "shift": ViewSpec(shift=0.125),
    "light": ViewSpec(shift=0.125, flip=True),
    "aerial": ViewSpec(shift=0.125, dihedral=True),
    "photo": ViewSpec(**_PHOTO),
    "strong": ViewSpec(**_STRONG),
    # seen from above, colours tell classes apart, and an equalized lake is noise
    "aerial_strong": ViewSpec(
        **{**_STRONG, "flip": False, "dihedral": True, "omit": ("autocontrast", "equalize", "solarize")}
    ),
}


def preset(name: str, options: Mapping[str, Any] | None = None) -> ViewSpec:
    """Choose the preset called ``name``, with single settings changed by ``options``.

    Raises:
        ConfigError: there is none, or an option is unknown or out of range; the nearest name is given.
    """
    if name not in PRESETS:
        hint = nearest(name, VIEW_PRESETS)
        raise ConfigError(
            f"there are no views called {name!r}" + (f": {hint}" if hint else ""),
            allowed=", ".join(VIEW_PRESETS),
        )
    return ViewSpec(**{**asdict(PRESETS[name]), **checked_options(options)}) if options else PRESETS[name]


def checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give ``options`` in their final types (1 becomes 1.0, a list of two a tuple), each checked alone.

    Raises:
        ConfigError: with every wrong option at once.
    """
    found: dict[str, Any] = {}
    problems = []
    names = {field.name for field in fields(ViewSpec)}
    for name, value in (options or {}).items():
        if name not in names:
            problems.append(f"{name}: unknown; {nearest(str(name), names) or 'allowed: ' + ', '.join(sorted(names))}")
            continue
        try:
            found[name] = _typed(name, value)
            ViewSpec(**{name: found[name]})
        except ConfigError as error:
            problems.append(f"{error.what}; allowed: {error.allowed}")
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def _typed(name: str, value: Any) -> Any:
    """Give ``value`` the type of the field, or refuse it."""
    default = getattr(_DEFAULTS, name)
    if isinstance(default, bool | str):
        if not isinstance(value, type(default)):
            allowed = ", ".join(FILLS) if isinstance(default, str) else "true, false"
            raise ConfigError(f"{name} is {value!r}", allowed=allowed)
        return value
    if name == "scale" and value is None:
        return None
    if name == "omit":
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise ConfigError(f"omit is {value!r}", allowed="a list of " + ", ".join(OPERATIONS))
        return tuple(value)
    if isinstance(default, tuple) or name == "scale":
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_number, value)):
            raise ConfigError(f"{name} is {value!r}", allowed="a list of two numbers, the smaller first")
        return float(value[0]), float(value[1])
    if not _is_number(value) or (isinstance(default, int) and value != int(value)):
        raise ConfigError(f"{name} is {value!r}", allowed=ALLOWED.get(name, "a number"))
    return type(default)(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
