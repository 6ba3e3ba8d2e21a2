"""Images that cannot be decoded: named with their reasons, and skipped where they are few. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sapling.data.layout import many, printable
from sapling.data.raster import MissingPackageError
from sapling.data.sources import Source
from sapling.errors import ConfigError, DataError

OnBadImage = Literal["fail", "skip"]
MODES = ("fail", "skip")
MAX_SKIPPED_PERCENT = 1
"""More broken images than this are a broken data set: the run fails whatever the setting."""

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that cannot be used.

    Attributes:
        key: its path inside the source.
        reason: why, in a user's words.
        is_lasting: whether the image itself is at fault. What the machine could not do (no permission, a disk
            error, no memory) may go well the next time: leaving it out would not be repeatable.
    """

    key: str
    reason: str
    is_lasting: bool = True


def bad_image(key: str, error: Exception) -> BadImage:
    """Describe the image whose decoding raised ``error``."""
    # Decoders raise OSError without a number; those of the system have one.
    by_machine = isinstance(error, (MemoryError, MissingPackageError)) or (
        isinstance(error, OSError) and error.errno is not None
    )
    return BadImage(key, reason_for(error), not by_machine)


def reason_for(error: Exception) -> str:
    """Say in a user's words why an image could not be read."""
    if isinstance(error, DataError):
        return error.what
    text = " ".join(str(error).split())
    return "it is not an image" if text.startswith("cannot identify image file") else text or type(error).__name__


def check_mode(on_bad_image: str) -> None:
    """Refuse what is neither ``fail`` nor ``skip``.

    Raises:
        ConfigError: it is something else.
    """
    if on_bad_image not in MODES:
        raise ConfigError(f"on_bad_image is {on_bad_image!r}", allowed=" or ".join(MODES))


def most_skipped(num_images: int, on_bad_image: str) -> int:
    """How many of ``num_images`` may be left out."""
    return num_images * MAX_SKIPPED_PERCENT // 100 if on_bad_image == "skip" else 0


def may_skip(bad: Sequence[BadImage], num_images: int, on_bad_image: OnBadImage) -> bool:
    """Whether these images can be left out of ``num_images``."""
    return len(bad) <= most_skipped(num_images, on_bad_image) and all(image.is_lasting for image in bad)


class BrokenImagesError(DataError):
    """Images that cannot be used, and more than may be left out.

    Attributes:
        bad: all of them; the message shows the first.
    """

    bad: tuple[BadImage, ...] = ()


def refusal(source: Source, bad: Sequence[BadImage], on_bad_image: OnBadImage = "fail") -> BrokenImagesError:
    """The error that lists images which cannot be used."""
    shown = "".join(f"\n    {printable(image.key)}: {printable(image.reason)}" for image in bad[:_SHOWN])
    more = f"\n    and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    total = len(source.items)
    if may_skip(bad, total, "skip"):
        remedy = "repair or remove these files, or leave them out with --on-bad-image skip"
    elif on_bad_image == "skip" and all(image.is_lasting for image in bad):
        remedy = f"repair or remove these files; up to {MAX_SKIPPED_PERCENT} % of the images would be skipped"
    else:
        remedy = "repair or remove these files"
    error = BrokenImagesError(
        f"{len(bad)} of {many(total, 'image')} cannot be used:{shown}{more}", where=source.location, remedy=remedy
    )
    error.bad = tuple(bad)
    return error


def without(source: Source, bad: Sequence[BadImage]) -> Source:
    """Copy a source, without images that cannot be used and with a note that names them."""
    if not bad:
        return source
    gone = {image.key for image in bad}
    named = ", ".join(f"{printable(image.key)} ({printable(image.reason)})" for image in bad[:_SHOWN])
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    note = f"Skipped: {len(bad)} of {many(len(source.items), 'image')}, which cannot be used: {named}{more}."
    items = tuple(item for item in source.items if item.key not in gone)
    return replace(source, items=items, notes=(*source.notes, note))
