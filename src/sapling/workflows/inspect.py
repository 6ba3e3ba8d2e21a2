"""Look at a data set before anything is trained on it: the card, as values, as JSON and as a page."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from sapling.data.card import Card
from sapling.data.inspect import Inspection, inspect_data
from sapling.data.pictures import contact_sheet, data_uris
from sapling.data.splitfile import split_text
from sapling.errors import UsageError
from sapling.record import atomic_file, environment, now, write_json
from sapling.report.inspection import SHOWN_PAIRS, write_inspection
from sapling.screen import Bar, Screen

JSON_FILE, PAGE_FILE, CLEAN_SPLIT = "inspect.json", "inspect.html", "inspect-split.csv"


def inspect(
    data: str | Path,
    *,
    output: str | Path | None = None,
    screen: Screen | None = None,
    **settings: Any,
) -> Card:
    """Look at a data set as a run would use it; nothing is trained and torch is not needed.

    Args:
        data: folder, zip, CSV or ``digits``.
        output: folder for ``inspect.json`` and ``inspect.html``; None writes neither.
        screen: where progress is shown; quiet by default.
        settings: ``group_pattern``, ``split_file``, ``img_size``, ``columns``, ``bands``, .. as for
            :func:`sapling.data.inspect.inspect_data`.

    Returns:
        What was found; ``card.findings`` tells what is wrong, the worst first.

    Raises:
        DataError: there is no labelled image.
    """
    screen = screen or Screen(quiet=True)
    if output is not None and Path(output).is_file():
        raise UsageError("the output is a file", where=str(output), allowed="a folder")
    if output is not None:
        refuse_own_files(Path(output))
    with ExitStack() as stack:
        stages: dict[str, Bar] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stack.close()  # the bar of the stage before
                stages[stage] = stack.enter_context(screen.bar(stage, total))
            stages[stage].reach(done, total)

        inspection = inspect_data(data, progress=progress, **settings)
    if output is not None:
        inspection = write_files(inspection, Path(output), group_pattern=settings.get("group_pattern"))
    return inspection.card


def refuse_own_files(folder: Path) -> None:
    """Never write over files that are called as ours and are somebody's own.

    Raises:
        UsageError: there are such files, and no ``inspect.json`` of an inspection beside them.
    """
    there = [name for name in (JSON_FILE, PAGE_FILE, CLEAN_SPLIT) if (folder / name).exists()]
    try:
        is_ours = "sapling_version" in json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        is_ours = False
    if there and not is_ours:
        raise UsageError(
            f"{there[0]} in the output folder is not of an inspection, and would be overwritten",
            where=str(folder / there[0]),
            remedy="give another --output, or move the file away",
        )


def write_files(inspection: Inspection, folder: Path, *, group_pattern: str | None = None) -> Inspection:
    """Write ``inspect.json`` and ``inspect.html``, and a split that nothing crosses where theirs leaks.

    Other files in the folder stay as they are.

    Returns:
        The inspection, with a command that uses this split.
    """
    store = inspection.store
    if inspection.clean is not None:
        with atomic_file(folder / CLEAN_SPLIT, "wb") as file:
            file.write(split_text(inspection.source, inspection.clean))
        inspection = replace(
            inspection, card=with_split(inspection.card, folder / CLEAN_SPLIT, group_pattern, inspection.source.options)
        )
    card = inspection.card.as_dict() | {"created": now(), "sapling_version": environment()["sapling"]}
    write_json(folder / JSON_FILE, card)
    sheet = contact_sheet(inspection.source)
    pictures: dict[str, str] = {}
    if store is not None:
        paired = [key for pair in card["duplicates"]["pairs"][:SHOWN_PAIRS] for key in pair["images"]]
        pictures = data_uris(store, [*(key for keys in sheet for key in keys), *paired])
    write_inspection(folder / PAGE_FILE, card, sheet=sheet, pictures=pictures)
    return inspection


def with_split(card: Card, path: Path, group_pattern: str | None, options: str = "") -> Card:
    """The card with the command that uses a split which nothing crosses."""
    pattern = card.pattern["pattern"] if card.pattern else group_pattern
    flag = f" --group-pattern {quote(pattern)}" if pattern else ""
    command = f"sapling distill {quote(card.source)}{options}{flag} --split {quote(str(path))}"
    what = "Distil with a split made anew, which keeps together what belongs together"
    return replace(card, commands=((what, command), *card.commands))
