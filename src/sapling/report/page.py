"""Put the page together and write it: one file, no script, no request to any network."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import jinja2

from sapling.errors import RunError
from sapling.report import class_figures, class_intervals, details, figures, reliability, sections, wording
from sapling.report.confined import refuse_output
from sapling.report.diagnosis import diagnosis_section
from sapling.report.efficiency import efficiency_section
from sapling.report.folder import number, read_run
from sapling.report.gallery import gallery_section
from sapling.report.levels import level_table
from sapling.report.phases import phase_section
from sapling.report.roc import roc_section
from sapling.report.summary import Summary, class_table, confusion_changes, metric_rows, summarise
from sapling.report.svg import Drawing
from sapling.report.unfinished import unfinished

OPEN_CLASSES = 12  # up to here the table of classes is shown open


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` and ``figures/*.svg`` of a run.

    Args:
        run_folder: a run folder, finished or not; what is missing is named on the page.

    Returns:
        Path of ``report.html``.

    Raises:
        RunError: there is no run, one of its files is damaged, or a link is in the way.
    """
    folder = Path(run_folder)
    record = read_run(folder)
    try:
        content, drawings = _content(summarise(record))
    except (ArithmeticError, RecursionError, ValueError) as error:
        raise RunError(
            f"results.json holds what no run writes ({type(error).__name__})",
            where=str(folder),
            remedy="repeat the command of the run",
        ) from None
    names = [("figures", f"{drawing.name}.svg") for drawing in drawings]
    for name in (*names, ("report.html",)):
        refuse_output(folder, *name)
    for name, drawing in zip(names, drawings, strict=True):
        write_page(folder.joinpath(*name), drawing.file)
    page = page_environment().get_template("report.html.j2").render(content)
    return write_page(folder / "report.html", page)


def _content(summary: Summary) -> tuple[dict[str, Any], list[Drawing]]:
    """Everything the template shows, and the drawings among it."""
    drawings: list[Drawing] = []

    def keep(drawing: Drawing | None) -> Drawing | None:
        if drawing:
            drawings.append(drawing)
        return drawing

    record, results, table = summary.record, summary.results, class_table(summary)
    curves = [(title, keep(drawing), note) for title, drawing, note in figures.curve_figures(summary)]
    if pulls := keep(figures.pull_figure(summary)):
        curves.append(("How strongly each term pulls", pulls, figures.PULL_NOTE))
    classes = None
    if table:
        classes = sections.class_section(table)
        classes["drawing"] = keep(class_figures.class_gain_figure(table))
        classes["intervals"] = spans = class_intervals.class_interval_section(summary)
        if spans:
            keep(spans["drawing"])
        classes["profile"] = None if spans else keep(class_figures.class_profile_figure(table))
        classes["open"] = len(table.names) <= OPEN_CLASSES
    confusion = _confusion(summary)
    calibration, before = reliability.reliability_section(summary), phase_section(summary)
    roc = roc_section(summary)
    drawings += [roc["drawing"]] if roc else []
    drawings += [c["drawing"] for c in confusion["matrices"]] if confusion else []
    drawings += [f["drawing"] for part in (calibration, before) if part for f in part["figures"]]
    content = {
        "name": wording.clean(results.get("name") or record.folder.resolve().name),
        "created": str(results.get("finished") or results.get("created") or "")[:10],
        "version": wording.clean(results["sapling_version"]) if results.get("sapling_version") else "",
        "headline": sections.headline(summary),
        "unfinished": unfinished(record),
        "warnings": sections.warnings_of(summary),
        "missing": record.missing,
        "facts": sections.key_facts(summary),
        "columns": summary.columns,
        "rows": metric_rows(summary),
        "measured_on": sections.measured_on(summary),
        "comparison": summary.is_comparison,
        "several_seeds": len(summary.seeds) > 1,
        "confidence": f"{100 * (number(summary.verdict.get('confidence')) or 0.95):.0f}",
        "gain": keep(figures.gain_figure(summary.verdict, summary.seeds)),
        "standing": keep(figures.standing_figure(summary)),
        "standing_note": sections.standing(summary),
        "certainty": sections.certainty(summary),
        "diagnosis": diagnosis_section(summary),
        "curves": curves,
        "before": before,
        "classes": classes,
        "confusion": confusion,
        "roc": roc,
        "calibration": calibration,
        "pictures": gallery_section(summary),
        "efficiency": efficiency_section(summary),
        "levels": level_table(summary),
        "gate": sections.gate_section(summary),
        "data": details.data_section(summary),
        "balance": details.balance(table),
        "deploy": details.deploy_section(summary),
        "cost": details.cost_section(summary),
        "fairness": details.fairness(summary),
        "settings": details.setting_rows(summary),
        "environment": details.environment_rows(record),
        "commands": details.commands(summary),
        "config": details.config_text(record),
        "glossary": wording.GLOSSARY,
        "measure": wording.MEASURES[summary.measure],
    }
    return content, drawings


def _confusion(summary: Summary) -> dict[str, Any] | None:
    """Confusion matrices of teacher, control, distilled student and what changed; or of the one model."""
    size = len(summary.classes)
    if not size >= 2:
        return None
    matrices = []
    shares = {}
    for arm in [a for a in (summary.teacher, summary.control, summary.method, summary.model) if a is not None]:
        shares[arm.key] = arm.confusion(size)
        found = shares[arm.key]
        if found is not None:
            drawing = class_figures.confusion_figure(
                found,
                summary.classes,
                name=f"confusion_{wording.file_stem(arm.key)}",
                title=arm.name,
            )
            matrices.append({"title": arm.name, "drawing": drawing, "note": ""})
    if not matrices:
        return None
    control = shares.get("control")
    method = shares.get(summary.method.key) if summary.method else None
    changes: list[dict[str, Any]] = []
    if control is not None and method is not None:
        drawing, largest = class_figures.difference_figure(control, method, summary.classes)
        note = (
            "Blue is better: more right answers on the diagonal, fewer mix-ups beside it. Orange is worse. "
            f"The strongest tint is {largest:.1f} points."
        )
        matrices.append({"title": "What distillation changed", "drawing": drawing, "note": note})
        changes = confusion_changes(control, method, summary.classes)
    return {"matrices": matrices, "changes": changes, "numbered": size > class_figures.MAX_NAMED}


@functools.cache
def page_environment() -> jinja2.Environment:
    """Templates that escape whatever is put into them; one process compiles each once."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sapling.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(path: Path, text: str) -> Path:
    """Write under a temporary name and rename, so that a killed process leaves no half page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
