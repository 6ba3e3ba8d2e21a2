"""Build a packed store: decode what is new, copy what an older store has, write it, rename it into its place.

No torch here.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from sapling.data.broken import BadImage, OnBadImage, bad_image, may_skip, refusal, without
from sapling.data.recipe import Recipe, decoder
from sapling.data.reuse import Reuse, find_rows, source_location
from sapling.data.sources import Source
from sapling.data.storefile import (
    FORMAT,
    IMAGES,
    Shape,
    begin_fingerprint,
    locked,
    row_check,
    write_header,
    write_rest,
)
from sapling.errors import DataError

Progress = Callable[[int, int], None]

BUILDING = ".building-"
_CHUNK = 64
_LEFT_FOR_OTHERS = 1.02
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class _Written:
    """What went into the file of images.

    Attributes:
        shape: of all images.
        fingerprint: sha256 of pixels and labels.
        checks: CRC-32 of each row.
        skipped: images that cannot be used and are not in it.
        num_copied: rows that came from an older store.
    """

    shape: Shape
    fingerprint: str = ""
    checks: list[int] = field(default_factory=list)
    skipped: list[BadImage] = field(default_factory=list)
    num_copied: int = 0


def build_store(
    place: Path, mark: str, source: Source, recipe: Recipe, on_bad_image: OnBadImage, progress: Progress | None
) -> None:
    """Build the store of a source at ``place``.

    Raises:
        DataError: images that cannot be used, or too little space.
        OSError: the folder cannot be written.
    """
    shape = (len(source.items), recipe.size, recipe.size, recipe.num_channels)
    if math.prod(shape) * _LEFT_FOR_OTHERS > shutil.disk_usage(place.parent).free:
        raise disk_full(place.parent, math.prod(shape))
    building = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{mark}-", dir=place.parent))
    reuse = None
    try:
        reuse = find_rows(place.parent, source, recipe, avoid=place)
        written = _write_images(building / IMAGES, source, recipe, reuse, on_bad_image, progress)
        _write_rest(building, mark, source, recipe, written)
        if place.exists():
            # It is there but not whole (disk full, copied in part): it must not be in the way.
            shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            # Fails only where another builder was quicker without a lock; its store is as good.
            building.rename(place)
    except OSError as error:
        if error.errno in _NO_SPACE:
            shutil.rmtree(building, ignore_errors=True)
            raise disk_full(place.parent, math.prod(shape)) from error
        raise
    finally:
        if reuse is not None:
            reuse.close()
        shutil.rmtree(building, ignore_errors=True)


def disk_full(root: Path, needed: int) -> DataError:
    """The error that says how much space is needed and free, and what to do."""
    free = shutil.disk_usage(root).free
    return DataError(
        f"the packed store needs {_size(needed)} and {_size(free)} are free",
        where=str(root),
        remedy="make room (sapling cache list, sapling cache clear), set SAPLING_CACHE to a folder with more space, "
        "or take smaller images (--img-size)",
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _write_rest(building: Path, mark: str, source: Source, recipe: Recipe, written: _Written) -> None:
    gone = {image.key for image in written.skipped}
    kept = [(item.key, m) for item, m in zip(source.items, source.content_marks(), strict=True) if item.key not in gone]
    meta: dict[str, Any] = {
        "format": FORMAT,
        "mark": mark,
        "fingerprint": written.fingerprint,
        "recipe": recipe.as_dict(),
        "decoder": decoder(),
        "name": source.name,
        "kind": source.kind,
        "location": source_location(source),
        "images": written.shape[0],
        "copied": written.num_copied,
        "classes": len(source.classes),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "skipped": [(image.key, image.reason) for image in written.skipped],
    }
    keys, marks = [key for key, _ in kept], [content for _, content in kept]
    write_rest(building, meta, checks=written.checks, keys=keys, marks=marks)


def _write_images(
    path: Path,
    source: Source,
    recipe: Recipe,
    reuse: Reuse | None,
    on_bad_image: OnBadImage,
    progress: Progress | None,
) -> _Written:
    """Write the pixels in order."""
    total = len(source.items)
    written = _Written((total, recipe.size, recipe.size, recipe.num_channels))
    digest = begin_fingerprint(written.shape)
    done = 0
    # Plain writing, not a memory map: a full disk is then an error and no crash.
    with path.open("wb+") as file, strict_about_bombs():
        start = write_header(file, written.shape)
        for chunk in _prepared(source, recipe, reuse):
            written.skipped += chunk.failures
            written.num_copied += chunk.num_copied
            done += len(chunk.pixels) + len(chunk.failures)
            if may_skip(written.skipped, total, on_bad_image):
                _append(file, chunk.pixels, digest)
                written.checks += [row_check(row) for row in chunk.pixels]
            if progress is not None:
                progress(done, total)
        if not may_skip(written.skipped, total, on_bad_image):
            raise refusal(source, written.skipped, on_bad_image)
        if written.skipped:
            # File and fingerprint become those of the same source without these images.
            written.shape = (total - len(written.skipped), *written.shape[1:])
            if write_header(file, written.shape) != start:
                raise RuntimeError("the header of the store changed its length")
            digest = begin_fingerprint(written.shape)
            while block := file.read(2**20):
                digest.update(block)
        file.flush()
        os.fsync(file.fileno())
    digest.update(without(source, written.skipped).truth.tobytes())
    written.fingerprint = digest.hexdigest()
    return written


def _append(file: BinaryIO, pixels: npt.NDArray[np.uint8], digest: hashlib._Hash) -> None:
    file.write(pixels.data)
    digest.update(pixels.data)


@dataclass(frozen=True, slots=True)
class _Chunk:
    pixels: npt.NDArray[np.uint8]
    failures: list[BadImage]
    num_copied: int


def _prepared(source: Source, recipe: Recipe, reuse: Reuse | None) -> Iterator[_Chunk]:
    """Pixels of all images in order, in chunks, with the images that failed."""

    def prepare(positions: range) -> _Chunk:
        pixels, failures, num_copied = [], [], 0
        for position in positions:
            if reuse is not None and (copied := reuse.pixels(position)) is not None:
                pixels.append(copied)
                num_copied += 1
                continue
            item = source.items[position]
            try:
                pixels.append(recipe.prepare(source.open(item)))
            except Exception as error:  # whatever a decoder raises on a damaged file belongs to that file
                failures.append(bad_image(item.key, error))
        shape = (0, recipe.size, recipe.size, recipe.num_channels)
        return _Chunk(np.stack(pixels) if pixels else np.zeros(shape, np.uint8), failures, num_copied)

    total = len(source.items)
    chunks = (range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK))
    workers = _num_workers(source)
    if workers == 1:
        yield from map(prepare, chunks)
        return
    with ThreadPoolExecutor(workers) as pool:
        # A short queue keeps the order and bounds the memory; map() would take all chunks at once.
        waiting = [pool.submit(prepare, chunk) for chunk in islice(chunks, 2 * workers)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(prepare, chunk) for chunk in islice(chunks, 1)]
            yield result


def _num_workers(source: Source) -> int:
    # Measured: of small pictures so little time is spent outside of the interpreter's lock that threads only
    # get in each other's way (64 pixels: 0.7x with two; 150: 0.85x; 512: 1.8x).
    if native_size(source) < 256:
        return 1
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 16)


@contextmanager
def strict_about_bombs() -> Iterator[None]:
    """Make Pillow's warning about huge pictures an error, here in the thread that starts the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Remarks of decoders on odd but readable files (EXIF, TIFF tags) are no news to the user.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield


def sweep(root: Path, own: str) -> None:
    """Remove what killed builds left: of the store ``own``, whose lock the caller holds, and of those nobody builds."""
    for left in root.glob(f"{BUILDING}*"):
        mark = left.name.removeprefix(BUILDING).partition("-")[0]
        if mark == own:
            shutil.rmtree(left, ignore_errors=True)
            continue
        with suppress(OSError), locked(lock_file(root, mark), wait=False) as alone:
            if alone:
                shutil.rmtree(left, ignore_errors=True)


def lock_file(root: Path, mark: str) -> Path:
    """The file that the builder of a store locks."""
    return root / f".{mark}.lock"


def native_size(source: Source) -> int:
    """Median of the shorter sides of up to 200 images spread over the source; broken ones do not count.

    Raises:
        DataError: not one of them can be read.
    """
    picks = np.unique(np.linspace(0, len(source.items) - 1, num=200).astype(np.int64))
    sides, failures = [], []
    with strict_about_bombs():
        for pick in picks:
            item = source.items[int(pick)]
            try:
                with source.open(item) as image:
                    sides.append(min(image.size))
            except Exception as error:  # listed with all others when the store is built
                failures.append(bad_image(item.key, error))
    if not sides:
        raise refusal(source, failures)
    return int(np.median(sides))
