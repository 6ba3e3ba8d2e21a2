"""Public data sets by name: a table of facts, and how a set is opened from the cache. No torch.

A set lies in ``cache_folder()/datasets/<name>``: as the one zip that was made of its download
(:mod:`sapling.data.fetch`), or as what somebody put there by hand. It is downloaded when it is first opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sapling.data.archives import open_zip
from sapling.data.base import Source
from sapling.data.folders import open_folder
from sapling.data.layout import Item, is_visible, many, printable
from sapling.errors import DataError

TABLE = Path(__file__).with_name("named.yaml")
COUNT_TOLERANCE = 1e-3
"""Publications count some files differently (PlantVillage: 54,303 or 54,305); more than this is another data set."""


@dataclass(frozen=True)
class NamedSet:
    """What is known of a public data set.

    Attributes:
        name: what a user writes.
        title: what it shows, in a few words.
        loader: ``torchvision``, ``zip``, ``npz``, ``hub`` or ``hand``.
        images: how many it must hold.
        classes: how many it must have.
        mb: size of the download in megabytes.
        licence: of the images.
        citation: whom to cite.
        views: preset of :mod:`sapling.data.views` that suits it.
        files: addresses of its files.
        page: where a person downloads it.
        groups: regular expression, searched in the paths; what its parenthesis finds names the group.
        leave_out: classes that are none.
        note: what one should know before believing a result.
        names: class names, where the files have numbers only.
        options: what only its loader needs (class, splits, place; hub, columns; md5, sha256, save_as).
    """

    name: str
    title: str
    loader: str
    images: int
    classes: int
    mb: int
    licence: str
    citation: str
    views: str = "light"
    files: tuple[str, ...] = ()
    page: str = ""
    groups: str | None = None
    leave_out: tuple[str, ...] = ()
    note: str = ""
    names: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def extra(self) -> str | None:
        """Extra of this package that the download needs."""
        return "hub" if self.loader == "hub" else None

    @property
    def address(self) -> str:
        """Where a person downloads it."""
        hub = f"https://huggingface.co/datasets/{self.options['hub']}" if self.loader == "hub" else ""
        return self.page or hub or ", ".join(self.files)

    @property
    def home(self) -> Path:
        """Folder in the cache where it lies."""
        # Imported here: the store knows sources, and this is one.
        from sapling.data.packed import cache_folder

        return cache_folder() / "datasets" / self.name

    @property
    def is_here(self) -> bool:
        """Whether it can be opened without a download, as far as the names of files tell."""
        home = self.home
        return home.is_dir() and any(is_visible(path.name) for path in home.iterdir())


@cache
def named_sets() -> Mapping[str, NamedSet]:
    """Read the table of all sets, by name."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {name: _row(name, row) for name, row in table.items()}


def _row(name: str, row: dict[str, Any]) -> NamedSet:
    known = set(NamedSet.__dataclass_fields__) - {"options"}
    facts: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key in known
    }
    return NamedSet(name=name, options={k: v for k, v in row.items() if k not in known}, **facts)


def open_named(name: str) -> Source:
    """Open a public data set, downloading it first where it is not in the cache.

    Args:
        name: one of :func:`named_sets`.

    Raises:
        DataError: it cannot be downloaded, a file is not what was published, or the images are not those that
            the set must hold.
    """
    entry = named_sets()[name]
    home = entry.home
    packed = home / f"{name}.zip"
    if not packed.is_file() and (source := _by_hand(entry)) is not None:
        return _dressed(entry, source, by_hand=True)
    if not packed.is_file():
        from sapling.data.fetch import fetch

        # What was downloaded is kept only when it holds what it must.
        fetch(entry, packed, lambda path: _dressed(entry, open_zip(path), by_hand=False))
    return _dressed(entry, open_zip(packed), by_hand=False)


def file_names(entry: NamedSet) -> tuple[str, ...]:
    """Names under which the files of a set are saved."""
    plain = (address.rpartition("/")[2].partition("?")[0] for address in entry.files)
    return (str(entry.options["save_as"]),) if "save_as" in entry.options else tuple(plain)


def _by_hand(entry: NamedSet) -> Source | None:
    """Open what a person put into the folder of a set; its published files are left to the loader."""
    home = entry.home
    found = sorted(path for path in home.iterdir() if is_visible(path.name)) if home.is_dir() else []
    if not found or any(path.name in file_names(entry) for path in found):
        return None
    if len(found) == 1 and found[0].suffix.lower() == ".zip":
        return open_zip(found[0])
    try:
        return open_folder(home)
    except DataError as error:
        raise DataError(
            f"the files of {entry.name} cannot be used: {error.what}",
            where=str(home),
            allowed="one folder per class (with or without train/, val/, test/), a zip of them, or annotations",
            remedy="unpack what you downloaded there, or empty the folder",
        ) from error


def _dressed(entry: NamedSet, source: Source, *, by_hand: bool) -> Source:
    """Name, views, groups and notes of a set, after a look at its counts."""
    classes = tuple(name for name in source.classes if name not in entry.leave_out)
    number = {source.classes.index(name): label for label, name in enumerate(classes)}
    items = tuple(replace(item, label=number[item.label]) for item in source.items if item.label in number)
    notes = [f"{entry.name}: {entry.title}. Licence: {entry.licence}. Cite: {entry.citation}.", *source.notes]
    if left := [name for name in source.classes if name in entry.leave_out]:
        notes.append(f"Left out: {many(len(source.items) - len(items), 'image')} of {', '.join(map(printable, left))}.")
    wrong = len(classes) != entry.classes or abs(len(items) - entry.images) > COUNT_TOLERANCE * entry.images
    if wrong:
        told = (
            f"{many(len(items), 'image')} of {len(classes)} classes, and not the {entry.images:,} of {entry.classes}"
            " that are published"
        )
        if not by_hand or len(classes) < 2:
            raise DataError(f"{entry.name} holds {told}", where=source.location, remedy=_remedy(entry))
        notes.append(f"Put there by hand: {told}.")
    if entry.groups is not None and all(item.group is None for item in items):
        items = _grouped(items, entry.groups)
        count = Counter(item.group for item in items if item.group is not None)
        if count:
            notes.append(f"{many(len(count), 'group')} by the names of the files.")
    if entry.note:
        notes.append(entry.note)
    return replace(source, name=entry.name, classes=classes, items=items, default_views=entry.views, notes=tuple(notes))


def _grouped(items: tuple[Item, ...], pattern: str) -> tuple[Item, ...]:
    compiled = re.compile(pattern)
    matches = [compiled.search(item.key) for item in items]
    return tuple(
        replace(item, group=match.group(1)) if match else item for item, match in zip(items, matches, strict=True)
    )


def _remedy(entry: NamedSet) -> str:
    return f"download it by hand from {entry.address} and put one folder per class into {entry.home}"
