"""The packed store: every image decoded and resized once, kept as uint8 pixels in one memory-mapped file.

What a picture's pixels are is decided in :mod:`sapling.data.pixels` alone; how the files lie on the disk, in
:mod:`sapling.data.storefile`. No torch here.
"""

from __future__ import annotations

import hashlib
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sapling.bands import Bands, rgb_bands
from sapling.data.broken import BadImage, OnBadImage, check_mode, may_skip, refusal, without
from sapling.data.packing import build_store, lock_file, native_size, sweep
from sapling.data.pixels import prepare_image
from sapling.data.recipe import Recipe
from sapling.data.sources import Source
from sapling.data.storefile import FORMAT, META, hold, is_sound, locked, map_images, note_use, read_meta
from sapling.errors import DataError

__all__ = ["PackedStore", "cache_folder", "default_store_size", "native_size", "open_store", "prepare_image"]


def cache_folder() -> Path:
    """Where stores and teacher caches live: ``$SAPLING_CACHE``, or ``~/.cache/sapling``."""
    given = os.environ.get("SAPLING_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "sapling"


@dataclass
class PackedStore:
    """All images of a source as pixels, but for those that were skipped.

    While it is in use, ``sapling cache clear`` leaves its files alone.

    Attributes:
        images: ``[N,S,S,C]`` uint8, a read-only memory map.
        labels: ``[N]`` int64; see :attr:`sapling.data.layout.Item.label`.
        keys: ``[N]`` paths inside the source.
        size: S.
        fingerprint: sha256 of pixels and labels.
        folder: where it lies.
        skipped: images of the source that cannot be used and are not in it; leave them out of the source with
            :func:`sapling.data.broken.without`, so that positions mean the same.
        notes: what a user should know of how it was opened, one sentence each.
        bands: which bands the channels are, and which values 0 and 255; None for RGB of ordinary pictures.
        targets: ``[N,K]`` uint8, where an image may have several labels, else None.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    keys: tuple[str, ...] = field(repr=False)
    size: int
    fingerprint: str
    folder: Path
    skipped: tuple[BadImage, ...] = ()
    notes: tuple[str, ...] = ()
    bands: Bands | None = None
    targets: npt.NDArray[np.uint8] | None = None

    @property
    def num_channels(self) -> int:
        """C."""
        return int(self.images.shape[3])

    @property
    def shown(self) -> npt.NDArray[np.uint8]:
        """``[N,S,S,3]``: the pictures as people see them, a view of ``images``; of many bands red, green and blue."""
        if self.num_channels < 3:
            return np.broadcast_to(self.images[..., :1], (*self.images.shape[:3], 3))
        at = [0, 1, 2]
        if self.bands is not None:
            wanted = rgb_bands(self.bands.num_bands)
            if set(wanted) <= set(self.bands.chosen):
                at = [self.bands.chosen.index(band) for band in wanted]
        step = at[1] - at[0]
        if step == 0 or at[2] - at[1] != step:
            at, step = [0, 1, 2], 1  # only channels at even distances can be shown without a copy
        stop = at[2] + step
        return self.images[..., at[0] : stop if stop >= 0 else None : step]


def open_store(
    source: Source,
    store_size: int,
    *,
    bands: Bands | None = None,
    folder: Path | None = None,
    on_bad_image: OnBadImage = "fail",
    progress: Callable[[int, int], None] | None = None,
) -> PackedStore:
    """Open the store of a source, building it first where there is none.

    A build writes to a folder of its own that is renamed when all is done, so a killed build leaves no half
    store; of several builders at once one builds and the others wait for it and use its store. Images that an
    older store of the same kind holds are copied from there; the result is the same to the last bit. A store
    whose files are damaged is not used but built anew.

    Args:
        source: the images.
        store_size: S, side of the stored pictures.
        bands: what :func:`sapling.data.survey.settle_bands` settled; None for RGB of ordinary pictures.
        folder: where stores are kept; default ``cache_folder() / "stores"``.
        on_bad_image: ``fail``, or ``skip`` to leave out up to 1 % of the images that cannot be used.
        progress: is called with (images done, images in all) while building.

    Raises:
        DataError: images that cannot be read, each with its reason, or too little disk space.
    """
    check_mode(on_bad_image)
    if store_size < 1:
        raise DataError(f"store_size is {store_size}", allowed="1 or more")
    recipe = Recipe(store_size, bands=bands)
    root = folder if folder is not None else cache_folder() / "stores"
    mark = hashlib.sha256(f"{FORMAT} {recipe.text()} {source.stamp()}".encode()).hexdigest()[:16]
    # The readable part of the name is for people; the mark alone decides.
    readable = "".join(c if c.isalnum() and c.isascii() else "-" for c in source.name)[:40].strip("-") or "data"
    place = next(root.glob(f"*-{mark}"), root / f"{readable}-{store_size}-{mark}")
    if (store := _read(place, source, recipe)) is not None:
        return _accepted(store, source, on_bad_image)
    was_damaged = False
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(lock_file(root, mark), wait=True) as alone:
            if (store := _read(place, source, recipe)) is None:
                was_damaged = (place / META).exists()
                if alone:
                    sweep(root, mark)
                build_store(place, mark, source, recipe, on_bad_image, progress)
                store = _read(place, source, recipe)
    except OSError as error:
        raise DataError(
            f"the packed store cannot be written: {error}",
            where=str(root),
            remedy="set SAPLING_CACHE to a folder that can be written and has space",
        ) from error
    if store is None:
        raise DataError("the packed store was removed while it was opened, or cannot be read", where=str(place))
    if was_damaged:
        store.notes = (*store.notes, f"The packed store was damaged and has been built anew: {place}")
    return _accepted(store, source, on_bad_image)


def _accepted(store: PackedStore, source: Source, on_bad_image: OnBadImage) -> PackedStore:
    """Refuse a store that skipped images, built by a call that allowed it, where this one does not."""
    if not may_skip(store.skipped, len(source.items), on_bad_image):
        raise refusal(source, store.skipped, on_bad_image)
    return store


def _read(place: Path, source: Source, recipe: Recipe) -> PackedStore | None:
    """Read the store at ``place``; None where there is none that is whole."""
    handle = hold(place)
    if handle is None:
        return None
    store = _read_held(place, source, recipe)
    if store is None:
        os.close(handle)
    else:
        weakref.finalize(store, os.close, handle)
        note_use(place)
    return store


def _read_held(place: Path, source: Source, recipe: Recipe) -> PackedStore | None:
    meta = read_meta(place)
    if meta is None or meta["recipe"] != recipe.as_dict():
        return None
    skipped = tuple(BadImage(str(key), str(reason)) for key, reason in meta["skipped"])
    kept = without(source, skipped)
    images = map_images(place, (len(kept.items), recipe.size, recipe.size, recipe.num_channels))
    if images is None or not is_sound(place, meta, images, kept.truth):
        return None
    keys = tuple(item.key for item in kept.items)
    targets = kept.targets if kept.multi_label else None
    fingerprint = meta["fingerprint"]
    return PackedStore(
        images, kept.labels, keys, recipe.size, fingerprint, place, skipped, bands=recipe.bands, targets=targets
    )


def default_store_size(img_size: int, native: int) -> int:
    """Side to store at: a margin of 15 % for crops, but pictures are never enlarged only to be cropped.

    Args:
        img_size: side that the networks see.
        native: side that the pictures have, see :func:`native_size`.
    """
    return min(math.ceil(1.15 * img_size), max(img_size, native))
