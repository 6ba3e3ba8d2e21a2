"""Where images come from: a folder, a zip, a CSV file, the built-in digits, or a named public set. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sapling.data.archives import ZipSource, open_zip
from sapling.data.base import Source, decode_image
from sapling.data.digits import DigitsSource, open_digits
from sapling.data.folders import CsvSource, FolderSource, open_csv, open_folder
from sapling.data.layout import Item, expanded
from sapling.data.listing import Columns, refuse_columns
from sapling.data.named import named_sets, open_named
from sapling.data.viewspec import VIEW_PRESETS
from sapling.errors import DataError, nearest

__all__ = [
    "VIEW_PRESETS",
    "Columns",
    "CsvSource",
    "DigitsSource",
    "FolderSource",
    "Item",
    "Source",
    "ZipSource",
    "decode_image",
    "open_source",
]


def open_source(spec: str | Path, *, columns: Columns | None = None) -> Source:
    """Open a folder, a ``.zip``, a ``.csv``, ``"digits"`` or a public data set by its name.

    Args:
        spec: path, or a name (``./digits`` is a folder of that name). A public set that is not in the cache is
            downloaded: see :mod:`sapling.data.named`.
        columns: names of the columns, where a CSV file lists the images.

    Raises:
        DataError: nothing is there, or there are no labelled images in it.
    """
    if isinstance(spec, str) and spec in ("digits", *named_sets()):
        refuse_columns(columns, spec)
        return open_digits() if spec == "digits" else open_named(spec)
    path = expanded(spec)
    if path.is_dir():
        source: Source = open_folder(path, columns)
    elif path.is_file():
        source = open_csv(path, columns) if path.suffix.lower() == ".csv" else open_zip(path, columns)
    else:
        raise _missing(spec, path)
    return replace(source, options=columns.options) if columns is not None else source


def _missing(spec: str | Path, path: Path) -> DataError:
    # The last folder that does exist is where the typing error is.
    parent = path.parent
    siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    hint = nearest(path.name, [*siblings, "digits", *named_sets()])
    return DataError(
        f"there is no data at {str(spec)!r}" + (f": {hint}" if hint else ""),
        where=str(parent.resolve()),
        allowed="a folder, a .zip, a .csv, 'digits', or a name that sapling datasets lists",
    )
