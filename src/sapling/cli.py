"""The command line: parse, call one library function, print its result. Heavy imports happen inside commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from sapling import cli_cache
from sapling.cli_compare import compare
from sapling.cli_data import inspect
from sapling.cli_train import demo, distill, train
from sapling.command import typed
from sapling.errors import SaplingError, UsageError, nearest
from sapling.screen import Screen

app = typer.Typer(
    name="sapling",
    help="Distil image classifiers, with the control, the seeds and the verdict included.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # panels cost half a second of imports before --help shows a word
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cli_cache.app, name="cache")

Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print the result only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sapling {version('sapling-kd')}")
        raise typer.Exit


@app.callback()
def _sapling(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Distil image classifiers, with the control, the seeds and the verdict included."""


app.command()(distill)
app.command()(train)
app.command()(demo)
app.command()(inspect)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Run folder, model folder or .safetensors.")],
    data: Annotated[str, typer.Argument(help="Folder, zip, CSV or a name.")],
    split: Annotated[
        str | None, typer.Option(help="train, val, test, or all. Default: test; all of images it has never seen.")
    ] = None,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per forward pass.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a trained model on a split of a data set."""
    if split not in (None, "train", "val", "test", "all"):
        raise UsageError(f"--split {split}: unknown split", allowed="train, val, test, all")
    from sapling.workflows.evaluate import evaluate as work

    result = work(
        model,
        data,
        split=cast("Any", split),
        batch_size=batch_size,
        device=device,
        threads=threads,
        screen=Screen(quiet=quiet),
    )
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    from sapling.tables import metrics_table

    metrics_table(result)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Run folder, model folder, .safetensors or .onnx.")],
    images: Annotated[list[str], typer.Argument(help="Image files or folders.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes per image.")] = 1,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per forward pass.")] = 32,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Write a CSV file instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Name the class of images: one line per image, tab-separated."""
    if not any(Path(image).exists() for image in images):
        siblings = [entry.name for entry in Path(images[0]).parent.glob("*")]
        raise UsageError(
            f"there is no file or folder {images[0]!r}",
            allowed="sapling predict MODEL IMAGES..: the model comes first",
            remedy=nearest(Path(images[0]).name, siblings) or None,
        )
    from sapling.deploy.predict import predict as work
    from sapling.tables import print_predictions

    print_predictions(work(model, images, top=top, batch_size=batch_size), as_json=as_json, output=output)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Run folder, or a model folder inside one.")],
    output: Annotated[str | None, typer.Option("-o", "--output", help="ONNX file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the ONNX file of a run again, check it on real images and measure it."""
    from sapling.workflows.evaluate import export as work

    result = work(run, output=output, screen=Screen())
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    from sapling.tables import export_lines

    typer.echo(export_lines(result))


@app.command()
def report(runs: Annotated[list[str], typer.Argument(help="Run folders.")]) -> None:
    """Write report.html of runs again. Exit code 1 where a run is not finished: its page shows how far it came."""
    from sapling.report.folder import read_run
    from sapling.report.page import write_report
    from sapling.report.unfinished import unfinished

    waiting = False
    for run in runs:
        typer.echo(str(write_report(Path(run))))
        if state := unfinished(read_run(Path(run))):
            waiting = True
            typer.echo(state, err=True)
    if waiting:
        raise typer.Exit(1)


app.command()(compare)


@app.command(name="methods")
def methods_(
    name: Annotated[str | None, typer.Argument(help="Show one method whole.")] = None, as_json: AsJson = False
) -> None:
    """List the distillation methods, or explain one."""
    from sapling.method_list import show_methods

    show_methods(name, as_json=as_json)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Pattern with *, for example 'resnet*'.")] = "*",
    sizes: Annotated[bool, typer.Option("--sizes", help="Parameters, MACs, published weights and licence.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the networks that can be teacher or student."""
    from sapling.listings import show_models

    show_models(pattern, sizes=sizes, as_json=as_json)


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """List the public data sets that have a name here: sapling distill eurosat."""
    from sapling.listings import show_datasets

    show_datasets(as_json=as_json)


INTERRUPTED = 130


def _stopped() -> int:
    print("stopped; the same command goes on where it was", file=sys.stderr)
    return INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 good, 1 failed, 2 wrong call."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with typed(given):
            code = app(args=given, standalone_mode=False)
    except SaplingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _stopped()
    except typer.Exit as done:
        code = done.exit_code
    except BrokenPipeError:
        return 0
    except OSError as error:  # the machine's: disk full, no permission
        where = f"\n  where:   {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    except Exception as error:
        # typer brings its own copy of click in some versions and the real one in others: its errors are known by this
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            return int(error.exit_code)
        raise
    if code == INTERRUPTED:  # typer makes an exit of Ctrl-C
        return _stopped()
    return code if isinstance(code, int) else 0
