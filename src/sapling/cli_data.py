"""The commands that look at data and train nothing; :mod:`sapling.cli` registers them. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from sapling.errors import UsageError
from sapling.screen import Screen


def inspect(
    data: Annotated[str, typer.Argument(help="Folder or zip, one folder per class; a CSV image,label; or a name.")],
    group_pattern: Annotated[
        str | None, typer.Option(help="Regular expression: images of one group stay in one split.")
    ] = None,
    group_column: Annotated[str | None, typer.Option(help="Column of the CSV file that names groups.")] = None,
    split_file: Annotated[str | None, typer.Option("--split", help="CSV file key,split: split.csv of a run.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Image side that a run would use.")] = None,
    bands: Annotated[str | None, typer.Option(help="Bands that are used, from 1: 4,3,2, or rgb (all).")] = None,
    value_range: Annotated[str | None, typer.Option(help="Values that become black and white: 0,3000.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting of the data: data.name=value.")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Folder (runs/inspect-<data>).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print the result only.")] = False,
) -> None:
    """Look at a data set: sizes, broken files, copies, leaks, imbalance. Trains nothing.

    Example: sapling inspect photos/
    """
    from sapling import config
    from sapling.workflows.inspect import PAGE_FILE
    from sapling.workflows.inspect import inspect as work

    flags = {
        "data.source": data,
        "data.group_pattern": group_pattern,
        "data.group_column": group_column,
        "data.split_file": split_file,
        "data.img_size": img_size,
        "data.bands": bands,
        "data.value_range": value_range,
    }
    blocks = config.override({}, dict(config.parse_assignment(a) for a in set_ or []))
    if others := sorted(set(blocks) - {"data"}):
        raise UsageError(f"--set {others[0]}: inspect trains nothing", allowed="settings of the data: data.name=value")
    d = config.build(config.override(blocks, {k: v for k, v in flags.items() if v is not None})).data
    folder = Path(output or default_folder(data))
    screen = Screen(quiet=quiet)
    screen.say(f"sapling inspect: {data}")
    card = work(
        d.source,
        output=folder,
        screen=screen,
        group_pattern=d.group_pattern,
        split_file=d.split_file,
        columns=d.columns,
        bands=d.bands,
        value_range=d.value_range,
        img_size=d.img_size,
        store_size=d.store_size,
        val_share=d.val_share,
        test_share=d.test_share,
        split_seed=d.split_seed,
    )
    if as_json:
        typer.echo(json.dumps(card.as_dict(), ensure_ascii=False))
        screen.say(f"page: {folder / PAGE_FILE}")
        return
    from sapling.tables import print_card

    print_card(card, folder / PAGE_FILE)


def default_folder(data: str) -> str:
    """``runs/inspect-<data>``."""
    return "runs/inspect-" + re.sub(r"[^\w.]+", "_", Path(data.rstrip("/\\")).resolve().stem or "data")
