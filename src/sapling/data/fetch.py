"""Downloads public data sets and packs each into one zip with a CSV file that names every class and split.

The loaders of torchvision and of the hub are imported only here, and only when a set is fetched. Everything happens
in a folder beside the set's own; the zip is renamed into place when it is whole and holds what it must, so a
download that is killed leaves nothing that looks like a data set, and files that are whole are not fetched again.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sapling.data.formats import image_format
from sapling.data.layout import one_spelling, shared_folder
from sapling.data.named import NamedSet, file_names
from sapling.errors import DataError

LISTING = "listing.csv"
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "WebP": ".webp", "TIFF": ".tif"}


@dataclass(frozen=True, slots=True)
class Picture:
    """One image on its way into the zip.

    Attributes:
        key: path in the zip.
        label: name of its class.
        split: ``train``, ``val``, ``test``, or nothing.
        data: gives the encoded image.
    """

    key: str
    label: str
    split: str
    data: Callable[[], bytes]


def fetch(entry: NamedSet, target: Path, check: Callable[[Path], object]) -> None:
    """Download a set and write it as one zip.

    Args:
        entry: the set.
        target: the zip; its folder may hold published files that were downloaded by hand.
        check: is called with the zip before it is renamed; it raises where the images are not those expected.

    Raises:
        DataError: no network, a file that is not what was published, an extra that is not installed, or a set
            that only a person can download.
    """
    if entry.loader == "hand":
        raise DataError(f"{entry.name} must be downloaded by hand", where=str(target.parent), remedy=_by_hand(entry))
    staging = target.parent.parent / f".fetching-{entry.name}"
    try:
        with _alone(staging):
            if target.is_file():  # another process was quicker
                return
            made = staging / target.name
            _LOADERS[entry.loader](entry, staging, made)
            try:
                check(made)
            except DataError:
                shutil.rmtree(staging, ignore_errors=True)
                raise
            target.parent.mkdir(parents=True, exist_ok=True)
            made.replace(target)
            shutil.rmtree(staging, ignore_errors=True)
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"{entry.name} needs a package that is not installed: {error.name}",
            allowed="the extra 'hub'" if entry.extra else None,
            remedy=f'uv pip install "sapling-kd[{entry.extra or "hub"}]"',
        ) from error
    except Exception as error:  # each loader and its network library has errors of its own
        raise DataError(
            f"{entry.name} cannot be downloaded: {' '.join(str(error).split())[:300] or type(error).__name__}",
            where=str(target.parent),
            remedy=_by_hand(entry),
        ) from error


def _by_hand(entry: NamedSet) -> str:
    names = [name for name in file_names(entry) if not entry.address.endswith(name)]
    called = f" as {', '.join(names)}" if len(names) == 1 else ""
    return (
        f"download it from {entry.address} and put it into {entry.home}{called}; "
        "there a folder per class, or a zip of such folders, is as good"
    )


def _again(entry: NamedSet) -> str:
    """What to do about a wrong file, which was removed if it was downloaded here."""
    given = [name for name in file_names(entry) if (entry.home / name).is_file()]
    if given:
        return f"remove {', '.join(given)} from {entry.home} and download anew from {entry.address}"
    return f"try again; the file was removed. Or {_by_hand(entry)}"


@contextmanager
def _alone(staging: Path) -> Iterator[None]:
    """Wait until no other process fetches the same set, where the system can lock files; then make the folder.

    Who is waited for removes the folder at its end, so nobody else may touch it before.
    """
    staging.parent.mkdir(parents=True, exist_ok=True)
    with staging.with_name(staging.name + ".lock").open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        staging.mkdir(exist_ok=True)
        yield


def _offer(entry: NamedSet, place: Path) -> None:
    """Put published files that somebody downloaded by hand where the loader looks before it downloads."""
    place.mkdir(parents=True, exist_ok=True)
    for name in file_names(entry):
        given = entry.home / name
        if given.is_file() and not (place / name).exists():
            try:
                os.link(given, place / name)
            except OSError:  # another disk
                shutil.copyfile(given, place / name)


def _download(entry: NamedSet, staging: Path) -> Path:
    """Download the one file of a set, with its checksum; a wrong one is removed."""
    # Nobody waits for torch but who downloads.
    from torchvision.datasets.utils import calculate_md5, download_url

    _offer(entry, staging)
    name, md5, sha256 = file_names(entry)[0], entry.options.get("md5"), entry.options.get("sha256")
    path = staging / name
    if not (path.is_file() and sha256):
        try:
            download_url(entry.files[0], str(staging), filename=name, md5=md5)
        except RuntimeError:
            if not path.is_file():
                raise
    found = calculate_md5(str(path)) if md5 else _sha256(path)
    if found != (md5 or sha256):
        path.unlink()
        raise DataError(
            f"{name} is not the file that was published: its checksum is {found} and not {md5 or sha256}",
            where=entry.files[0],
            remedy=_again(entry),
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_zip(entry: NamedSet, staging: Path, made: Path) -> None:
    """Take the published zip as it is: it is read in place and never extracted."""
    _download(entry, staging).replace(made)


def _fetch_npz(entry: NamedSet, staging: Path, made: Path) -> None:
    """Arrays ``<split>_images`` ``[N,H,W(,3)]`` uint8 and ``<split>_labels`` ``[N,1]``, as MedMNIST has them."""

    def pictures(arrays: Any) -> Iterator[Picture]:
        for split in ("train", "val", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].reshape(-1)
            for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
                yield Picture(f"{split}/{number:06d}.png", entry.names[int(label)], split, partial(_png, pixels))

    with np.load(_download(entry, staging), allow_pickle=False) as arrays:
        pack(pictures(arrays), made)


def _png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def _fetch_torchvision(entry: NamedSet, staging: Path, made: Path) -> None:
    """Let torchvision download, check and unpack, and take the files and labels that it found."""
    datasets = importlib.import_module("torchvision.datasets")
    kind = getattr(datasets, entry.options["class"])
    place = staging / entry.options["place"]
    _clear(staging, place, file_names(entry))
    _offer(entry, place)
    found: list[tuple[Path, str, str]] = []
    try:
        for split, options in entry.options["splits"].items():
            dataset = kind(root=str(staging), download=True, **options)
            names = [_class_name(name) for name in (entry.names or dataset.classes)]
            found += [(Path(path), names[label], split.replace("all", "")) for path, label in _labelled(dataset)]
    except RuntimeError as error:
        # torchvision says so of a checksum that is not as published; what it downloaded stays in its way.
        for name in file_names(entry):
            (place / name).unlink(missing_ok=True)
        raise DataError(
            f"{entry.name}: a file is not what was published (torchvision: {error})",
            where=", ".join(entry.files),
            remedy=_again(entry),
        ) from error
    paths = [path.relative_to(staging).as_posix() for path, _, _ in found]
    shared = shared_folder(path.rpartition("/")[0] for path in paths)
    start = len(shared) + 1 if shared else 0
    pack(
        (
            Picture(name[start:], label, split, path.read_bytes)
            for name, (path, label, split) in zip(paths, found, strict=True)
        ),
        made,
    )


def _clear(staging: Path, place: Path, names: Iterable[str]) -> None:
    """Remove what a killed run unpacked, which torchvision would take for the whole; archives stay."""
    kept = {place, *(place / name for name in names)}
    for folder in {staging, place}:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _labelled(dataset: Any) -> list[tuple[str, int]]:
    """Files and labels of a data set of torchvision, which has no common word for them."""
    for pairs in ("samples", "_samples"):
        if hasattr(dataset, pairs):
            return list(getattr(dataset, pairs))
    for files in ("_image_files", "_images"):
        if hasattr(dataset, files) and hasattr(dataset, "_labels"):
            return list(zip(getattr(dataset, files), dataset._labels, strict=True))
    raise AttributeError(f"this version of torchvision keeps the files of {type(dataset).__name__} elsewhere")


def _class_name(name: object) -> str:
    # Imagenette gives several words for a class; a semicolon would mean several classes.
    first = name[0] if isinstance(name, tuple | list) else name
    return one_spelling(str(first).replace(";", ",").strip())


def _fetch_hub(entry: NamedSet, staging: Path, made: Path) -> None:
    """Rows with an encoded image and a label, as parquet files on the hub hold them."""
    datasets = importlib.import_module("datasets")
    columns = entry.options["columns"]
    # No code of the repository is run: only files of a known format are read.
    parts = datasets.load_dataset(entry.options["hub"], cache_dir=str(staging / "hub"))

    def pictures() -> Iterator[Picture]:
        for part, rows in parts.items():
            feature = rows.features[columns["label"]]
            rows = rows.cast_column(columns["image"], datasets.Image(decode=False))
            for number, row in enumerate(rows):
                data, label = row[columns["image"]]["bytes"], row[columns["label"]]
                name = _class_name(feature.int2str(label) if hasattr(feature, "int2str") else label)
                ending = _ENDINGS.get(image_format(data[:32]) or "", ".img")
                yield Picture(
                    f"{part}/{number:06d}{ending}", name, part if len(parts) > 1 else "", partial(bytes, data)
                )

    pack(pictures(), made)


def pack(pictures: Iterable[Picture], path: Path) -> None:
    """Write images and a listing of them into a new zip; equal images give equal bytes.

    Args:
        pictures: what to write, each key once.
        path: the zip.
    """
    rows = [["image", "label", "split"]]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for picture in pictures:
            archive.writestr(zipfile.ZipInfo(picture.key), picture.data())
            rows.append([picture.key, picture.label, picture.split])
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        archive.writestr(zipfile.ZipInfo(LISTING), text.getvalue(), zipfile.ZIP_DEFLATED)


_LOADERS: dict[str, Callable[[NamedSet, Path, Path], None]] = {
    "torchvision": _fetch_torchvision,
    "zip": _fetch_zip,
    "npz": _fetch_npz,
    "hub": _fetch_hub,
}
