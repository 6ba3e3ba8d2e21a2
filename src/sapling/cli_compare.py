"""The command that compares runs; :mod:`sapling.cli` registers it. No torch."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sapling.screen import Screen

if TYPE_CHECKING:
    from sapling.workflows.comparison import Comparison


def compare(
    runs: Annotated[list[str], typer.Argument(help="Run folders of sapling distill, two or more.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Let this differ: student, teacher, budget, recipe or seeds; may be repeated."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Folder or .html file (runs/compare-<run>-<run>).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs: every method with its control, and the methods with each other.

    Runs that differ in more than their method are refused, unless --allow names the difference.

    Example: sapling compare runs/photos-cnn3-kd runs/photos-cnn3-dkd
    """
    from sapling.workflows.compare import compare as work

    found = work(runs, allow=allow or (), output=output or default_folder(runs))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, allow_nan=False))
        Screen().say(f"page: {found.page}")
        return
    print_comparison(found)


def default_folder(runs: list[str]) -> str:
    """``runs/compare-<run>-<run>``."""
    names = (re.sub(r"[^\w.]+", "_", Path(run).resolve().name) for run in runs)
    return f"runs/compare-{'-'.join(names)[:80]}"


def print_comparison(found: Comparison) -> None:
    """What ``sapling compare`` prints: the finding, methods and control, pairs, and where the page is."""
    from rich.text import Text

    from sapling.data.layout import printable
    from sapling.report.comparison import better_first, outcome_words
    from sapling.report.wording import limit
    from sapling.tables import new_table, open_console

    console, num_seeds = open_console(), len(found.seeds)
    of = "verdict, these students" if num_seeds == 1 else "verdict"
    console.print()
    console.print(Text(printable(found.statement), style="bold"))
    console.print(Text(printable(found.between)))
    console.print(Text(printable(found.scope), style="dim"))
    for d in found.allowed:
        text = d.sentence([m.name for m in found.methods])
        console.print(Text(f"note: allowed to differ ({d.kind}): {printable(text)}", style="yellow"))
    for note in (*([] if found.controls.are_one else [found.controls.statement]), *found.notes):
        console.print(Text(f"note: {printable(note)}", style="yellow"))
    measure = {"top1": "top-1", "macro_recall": "macro recall", "map": "mAP"}[found.measure]
    columns = (("", "left"), (measure, "right"), ("gain", "right"), (f"{100 * found.confidence:.4g} %", "right"))
    rest = (("p (Holm)", "right"), ("can show", "right"), ("rank", "right"), ("P(best)", "right"), (of, "left"))
    table = new_table(*columns, *rest)
    if found.controls.are_one and found.control_standing is not None:
        own = found.control_standing
        table.add_row(
            "control", _level(found.controls.scores), "", "", "", "", f"{own.mean_rank:.1f}", f"{100 * own.best:.0f} %"
        )
    for m in found.methods:
        v = m.verdict
        table.add_row(
            Text(printable(m.name)),
            _level(m.scores),
            f"{100 * v.difference:+.2f}",
            f"{100 * v.low:+.1f} to {100 * v.high:+.1f}",
            f"{m.p_adjusted:.3f}",
            "" if v.detectable["now"] is None else limit(v.detectable["now"]).removesuffix(" points"),
            f"{m.standing.mean_rank:.1f}",
            f"{100 * m.standing.best:.0f} %",
            outcome_words(m.outcome, num_seeds),
        )
    console.print(table)
    table = new_table(("method less method", "left"), *columns[2:], ("p (Holm)", "right"), (of, "left"))
    for pair in found.pairs:
        v = pair.verdict
        names, (mean, low, high), outcome = better_first(
            (pair.second, pair.first), (v.difference, v.low, v.high), pair.outcome
        )
        said, name = outcome_words(outcome, num_seeds), " less ".join(map(printable, names))
        span = f"{100 * low:+.1f} to {100 * high:+.1f}"
        table.add_row(Text(name), f"{100 * mean:+.2f}", span, f"{pair.p_adjusted:.3f}", said)
    console.print(table)
    if found.controls.are_one:
        console.print(Text(printable(found.controls.statement), style="dim"))
    console.print(Text(f"page      {found.page}"), soft_wrap=True)


def _level(scores: tuple[float, ...]) -> str:
    values = [100 * score for score in scores]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f} %{spread}"
