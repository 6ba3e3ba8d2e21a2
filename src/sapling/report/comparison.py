"""The page of a comparison of runs: one file, no script, no request to any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sapling.errors import UsageError
from sapling.report import wording
from sapling.report.comparison_figures import gains_figure, levels_figure
from sapling.report.details import short_code
from sapling.report.folder import block, listing, number, numbers
from sapling.report.page import page_environment, write_page
from sapling.report.sections import ADVISED_SEEDS

PAGE_FILE = "compare.html"
_OURS = b'name="generator" content="Sapling'
_ADJUSTED = (
    "adjusted for the number of comparisons: of many, one comes out well by luck. What is called better or worse here "
    "holds after this adjustment."
)
_WORDS = (
    ("Control", "the same student, trained in the same way, but without a teacher. It shows what the teacher adds."),
    ("Gain", "a method's students less the control's, seed by seed on the same test images, in points."),
    ("Seed", "one complete repetition. It fixes the first weights and the order of the images."),
    (
        "Interval",
        "where the true difference plausibly lies, of this one comparison; with zero in it none was shown.",
    ),
    (
        "p after Holm",
        f"how often so large a difference would come about by chance, {_ADJUSTED}",
    ),
    ("Can show", "the smallest true difference that so many seeds and test images find four times in five."),
    (
        "Mean rank, P(best)",
        "place among all students when test images and seeds are drawn anew, and how often it is the first. No test.",
    ),
)


def _words(num_seeds: int) -> list[tuple[str, str]]:
    """What the terms mean; one seed cannot be drawn anew."""
    if num_seeds > 1:
        return list(_WORDS)
    return [(term, text.replace("test images and seeds are drawn", "test images are drawn")) for term, text in _WORDS]


def page_path(output: Path) -> Path:
    """Where a page goes: ``output`` itself if it is called ``.html``, else ``compare.html`` in that folder.

    Raises:
        UsageError: it would replace something that is no page of Sapling.
    """
    is_file = output.suffix.lower() in (".html", ".htm") and not output.is_dir()
    if not is_file and output.exists() and not output.is_dir():
        raise UsageError("the output is a file", where=str(output), allowed="a folder, or a file that ends in .html")
    path = output if is_file else output / PAGE_FILE
    if path.is_dir():
        raise UsageError("the output is a folder", where=str(path), allowed="another --output")
    if path.exists():
        with path.open("rb") as file:
            if _OURS not in file.read(4096):
                raise UsageError(
                    "the output exists and is no page of Sapling",
                    where=str(path),
                    remedy="give another --output, or move the file away",
                )
    return path


def write_comparison(path: Path, comparison: Mapping[str, Any]) -> Path:
    """Write the page of a comparison.

    Args:
        path: of the page.
        comparison: :meth:`sapling.workflows.comparison.Comparison.as_dict`.

    Returns:
        ``path``.
    """
    from sapling import __version__

    methods = [m for m in listing(comparison, "methods") if isinstance(m, Mapping)]
    measure = str(comparison["measure"])
    seeds, confidence = listing(comparison, "seeds"), f"{100 * float(comparison['confidence']):.4g}"
    gains = gains_figure(methods)
    content = {
        "version": __version__,
        "name": " · ".join(wording.clean(m["name"]) for m in methods),
        "created": str(comparison.get("created") or "")[:10],
        "headline": _headline(comparison, methods),
        "warnings": _warnings(comparison, methods),
        "gains": gains,
        "gains_note": _gains_note(len(seeds), confidence),
        "measure": wording.MEASURES[measure],
        "rows": _rows(comparison, methods),
        "levels": levels_figure(_arms(comparison, methods), measure),
        "controls": wording.sentence(block(comparison, "controls").get("statement")),
        "between": wording.sentence(comparison.get("between")),
        "pairs": [_pair(p, len(seeds)) for p in listing(comparison, "pairs")],
        "standings": _standings(comparison, methods),
        "costs": _costs(methods),
        "teachers": _teachers(methods),
        "alike": _alike(comparison, methods),
        "runs": [_run(m) for m in methods],
        "confidence": confidence,
        "seeds": wording.plural(len(seeds), "seed"),
        "words": _words(len(seeds)),
        "redrawn": "Test images and seeds" if len(seeds) > 1 else "Test images",
    }
    return write_page(path, page_environment().get_template("comparison.html.j2").render(content))


def outcome_words(outcome: str, num_seeds: int) -> str:
    """An outcome in a table: with one seed students did better, with several methods are better."""
    return f"did {outcome}" if num_seeds == 1 and outcome in ("better", "worse") else outcome


def better_first(
    names: tuple[str, str], found: tuple[float, float, float], outcome: str
) -> tuple[tuple[str, str], tuple[float, float, float], str]:
    """A difference (mean, low, high) of the first name less the second, turned so that the better one stands first."""
    mean, low, high = found
    if mean >= 0:
        return names, found, outcome
    return (names[1], names[0]), (-mean, -high, -low), "better" if outcome == "worse" else outcome


def _headline(comparison: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    found = {str(m.get("outcome")) for m in methods}
    is_mixed = {"better", "worse"} <= found
    symbol = "level" if is_mixed else "up" if "better" in found else "down" if "worse" in found else "level"
    badges = {"up": "Better than the control", "down": "Worse than the control", "level": "No difference shown"}
    badge = "Some better, some worse" if is_mixed else badges[symbol]
    num_seeds = len(listing(comparison, "seeds"))
    if num_seeds == 1:  # no method is called better or worse for it
        symbol, badge = "level", "One seed: these students only"
    elif num_seeds < ADVISED_SEEDS:
        badge += ", preliminary"
    text, _, rest = wording.sentence(comparison.get("statement")).rpartition(" (")
    return {
        "symbol": symbol,
        "badge": badge,
        "text": f"{text}.",
        "rest": rest.removesuffix(".").removesuffix(")"),
        "lead": wording.sentence(comparison.get("between")),
        "scope": wording.sentence(comparison.get("scope")),
    }


def _warnings(comparison: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs although it should not, and was allowed; then what else a reader must know."""
    labels = [wording.clean(m["name"]) for m in methods]
    found = []
    for entry in listing(comparison, "allowed"):
        by_value: dict[str, list[str]] = {}
        for value, label in zip(listing(entry, "values"), labels, strict=True):
            by_value.setdefault(wording.clean(value), []).append(label)
        values = "; ".join(f"{value} in {', '.join(names)}" for value, names in by_value.items())
        found.append(f"Not alike, and allowed (--allow {entry['kind']}): {wording.clean(entry['name'])} is {values}.")
    if any(entry["kind"] != "seeds" for entry in listing(comparison, "allowed")):
        found.append("What methods are worth cannot be told apart from these differences.")
    if not block(comparison, "controls").get("are_one"):
        found.append(wording.sentence(block(comparison, "controls").get("statement")))
    return found + [wording.sentence(note) for note in listing(comparison, "notes")]


def _gains_note(num_seeds: int, confidence: str) -> str:
    mean = f"The diamond is the mean, the bar its {confidence}\u202f% interval" if num_seeds > 1 else (
        f"The diamond is the difference of these students, the bar its {confidence}\u202f% interval"
    )  # fmt: skip
    dots = "; below it a dot for each seed. " if num_seeds > 1 else ". "
    return f"{mean}{dots}Blue is better and orange worse after Holm; the colour of the text shows no difference."


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    return f"± {100 * float(np.std(values, ddof=1)):.1f} over seeds"


def _rows(comparison: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Control and methods: level, gain, p after Holm, verdict."""
    rows = []
    alone = numbers(block(comparison, "controls").get("scores"))
    if alone:
        rows.append({"name": "Control", "tone": "control", "level": _level(alone), "spread": _spread(alone)})
    for method in methods:
        scores, verdict = numbers(method.get("scores")), block(method, "verdict")
        row = {
            "name": wording.clean(method["name"]),
            "tone": "method",
            "level": _level(scores),
            "spread": _spread(scores),
            "gain": wording.signed(number(verdict.get("difference"))),
            "interval": wording.between(number(verdict.get("low")), number(verdict.get("high"))),
            "p": _p_value(method.get("p_adjusted")),
            "outcome": outcome_words(str(method.get("outcome")), len(listing(comparison, "seeds"))),
            "by_itself": str(verdict.get("outcome")) if verdict.get("outcome") != method.get("outcome") else "",
            "can_show": wording.limit(number(block(verdict, "detectable").get("now"))),
        }
        if not alone:
            row["alone"] = _level(numbers(method.get("control_scores")))
        rows.append(row)
    return rows


def _level(scores: Sequence[float]) -> str:
    return wording.share(float(np.mean(scores))) if scores else wording.MISSING


def _p_value(value: Any) -> str:
    found = number(value)
    if found is None:
        return wording.MISSING
    return "< 0.001" if found < 0.001 else f"{found:.3f}"


def _arms(
    comparison: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, Sequence[float]]]:
    alone = numbers(block(comparison, "controls").get("scores"))
    arms: list[tuple[str, str, Sequence[float]]] = [("Control", "control", alone)] if alone else []
    return [*arms, *((str(m["name"]), "method", numbers(m.get("scores"))) for m in methods)]


def _pair(pair: Mapping[str, Any], num_seeds: int) -> dict[str, str]:
    """A pair, the better one first."""
    verdict = block(pair, "verdict")
    names = wording.clean(pair["second"]), wording.clean(pair["first"])
    mean, low, high = (number(verdict.get(k)) for k in ("difference", "low", "high"))
    outcome = str(pair.get("outcome"))
    if mean is not None and low is not None and high is not None:
        names, (mean, low, high), outcome = better_first(names, (mean, low, high), outcome)
    return {
        "first": names[0],
        "second": names[1],
        "gain": wording.signed(mean),
        "interval": wording.between(low, high),
        "p": _p_value(pair.get("p_adjusted")),
        "outcome": outcome_words(outcome, num_seeds),
        "by_itself": "" if verdict.get("outcome") == pair.get("outcome") else "better",
    }


def _standings(comparison: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Mean rank and P(best) of every student, the best first."""
    entries = [(wording.clean(m["name"]), "method", block(m, "standing")) for m in methods]
    if alone := block(comparison, "control_standing"):
        entries.append(("Control", "control", alone))
    entries.sort(key=lambda entry: number(entry[2].get("mean_rank")) or 0.0)
    return [
        {
            "name": name,
            "tone": tone,
            "rank": wording.plain(number(s.get("mean_rank")), 1),
            "span": f"{number(s.get('low')) or 0:g} to {number(s.get('high')) or 0:g}",
            "best": wording.share(number(s.get("best")), 0),
        }
        for name, tone, s in entries
    ]


def _costs(methods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a student of each method costs to train and to run."""
    columns = (
        ("One student", "training, mean over seeds", "student_seconds", wording.duration),
        ("One control", "training, mean over seeds", "control_seconds", wording.duration),
        ("Before students", "once for all seeds", "phase_seconds", wording.duration),
        ("Teacher", "what this run spent on it: training and answers", "teacher_seconds", wording.duration),
        ("Parameters", "", "parameters", wording.amount),
        ("MACs", "for one image", "macs", wording.amount),
        ("One image", "half of the calls", "latency_ms", wording.milliseconds),
    )
    kept = [c for c in columns if any(number(m.get(c[2])) is not None for m in methods)]
    rows = []
    for method in methods:
        cells = []
        for _, _, key, show in kept:
            note = str(method.get("latency_of") or "") if key == "latency_ms" else ""
            cells.append({"value": show(number(method.get(key))), "note": note})
        rows.append({"name": wording.clean(method["name"]), "cells": cells})
    return {"columns": [{"name": name, "note": note} for name, note, _, _ in kept], "rows": rows}


def _teachers(methods: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each teacher once, with the methods that learned from it."""
    found: dict[str, dict[str, Any]] = {}
    for method in methods:
        card = block(method, "teacher")
        if card.get("taught") is False:
            continue
        entry = found.setdefault(str(card.get("sha256")), {"card": card, "methods": []})
        entry["methods"].append(wording.clean(method["name"]))
    return [
        {
            "name": wording.model_name(entry["card"].get("model")),
            "code": short_code(code),
            "score": wording.share(number(entry["card"].get("score"))),
            "gate": "passed" if entry["card"].get("gate") is True else "not passed",
            "methods": ", ".join(entry["methods"]),
        }
        for code, entry in found.items()
    ]


def _alike(comparison: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What all runs have in common, and was checked."""
    allowed = {str(inner.get("kind")) for inner in listing(comparison, "allowed") if isinstance(inner, Mapping)}
    split, data = block(comparison, "split"), block(comparison, "data")
    images = number(comparison.get("num_images"))
    groups = number(comparison.get("num_groups"))
    test = f"{wording.count(images)} in the same order"
    if groups != images:
        test += f", in {wording.count(groups)} groups"
    rows = [
        ("Test images", test),
        ("Split, fingerprint", short_code(split.get("fingerprint"))),
        ("Data", f"{wording.clean(data.get('source') or '')} {short_code(data.get('fingerprint'))}"),
        ("Seeds that are compared", ", ".join(map(wording.clean, listing(comparison, "seeds")))),
        ("Student", wording.clean(comparison.get("student"))),
        ("Controls", wording.sentence(block(comparison, "controls").get("statement"))),
    ]
    checked = {
        "budget": "epochs, steps, batches, optimiser, schedule, precision, tuning trials",
        "recipe": "views, mixing of images, bands, treatment of rare classes",
        "teacher": "weights (sha256), and how it answers",
    }
    rows += [
        (f"{kind.capitalize()}", "not alike: see the top of this page" if kind in allowed else f"the same: {what}")
        for kind, what in checked.items()
    ]
    counted = "Holm counts all runs that were handed to sapling compare; runs that were left out are not counted"
    rows.append(("Comparisons", f"each of the {len(methods)} methods with its control. {counted}"))
    return rows


def _run(method: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": wording.clean(method["name"]),
        "folder": wording.clean(method.get("folder")),
        "settings": wording.clean(method.get("settings") or ""),
        "command": wording.clean(method.get("command") or ""),
    }
