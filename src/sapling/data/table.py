"""Reads CSV tables: a header, rows with their line numbers, and all faults in one error. No torch."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sapling.data.layout import many, printable
from sapling.errors import DataError, nearest

MAX_TABLE_BYTES = 256 * 2**20
"""Larger files are not read: a million rows of 200 letters fit."""

_SHOWN = 20
_OTHER_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        line: number of its first line in the file, from 1.
        cells: what it holds, by the lower-case name of the column.
    """

    line: int
    cells: dict[str, str]


@dataclass
class Faults:
    """Collects what is wrong with a file, so that one error tells all of it.

    Attributes:
        path: the file.
        found: line number (None: of no line) and fault.
    """

    path: Path
    found: list[tuple[int | None, str]] = field(default_factory=list)

    def add(self, line: int | None, what: str) -> None:
        """Remember that ``what`` is wrong in ``line``."""
        self.found.append((line, what))

    def raise_any(self, *, remedy: str | None = None) -> None:
        """Raise one DataError with the first 20 faults in the order of their lines, if there is any."""
        if not self.found:
            return
        ordered = sorted(self.found, key=lambda fault: (fault[0] is None, fault[0] or 0))
        shown = "".join(f"\n    {f'line {line}: ' if line else ''}{what}" for line, what in ordered[:_SHOWN])
        more = f"\n    and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
        count = "1 thing is" if len(ordered) == 1 else f"{len(ordered)} things are"
        raise DataError(f"{count} wrong in {self.path.name}:{shown}{more}", where=str(self.path), remedy=remedy)


def read_table(
    path: Path,
    faults: Faults,
    *,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    any_bytes: bool = False,
    content: bytes | None = None,
) -> tuple[list[Row], tuple[str, ...]]:
    """Read a CSV file in UTF-8 (with or without a mark at its start), separated by commas, with a header.

    Args:
        path: the file.
        faults: takes the rows that have too few or too many cells; they are left out.
        needed: names of columns that must be there, in lower case; their case in the file is free.
        optional: names of columns that may be there; others are left out and noted.
        any_bytes: take bytes that are no UTF-8, as in file names of other systems, as they are.
        content: what the file holds, where it is no file on disk (``path`` is then for messages only).

    Returns:
        The rows and what was left out, one sentence each. Every row has every column of ``needed`` and
        ``optional``; one that the file does not have is empty.

    Raises:
        DataError: the file cannot be read, is no CSV, or its header is not what it should be.
    """
    text = _text(path, content, any_bytes)
    shape = ",".join(needed) + "".join(f"[,{name}]" for name in optional)
    allowed = f"a header {shape} and cells separated by commas"
    _refuse_other_delimiters(text, needed, path, allowed)
    lines = _rows(text, path)
    _, header = next(lines, (0, []))
    places = _columns(header, needed, optional, path, allowed)
    notes = []
    if others := [printable(name) for k, name in enumerate(header) if k not in places.values()]:
        notes.append(f"Ignored: {many(len(others), 'column')} of {path.name} ({', '.join(others[:4])}).")
    rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            hint = "; a comma in a name needs quotes" if len(cells) > len(header) else ""
            faults.add(line, f"{many(len(cells), 'cell')} instead of {len(header)}{hint}")
            continue
        rows.append(Row(line, {name: cells[places[name]] if name in places else "" for name in (*needed, *optional)}))
    return rows, tuple(notes)


def _text(path: Path, content: bytes | None, any_bytes: bool) -> str:
    try:
        size = path.stat().st_size if content is None else len(content)
        if size > MAX_TABLE_BYTES:
            raise DataError(
                f"the file has {size:,} bytes, more than the {MAX_TABLE_BYTES:,} that are read", where=str(path)
            )
        data = path.read_bytes() if content is None else content
        return data.decode("utf-8-sig", errors="surrogateescape" if any_bytes else "strict")
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"the file is not UTF-8 text (byte {error.start:,})",
            where=str(path),
            remedy="save it anew as UTF-8; spreadsheets call that 'CSV UTF-8'",
        ) from error


def _refuse_other_delimiters(text: str, needed: Sequence[str], path: Path, allowed: str) -> None:
    first = text.lstrip("\r\n").partition("\n")[0].lower()
    for delimiter, called in _OTHER_DELIMITERS.items():
        if "," not in first and set(needed) <= {name.strip(' "\r') for name in first.split(delimiter)}:
            raise DataError(
                f"the columns are separated by {called}",
                where=str(path),
                allowed=allowed,
                remedy="save the file with commas",
            )


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and cells of every row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    before = 0
    try:
        for cells in reader:
            if any(cells):  # spreadsheets leave rows of commas behind the last one
                yield before + 1, cells
            before = reader.line_num
    except csv.Error as error:
        raise DataError(f"line {before + 1} is no CSV: {error}", where=str(path)) from error


def _columns(
    header: list[str], needed: Sequence[str], optional: Sequence[str], path: Path, allowed: str
) -> dict[str, int]:
    """Position of every column that is known."""
    names = [name.lower() for name in header]
    known = (*needed, *optional)
    twice = [name for name, count in Counter(names).items() if count > 1 and name in known]
    if twice:
        raise DataError(f"the header names the column {twice[0]!r} twice", where=str(path), allowed=allowed)
    places = {name: names.index(name) for name in known if name in names}
    others = [name for name in header if name.lower() not in known]
    if missing := [name for name in needed if name not in places]:
        shown = ", ".join(printable(name) for name in header[:6]) + (", .." if len(header) > 6 else "")
        hint = nearest(missing[0], [name.lower() for name in others])
        raise DataError(
            (f"the first line is {shown!r}: it" if header else "the file is empty: its first line")
            + f" names no column {missing[0]!r}"
            + (f"; {hint}" if hint else ""),
            where=str(path),
            allowed=allowed,
        )
    for name in others:
        # A column group that is misspelt and passed over would part the groups, and nobody would notice.
        if hint := nearest(name.strip().lower(), [column for column in optional if column not in places]):
            raise DataError(
                f"the header names the column {name!r}: {hint}",
                where=str(path),
                allowed=allowed,
                remedy="rename the column if that is what it is, or remove it",
            )
    return places
