"""``sapling cache``: what lies in the cache, and teachers' answers. Heavy imports happen inside commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sapling.errors import RunError, UsageError
from sapling.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sapling.data.cache import Entry

app = typer.Typer(no_args_is_help=True, help="What Sapling keeps: packed images, and teachers' answers.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List packed images and kept answers: size, last use, and whether their images are still there."""
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
    name: Annotated[str | None, typer.Argument(help="An entry of the list, or a data set: all of it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything in the cache.")] = False,
    unused_days: Annotated[float | None, typer.Option(help="What was not used for so many days.")] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove packed images and kept answers; they are made anew when they are needed.

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


Target = Annotated[
    str | None, typer.Argument(help="A run of sapling distill, or data: a folder, a zip, a CSV, a name.")
]
TeacherPath = Annotated[str | None, typer.Option("--teacher", help="A trained network, where data are given.")]
MethodName = Annotated[str | None, typer.Option("--method", help="Whose features are kept beside the logits (dist).")]
Views = Annotated[int | None, typer.Option("--num-views", min=1, help="Views of every image (16).")]
ConfigFile = Annotated[str | None, typer.Option("-c", "--config", help="YAML file of settings; flags win over it.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting: block.name=value; may be repeated.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print the result only.")]


def _with_settings(work: Callable[[dict[str, Any], Screen], None]) -> Callable[..., None]:
    """A command with the settings of kept answers, which it hands on to ``work`` as blocks."""

    def command(
        target: Target = None,
        teacher: TeacherPath = None,
        method: MethodName = None,
        num_views: Views = None,
        config: ConfigFile = None,
        set_: Set = None,
        quiet: Quiet = False,
    ) -> None:
        work(_blocks(target, teacher, method, num_views, config, set_), Screen(quiet=quiet))

    command.__name__, command.__doc__ = work.__name__, work.__doc__
    return command


@app.command()
@_with_settings
def build(blocks: dict[str, Any], screen: Screen) -> None:
    """Ask a trained teacher once for its answers to every view of the training images.

    Example: sapling cache build photos/ --teacher runs/photos-resnet34 --num-views 16
    """
    from sapling.workflows.answers import size_in_words
    from sapling.workflows.kept import build_kept

    kept = build_kept(blocks, screen)
    took = f"in {kept.seconds:.1f} s" if kept.seconds else "were there"
    typer.echo(
        f"{', '.join(kept.parts)} of {kept.num_images:,} images x {kept.num_views} views, "
        f"{size_in_words(kept.num_bytes)}, {took}: {kept.folder}"
    )


@app.command()
@_with_settings
def verify(blocks: dict[str, Any], screen: Screen) -> None:
    """Ask the teacher again about a sample, and compare with what is kept. Exit code 1 if they differ.

    Example: sapling cache verify runs/photos-cnn3-dist
    """
    from sapling.data.answers import rebuild
    from sapling.workflows.kept import verify_kept

    store, found = verify_kept(blocks, screen)
    shown = ", ".join(f"{part} {100 * share:.2f} %" for part, share in found.largest.items())
    line = f"{found.num_answers:,} answers asked again; largest difference, of their spread: {shown}"
    if not found.holds:
        raise RunError(
            f"the kept answers are not what the teacher says now. {line}",
            where=str(store.place),
            allowed=f"up to {100 * found.tolerance:.0f} %, which rounding explains",
            remedy=rebuild(store.place),
        )
    typer.echo(f"{store.place.name} holds. {line}")


def _blocks(
    target: str | None,
    teacher: str | None,
    method: str | None,
    num_views: int | None,
    config: str | None,
    assignments: list[str] | None,
) -> dict[str, Any]:
    """The settings of a run folder, or those that are given."""
    from sapling import config as settings

    if target is not None and (Path(target) / "config.yaml").is_file():
        if teacher or num_views or config or assignments:
            raise UsageError(
                "a run has its own settings; others make no sense beside it",
                remedy="give the data instead of the run, with --teacher RUN/teacher",
            )
        from sapling.workflows.kept import blocks_of_run

        return blocks_of_run(Path(target), method)
    flags = {
        "data.source": target,
        "data.num_views": num_views,
        "teacher.model": teacher,
        "method.name": method,
    }
    blocks = settings.load(config) if config else {}
    blocks = settings.override(blocks, dict(settings.parse_assignment(a) for a in assignments or []))
    blocks = settings.override(blocks, {k: v for k, v in flags.items() if v is not None})
    if "data" not in blocks:
        raise UsageError("neither a run nor data is given", remedy="give the folder of a run, or DATA --teacher PATH")
    return {k: v for k, v in blocks.items() if k != "output"}


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
