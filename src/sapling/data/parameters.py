"""What is drawn for a view: numbers that depend on (view seed, image index, view number) and on nothing else.

They come from a counter-based hash (splitmix64, Steele, Lea and Flood 2014) that is computed for the whole
batch at once. Everything that follows from a draw is exact in float64 (sums, products, quotients, roots) or read
from a table: vectorised sines and powers may differ in the last bit between a batch and a single image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sapling.data.viewspec import OPERATIONS, ViewSpec

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_STEPS = 4096  # of a table over a logarithmic range; the hue and the angle take _TURN steps of a circle
_TURN = 1 << 16

# The constant of each draw is its place here: names are added at the end and never moved, or views change.
DRAWS = (
    "down",
    "right",
    "turn",
    "area",
    "aspect",
    "row",
    "column",
    "angle",
    "shear",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grayscale",
    "blur",
    "sigma",
    "erase",
    "erase_area",
    "erase_aspect",
    "erase_row",
    "erase_column",
    "erase_noise",
    "signs",
    *(f"rank of {name}" for name in OPERATIONS),
)
_CONSTANTS = {name: np.uint64((k + 1) * _GOLDEN & _MASK) for k, name in enumerate(DRAWS)}


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix 64-bit numbers: one step of splitmix64 from each as its state."""
    mixed = values + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hash_number(number: int) -> int:
    """Mix one number of any sign into 0 .. 2^64 - 1."""
    return int(splitmix64(np.array([number & _MASK], dtype=np.uint64))[0])


class Draws:
    """Random numbers of B views.

    Attributes:
        drawn: ``[B]``, False for centre views, for which nothing is drawn.
    """

    def __init__(self, indices: npt.ArrayLike, views: npt.ArrayLike, view_seed: int) -> None:
        """Make the state of each view.

        Args:
            indices: ``[B]`` positions of the images in the store.
            views: ``[B]`` view numbers; negative ones are the centre view.
            view_seed: another seed, other views.
        """
        index, view = (np.asarray(values, dtype=np.int64) for values in (indices, views))
        seeded = np.uint64(hash_number(view_seed))
        # Each step mixes one more number into the state, so (1, 2) and (2, 1) have nothing in common.
        self._state = splitmix64(splitmix64(index.view(np.uint64) ^ seeded) ^ view.view(np.uint64))
        self.drawn: Flags = view >= 0

    def __getitem__(self, name: str) -> npt.NDArray[np.uint64]:
        """``[B]`` 64 random bits; every draw has its own constant, so no setting changes another's draws."""
        return splitmix64(self._state ^ _CONSTANTS[name])

    def uniform(self, name: str) -> Floats:
        """``[B]`` evenly distributed in [0,1)."""
        return (self[name] >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, name: str, low: float, high: float) -> Floats:
        """``[B]`` evenly distributed from ``low`` to ``high``."""
        return low + (high - low) * self.uniform(name)

    def around(self, name: str, middle: float, reach: float) -> Floats:
        """``[B]`` evenly distributed in ``middle - reach .. middle + reach``; ``middle`` for centre views."""
        if reach == 0:
            return np.full(len(self.drawn), middle)
        return np.where(self.drawn, self.between(name, middle - reach, middle + reach), middle)

    def on_log(self, name: str, low: float, high: float) -> Floats:
        """``[B]`` in ``low .. high``, its logarithm evenly distributed, in 4096 steps."""
        table: Floats = _log_table(low, high)
        return table[(self[name] >> np.uint64(52)).astype(np.int64)]

    def happens(self, name: str, share: float) -> Flags:
        """``[B]`` whether something of this probability happens; never to centre views."""
        return self.drawn & (self.uniform(name) < share)


@lru_cache(maxsize=16)
def _log_table(low: float, high: float) -> Floats:
    return np.array([low * (high / low) ** ((k + 0.5) / _STEPS) for k in range(_STEPS)])


@lru_cache(maxsize=1)
def _circle() -> Floats:
    # sine, then cosine, of 65,536 angles: exact at the quarters, so that no turn stays no turn
    steps = [(math.sin(2 * math.pi * k / _TURN), math.cos(2 * math.pi * k / _TURN)) for k in range(_TURN)]
    table = np.array(steps).T.copy()
    table[:, :: _TURN // 4] = np.round(table[:, :: _TURN // 4])
    return table


def sine_and_cosine(turns: Floats) -> tuple[Floats, Floats]:
    """Sine and cosine of angles given as shares of the full circle, to 1/65,536 of it."""
    place = np.rint(turns * _TURN).astype(np.int64) % _TURN
    sine, cosine = _circle()[:, place]
    return sine, cosine


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """What moves of whole pixels do to each of B images; all ``[B]`` int64.

    Attributes:
        down: rows by which the crop leaves the centre.
        right: columns by which it does.
        orientation: sum of 1 (mirrored left to right), 2 (top to bottom) and 4 (transposed first).
    """

    down: Integers
    right: Integers
    orientation: Integers


def view_parameters(
    indices: npt.ArrayLike, views: npt.ArrayLike, view_seed: int, spec: ViewSpec, img_size: int
) -> ViewParameters:
    """Draw the shifts and orientations of B views.

    Args:
        indices: ``[B]`` positions of the images in the store.
        views: ``[B]`` view numbers; negative ones are the centre view.
        view_seed: another seed, other views.
        spec: what may be drawn.
        img_size: side of the view in pixels.
    """
    return moves(Draws(indices, views, view_seed), spec, img_size)


def moves(draws: Draws, spec: ViewSpec, img_size: int) -> ViewParameters:
    """As :func:`view_parameters`, from draws that are at hand."""
    reach = round(spec.shift * img_size)

    def offsets(name: str) -> Integers:
        # The upper bits modulo a small count: its bias is below 2^-40.
        steps = ((draws[name] >> np.uint64(16)) % np.uint64(2 * reach + 1)).astype(np.int64)
        return np.where(draws.drawn, steps - reach, 0)

    kinds = 8 if spec.dihedral else 2 if spec.flip else 1
    orientation = ((draws["turn"] >> np.uint64(16)) % np.uint64(kinds)).astype(np.int64)
    return ViewParameters(offsets("down"), offsets("right"), np.where(draws.drawn, orientation, 0))


def operation_amounts(draws: Draws, spec: ViewSpec) -> dict[str, Floats]:
    """Draw which operations of RandAugment are applied.

    Returns:
        Per operation ``[B]``: 0 where it is not applied, otherwise ``spec.strength`` with a random sign; 1 or -1
        for autocontrast and equalize, which know no strength.
    """
    last = np.full(len(draws.drawn), _MASK, dtype=np.uint64)
    ranks = np.stack([last if name in spec.omit else draws[f"rank of {name}"] for name in OPERATIONS])
    # the n smallest of as many random numbers: n operations without repeats, each equally likely
    chosen = (ranks[:, None] > ranks[None]).sum(1) < spec.operations
    signs, amounts = draws["signs"], {}
    for k, name in enumerate(OPERATIONS):
        strength = 1.0 if name in ("autocontrast", "equalize") else spec.strength
        positive = (signs >> np.uint64(63 - k)) & np.uint64(1) == 1
        amounts[name] = np.where(chosen[k] & draws.drawn, np.where(positive, strength, -strength), 0.0)
    return amounts
