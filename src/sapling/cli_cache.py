"""``sapling cache``: what lies in the cache, and how it is cleared. Heavy imports happen inside commands."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sapling.errors import RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sapling.data.cache import Entry

app = typer.Typer(no_args_is_help=True, help="Show or clear what Sapling keeps: packed images.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the packed stores: size, last use, and whether their images are still there."""
    from sapling.data.cache import list_cache
    from sapling.data.packed import cache_folder

    entries = list_cache()
    if as_json:
        typer.echo(json.dumps([entry.as_dict() for entry in entries]))
        return
    from sapling.tables import print_cache

    print_cache(entries, cache_folder())


@app.command()
def clear(
    name: Annotated[str | None, typer.Argument(help="A store, or a data set: all its stores.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything in the cache.")] = False,
    unused_days: Annotated[float | None, typer.Option(help="What was not used for so many days.")] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove packed stores; they are built anew when they are needed.

    Example: sapling cache clear --unused-days 30
    """
    from sapling.data.cache import choose, clear_cache, list_cache

    chosen = choose(list_cache(), name, everything=everything, unused_days=unused_days)
    if chosen and not yes and not _is_agreed(chosen):
        typer.echo("nothing was removed", err=True)
        return
    cleared = clear_cache(chosen)
    if as_json:
        found = {k: [entry.name for entry in getattr(cleared, k)] for k in ("removed", "in_use", "left")}
        typer.echo(json.dumps({**found, "num_bytes": cleared.num_bytes}))
    else:
        for entry in cleared.removed:
            typer.echo(f"removed {_line(entry)}")
        typer.echo(f"{cleared.num_bytes / 1e6:,.1f} MB freed")
    kept = [f"{entry.name} is in use by another process" for entry in cleared.in_use]
    kept += [f"{entry.name} holds other files: {entry.place}" for entry in cleared.left]
    if kept:
        raise RunError("not removed: " + "; ".join(kept), remedy="wait until the process is done, then try again")


def _is_agreed(chosen: Sequence[Entry]) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked: there is no terminal", remedy="give --yes to remove without asking")
    for entry in chosen:
        typer.echo(_line(entry), err=True)
    return typer.confirm(f"remove these {len(chosen)}?", err=True)


def _line(entry: Entry) -> str:
    from sapling.data.layout import printable
    from sapling.tables import megabytes

    source = f", from {printable(entry.source)}" if entry.source else ""
    return f"{entry.name} ({megabytes(entry.num_bytes)} MB{source})"
