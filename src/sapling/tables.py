"""How results look in a terminal. No torch."""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapling.data.layout import many, printable
from sapling.errors import SaplingError
from sapling.record import atomic_file
from sapling.screen import duration, file_size

if TYPE_CHECKING:
    from sapling.data.cache import Entry
    from sapling.data.card import Card
    from sapling.deploy.predict import Prediction
    from sapling.workflows.distill import RunResult


_PART_NAMES = {"train": "train", "val": "validation", "test": "test", "none": "in no part"}
_SCORES = {"top1": "top-1", "macro_recall": "mean recall", "map": "mAP", "macro_f1": "macro F1"}
_KINDS = {"store": "decoded images", "answers": "a teacher's answers", "phase": "a method's first phase"}
_EXAMPLES = 5


def open_console() -> Any:
    """Rich's console: the width of a window, or 120 columns into a pipe."""
    from rich.console import Console

    # a pipe gets whole lines, a person gets the width of the window
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def new_table(*columns: tuple[str, str]) -> Any:
    """An empty table; a column is a title and ``left`` or ``right``."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    return table


def print_result(result: RunResult) -> None:
    """Verdict, table of teacher, control and distilled student, and where things are."""
    from rich.text import Text

    from sapling.report.details import looks_at_test
    from sapling.report.diagnosis import terminal_lines  # not above: the page brings matplotlib
    from sapling.report.folder import block

    results, console = result.results, open_console()
    console.print()
    if result.statement:
        console.print(Text(result.statement, style="bold"))
        console.print(Text(str(results["comparison"]["verdict"]["scope"]), style="dim"))
    console.print(Text(looks_at_test(results.get("test_opened") or {}), style="dim"))
    keys = ["map" if results.get("multi_label") else "top1", "macro_f1"]
    judged_by = str(block(results, "comparison", "verdict").get("measure", keys[0]))
    keys = [judged_by, *(key for key in keys if key != judged_by)]  # what the verdict is about comes first
    columns = [(_SCORES.get(key, key), "right") for key in keys]
    table = new_table(("", "left"), *columns, ("parameters", "right"), ("MACs", "right"))
    if results.get("teacher"):
        t = results["teacher"]
        num = len(t.get("members") or ())
        table.add_row(
            Text(f"{num} teachers {t['model']}" if num > 1 else f"teacher {t['model']}"), *_scores([t], keys), *_size(t)
        )
    arms: dict[str, list[Any]] = {}
    for member in results["members"]:
        arms.setdefault(member["arm"], []).append(member)
    student = str(results["manifest"]["student"]).removeprefix("sapling_")
    for arm, members in arms.items():
        label = {"control": f"{student} alone (control)", "model": student}.get(arm, f"{student} with {arm}")
        table.add_row(Text(label), *_scores(members, keys), *_size(members[0]))
    console.print(table)
    for warning in results.get("warnings", []):
        console.print(Text(f"note: {warning}", style="yellow"))
    for label, text in terminal_lines(results):
        _print_labelled(console, label, printable(text))
    onnx = results.get("deploy", {}).get("onnx")
    shipped = results["shipped"]
    folder = result.folder
    console.print(Text(f"student   {folder / 'student'}  ({shipped['member']}: {shipped['reason']})"), soft_wrap=True)
    if onnx:
        console.print(Text(f"onnx      {folder / 'student' / 'model.onnx'}  ({_onnx(onnx)})"), soft_wrap=True)
    console.print(Text(f"report    {folder / 'report.html'}"), soft_wrap=True)


def _print_labelled(console: Any, label: str, text: str) -> None:
    """Words beside their label, in a window broken into lines of one column; what has no label is copied: one line."""
    from rich.table import Table
    from rich.text import Text

    if not label or not console.is_terminal:
        console.print(Text(f"{label:<9} {text}"), soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9, no_wrap=True)
    grid.add_column()
    grid.add_row(Text(label), Text(text))
    console.print(grid)


def _scores(entries: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    cells = []
    for key in keys:
        values = [100 * float(e["test"][key]) for e in entries]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.2f} %{spread}")
    return cells


def _size(entry: Mapping[str, Any]) -> tuple[str, str]:
    return f"{entry['parameters']:,}", f"{entry['macs'] / 1e6:,.1f} M"


def _onnx(onnx: Mapping[str, Any]) -> str:
    one = onnx["latency_ms"]["1"]["p50"]
    return (
        f"{file_size(onnx['bytes'])}, {one:.2f} ms an image on {many(onnx['threads'], 'thread')}, "
        f"logits within {onnx['max_abs_logit_difference']:.0e} of torch on {many(onnx['images'], 'image')}"
    )


def export_lines(result: Mapping[str, Any]) -> str:
    """What ``sapling export`` prints."""
    return f"{result['path']}  ({_onnx(result)})"


def metrics_table(result: Mapping[str, Any]) -> None:
    """What ``sapling evaluate`` prints."""
    from rich.text import Text

    table = new_table(("measure", "left"), (f"{result['split']} ({many(result['num_images'], 'image')})", "right"))
    for key, label in (
        ("map", "mean average precision"),
        ("auc", "area under the ROC curve"),
        ("micro_f1", "micro F1"),
        ("same_labels", "images with exactly the right labels"),
        ("top1", "top-1 accuracy"),
        ("top5", "top-5 accuracy"),
        ("macro_f1", "macro F1"),
        ("macro_precision", "macro precision"),
        ("macro_recall", "macro recall"),
        ("worst_class_recall", "recall of the worst class"),
        ("ece", "calibration error (ECE)"),
    ):
        if result.get(key) is not None:
            table.add_row(label, f"{100 * result[key]:.2f} %")
    for key, label in (("nll", "negative log-likelihood"), ("bce", "binary cross-entropy")):
        if key in result:
            table.add_row(label, f"{result[key]:.4f}")
    console = open_console()
    console.print(Text(str(result["model"])))
    console.print(table)
    for warning in result["warnings"]:
        console.print(Text(f"note: {warning}", style="yellow"))


def print_plan(plan: Mapping[str, Any]) -> None:
    """What ``--dry-run`` prints."""
    from rich.text import Text

    table = new_table(("plan", "left"), ("", "left"))
    d, m = plan["data"], plan["machine"]
    images = f"{d['train']:,} train, {d['val']:,} validation, {d['test']:,} test"
    table.add_row("data", Text(f"{d['classes']} classes; {images}; {d['img_size']} px, views {d['views']}"))
    for role in ("teacher", "student"):
        if role in plan:
            card = plan[role]
            epochs = card.get("epochs", plan["epochs"])
            training = f"trained for {many(epochs, 'epoch')}" if epochs else "given"
            sizes = f"{card['parameters']:,} parameters, {card['macs'] / 1e6:,.1f} M MACs"
            num = card.get("num_teachers", 1)
            if num > 1:
                training = f"{num} of them, {training}" + (" each" if epochs else "")
                sizes += " in all"
            if card.get("pretrained"):
                training += " from published weights"
            if small := card.get("small_images"):
                training += f", the first {small['epochs']} on images of {small['img_size']} px"
            table.add_row(role, Text(f"{card['model']}: {sizes}, {training}"))
            if card.get("cross_fit"):
                table.add_row("", f"cross-fitted: each was trained without one of {num} folds, and answers it alone")
            if card.get("symmetries", 1) > 1:
                table.add_row("", f"symmetrised: it answers {card['symmetries']} ways to lay each image")
            if "heard" in card:
                table.add_row("", Text(card["heard"]["sentence"]))
            if (passes := card.get("forward_passes", 1)) > 1:
                table.add_row("", f"{passes} forward passes per image and step of the students")
    if "shipped" in plan:
        card = plan["shipped"]
        table.add_row(
            "shipped", Text(f"{card['model']}: {card['parameters']:,} parameters, {card['macs'] / 1e6:,.1f} M MACs")
        )
    if "method" in plan:
        options = ", ".join(f"{k} {v}" for k, v in _flat(plan["method"]).items() if k != "name")
        table.add_row("method", Text(f"{plan['method']['name']} {options}".strip()))
        table.add_row("", Text("loss: " + " + ".join(f"{w:g} {t}" for t, w in plan["weights"].items())))
    for note in plan.get("notes", ()):
        table.add_row("note", Text(note))
    for phase in plan.get("phases", ()):
        steps = f"{many(phase['epochs'], 'epoch')}, {phase['steps']:,} steps on the teacher alone"
        table.add_row("phase", Text(f"{phase['name']}: {steps}, once for all seeds"))
    runs = many(plan["seeds"], "seed") + (", control and student each" if "teacher" in plan else "")
    table.add_row("training", f"{runs}; batch {plan['batch_size']}")
    table.add_row("machine", f"{m['device']}, {m['precision']}, {many(m['threads'], 'thread')}")
    table.add_row("folder", Text(str(plan["folder"])))
    if begun := plan.get("begun"):
        table.add_row("", Text(begun, style="yellow"))
    whole = " from the beginning" if begun else ""
    table.add_row("time", f"about {duration(plan['estimated_seconds'])}{whole}")
    console = open_console()
    console.print(table)
    for warning in plan.get("warnings", ()):
        console.print(Text(f"note: {warning}", style="yellow"))


def _flat(block: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the parts of a combination by their dotted names."""
    return {
        name: inner
        for key, value in block.items()
        for name, inner in (
            ((f"{key}.{k}", v) for k, v in value.items())
            if isinstance(value, Mapping) and key != "weights"
            else ((key, value),)
        )
    }


def print_card(card: Card, page: Path) -> None:
    """What ``sapling inspect`` prints: the counts, the findings, the page."""
    from rich.text import Text

    console = open_console()
    table = new_table((printable(card.name), "left"), ("", "left"))
    totals = [f"{sum(counts):,} {_PART_NAMES[part]}" for part, counts in card.counts.items() if sum(counts)]
    unit = " labels" if card.multi_label else ""  # an image counts with each of its labels
    table.add_row("images", Text(f"{card.num_images:,} of {len(card.classes)} classes: {', '.join(totals)}{unit}"))
    if card.imbalance is not None:
        table.add_row("balance", f"{card.imbalance:.3g} : 1, largest to smallest class (training images)")
    if card.sizes is not None:
        s, first = card.sizes, card.sizes.common[0]
        most = f"; most often {first[0]} x {first[1]}" if s.num_different > 1 else ""
        sides = f"short side {s.short_side.smallest} / {s.short_side.median:.0f} / {s.short_side.largest}"
        table.add_row("pixels", f"{sides} (smallest / median / largest){most}")
    for label, found in (("formats", card.formats), ("modes", card.modes)):
        table.add_row(label, Text(", ".join(f"{name} {count:,}" for name, count in found.items())))
    if card.channels is not None:
        means, spreads = (" ".join(f"{v:.3f}" for v in values) for values in (card.channels.mean, card.channels.std))
        table.add_row("channels", f"mean {means}, standard deviation {spreads}")
    d = card.duplicates
    table.add_row(
        "copies",
        f"{d.num_exact:,} exact pairs, {d.num_near:,} near; {d.num_crossing:,} across splits, "
        f"{d.num_conflicting:,} with two labels",
    )
    table.add_row("broken", f"{len(card.broken):,}; {len(card.wrong_suffixes):,} with a wrong ending")
    console.print(table)
    for finding in card.findings:
        style = {"leak": "bold red", "error": "bold red", "warning": "yellow"}.get(finding.severity, "dim")
        console.print(Text.assemble((f"{finding.severity:<8}", style), printable(finding.text)), soft_wrap=True)
        shown = finding.examples[:_EXAMPLES] if finding.severity != "note" else ()
        for example in shown:
            console.print(Text(f"          {printable(example)}", style="dim"), soft_wrap=True)
        if shown and len(finding.examples) > len(shown):
            console.print(Text("          .. (more on the page)", style="dim"))
        if finding.remedy:
            console.print(Text(f"        > {printable(finding.remedy)}"), soft_wrap=True)
    if not card.findings:
        console.print(Text("Nothing wrong was found.", style="green"))
    for note in card.notes:
        if note.startswith("Ignored"):
            console.print(Text(f"note     {printable(note)}", style="dim"), soft_wrap=True)
    console.print()
    for what, command in card.commands:
        console.print(Text(f"{what}: {printable(command)}"), soft_wrap=True)
    console.print(Text(f"page      {page}  ({card.seconds:.0f} s)"), soft_wrap=True)


def print_predictions(predictions: Sequence[Prediction], *, as_json: bool, output: str | None) -> None:
    """One line per image: path, then class and probability, tab-separated; or JSON; or a CSV file.

    Of several labels per image the line holds those that are given, ``a;b``, and their probabilities.
    """
    rows: list[dict[str, Any]] = [
        {
            "path": str(p.path),
            "error": p.error,
            **({} if p.labels is None else {"labels": list(p.labels)}),
            "classes": [{"class": n, "probability": q} for n, q in p.classes],
        }
        for p in predictions
    ]
    several = any(p.labels is not None for p in predictions)
    failed = [r for r in rows if r["error"]]
    if output is not None:
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        if several:
            writer.writerow(["image", "label", "probability"])
            writer.writerows([row["path"], *_given(row, 6)] for row in rows if not row["error"])
        else:
            writer.writerow(["image", "rank", "class", "probability"])
        for row in rows if not several else ():
            for rank, c in enumerate(row["classes"], 1):
                writer.writerow([row["path"], rank, c["class"], f"{c['probability']:.6f}"])
        with atomic_file(Path(output), "wb") as file:  # names that are no UTF-8 stay the bytes that they are
            file.write(table.getvalue().encode("utf-8", errors="surrogateescape"))
        print(f"{many(len(rows) - len(failed), 'image')} -> {output}")
    elif as_json:
        is_text = all(row["path"].isprintable() for row in rows)  # bytes that are no UTF-8 are none in JSON either
        print(json.dumps(rows, ensure_ascii=not is_text))
    else:
        for row in rows:
            if not row["error"]:
                cells = [f"{printable(c['class'])}\t{c['probability']:.3f}" for c in row["classes"]]
                if several:
                    cells = [printable(cell) for cell in _given(row, 3)]
                print("\t".join([printable(row["path"]), *cells]))
    for row in failed:
        print(f"error: {printable(row['path'])}: {row['error']}", file=sys.stderr)
    if failed:
        raise SaplingError(f"{len(failed)} of {len(rows)} images could not be read")


def _given(row: Mapping[str, Any], digits: int) -> tuple[str, str]:
    """The labels that are given to an image, and their probabilities, each list in one cell."""
    chosen = row["classes"][: len(row["labels"])]
    return ";".join(c["class"] for c in chosen), ";".join(f"{c['probability']:.{digits}f}" for c in chosen)


def print_cache(entries: Sequence[Entry], folder: Path) -> None:
    """What ``sapling cache list`` prints."""
    from rich.text import Text

    columns = (("name", "left"), ("what", "left"), ("images", "right"), ("px", "right"), ("MB", "right"))
    table = new_table(*columns, ("made", "left"), ("last used", "left"), ("images from", "left"))
    for entry in entries:
        names = (entry.name, _KINDS.get(entry.kind, entry.kind))
        source = "" if entry.source is None else printable(entry.source)
        source += " (gone)" if entry.source_exists is False else ""
        made, used = ((when or "").partition("T")[0] for when in (entry.created, entry.last_used))
        counts = (f"{n:,}" if n is not None else "" for n in (entry.images, entry.pixels))
        table.add_row(*(Text(cell) for cell in (*names, *counts, megabytes(entry.num_bytes), made, used, source)))
    console = open_console()
    if entries:
        console.print(table)
    total = megabytes(sum(entry.num_bytes for entry in entries))
    console.print(Text(f"{len(entries)} in {folder}, {total} MB" if entries else f"nothing is in {folder}"))


def megabytes(count: int) -> str:
    """``12.3`` of a number of bytes."""
    return f"{count / 1e6:,.1f}"
