"""The figures of the page: what the teacher added, seed by seed, how training went, and how each term pulled at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sapling.report import wording
from sapling.report.folder import block, number, numbers
from sapling.report.summary import Arm, Summary, is_teacher
from sapling.report.svg import COLOURS, SMALL, WIDTH, Drawing, new_figure, render, settings

WILD, FEWEST_VALUES = 15, 12  # per cent of the values that may leave a chart, where there are so many
MAX_POINTS = 240  # of a curve; more cannot be told apart at this width


def gain_figure(verdict: dict[str, Any], seeds: Sequence[Any]) -> Drawing | None:
    """One dot per seed, and the mean with its interval, on a line of percentage points."""
    mean, low, high = (number(verdict.get(k)) for k in ("difference", "low", "high"))
    dots = [100 * v for v in numbers(verdict.get("seed_differences"))]
    if mean is None or low is None or high is None:
        return None
    mean, low, high = 100 * mean, 100 * low, 100 * high
    rows = len(dots) if len(dots) > 1 else 0
    row = 22 if rows <= 12 else 264 / rows
    height = 76 + rows * row + 30
    edge = max(abs(v) for v in (*dots, low, high, 0.5)) * 1.15
    with settings():
        figure = new_figure(height)
        axes = figure.add_axes((84 / WIDTH, 40 / height, 1 - 104 / WIDTH, 1 - 62 / height))
        bottom = -1.7
        axes.set_xlim(-edge, edge)
        axes.set_ylim(bottom, max(rows - 0.3, 0.5))
        _bare(axes)
        axes.grid(axis="x", color=COLOURS["grid"], linewidth=1)
        axes.axvline(0, color=COLOURS["muted"], linewidth=1.2)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], symmetric=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+g}".replace("-", "\u2212") if v else "0"))
        for place, dot in enumerate(dots[::-1] if rows else ()):
            axes.plot([dot], [place], "o", color=COLOURS["method"], markersize=7 if row > 14 else 4, alpha=0.9)
        axes.plot([low, high], [-1, -1], color=COLOURS["ink"], linewidth=2.4, solid_capstyle="round", clip_on=False)
        axes.plot([mean], [-1], "D", color=COLOURS["ink"], markersize=8)
        labels = [f"seed {s}" for s in list(seeds)[: len(dots)]] if rows else []
        step = 1 if row > 13 else int(np.ceil(13 / row))
        shown = [(place, label) for place, label in enumerate(labels[::-1]) if place % step == 0]
        axes.set_yticks(
            [-1, *(p for p, _ in shown)], ["mean" if rows else "difference", *(s for _, s in shown)], parse_math=False
        )
        top = 1 - 12 / height
        left, right = 84 / WIDTH, 1 - 20 / WIDTH
        figure.text(left, top, "← control is better", ha="left", va="center", fontsize=SMALL, color=COLOURS["control"])
        figure.text(
            right, top, "distilled is better →", ha="right", va="center", fontsize=SMALL, color=COLOURS["method"]
        )
        figure.text(
            (left + right) / 2, 6 / height, "percentage points", ha="center", fontsize=SMALL, color=COLOURS["muted"]
        )
        description = (
            f"Difference distilled minus control: {mean:+.1f} points, interval {low:+.1f} to {high:+.1f}; "
            f"by seed: {', '.join(f'{d:+.1f}' for d in dots)}."
        )
        return render(figure, "gain", description)


def standing_figure(summary: Summary) -> Drawing | None:
    """Where teacher, control and distilled student stand: every seed a mark, on one scale of the measure."""
    rows = [(a, [100 * v for v in a.values(summary.measure)]) for a in summary.columns]
    rows = [(a, v) for a, v in rows if v]
    if len(rows) < 2:
        return None
    everything = [v for _, values in rows for v in values]
    low, high = min(everything), max(everything)
    margin = max(0.12 * (high - low), 0.6)
    height = 36 * len(rows) + 44
    with settings():
        figure = new_figure(height)
        axes = figure.add_axes((84 / WIDTH, 40 / height, 1 - 150 / WIDTH, 1 - 44 / height))
        axes.set_xlim(max(low - margin, -1), min(high + margin, 101))
        axes.set_ylim(len(rows) - 0.45, -0.55)
        _bare(axes)
        axes.grid(axis="x", color=COLOURS["grid"], linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        for place, (arm, values) in enumerate(rows):
            colour, mean = COLOURS.get(arm.colour, COLOURS["ink"]), float(np.mean(values))
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=6, alpha=0.45, markeredgewidth=0)
            axes.plot([mean, mean], [place - 0.24, place + 0.24], color=colour, linewidth=3, solid_capstyle="round")
            axes.text(
                1.03, place, f"{mean:.1f}\u202f%", transform=axes.get_yaxis_transform(), va="center", color=colour
            )
        names = wording.short_names((a.name for a, _ in rows), 11)
        labels = [names[wording.clean(a.name)] for a, _ in rows]
        axes.set_yticks(range(len(rows)), labels, parse_math=False, color=COLOURS["ink"])
        label = f"{wording.MEASURES[summary.measure]} on test images, per cent"
        figure.text(0.5, 6 / height, label, ha="center", fontsize=SMALL, color=COLOURS["muted"])
        listed = "; ".join(f"{wording.clean(a.name)} {np.mean(v):.1f} per cent" for a, v in rows)
        return render(figure, "standing", f"Mean {wording.MEASURES[summary.measure]}: {listed}.", names)


@dataclass(frozen=True, slots=True)
class Curve:
    """One arm in one panel: ``lines`` are the seeds, as (epochs, values)."""

    name: str
    colour: str
    lines: list[tuple[list[int], list[float]]]


def curve_figures(summary: Summary) -> list[tuple[str, Drawing, str]]:
    """Title, drawing and caption of every learning curve: validation accuracy and loss, then each term."""
    arms = _arms_of_history(summary)
    history = _of_students(summary)
    if not history:
        history = summary.record.history
    val_keys = [
        k for k in ("map", "top1", "nll", "bce") if any(number(block(e, "val").get(k)) is not None for e in history)
    ]
    terms = list(dict.fromkeys(k for e in history for k in block(e, "train") if not k.startswith("_")))
    # The sum adds other terms in each arm, so it compares nothing; it is shown only where it is all there is.
    terms = [t for t in terms if t != "loss"] or terms
    titles = {
        "map": "Mean average precision on validation images, per cent",
        "top1": "Accuracy on validation images, per cent",
        "nll": "NLL on validation images",
        "bce": "BCE on validation images",
    }
    panels = [("val", k, titles[k]) for k in val_keys]
    panels += [("train", k, _term_title(k)) for k in terms]
    found = []
    for part, key, title in panels:
        curves = _collect(history, arms, part, key)
        if curves:
            found.append((title, *_curve_figure(curves, summary, part, key, title)))
    return found


def _curve_figure(curves: list[Curve], summary: Summary, part: str, key: str, title: str) -> tuple[Drawing, str]:
    percent = key in ("top1", "map")
    factor = 100.0 if percent else 1.0
    height = 232.0
    with settings():
        figure = new_figure(height)
        axes = figure.add_axes((44 / WIDTH, 42 / height, 1 - 128 / WIDTH, 1 - 54 / height))
        _bare(axes)
        axes.grid(axis="y", color=COLOURS["grid"], linewidth=1)
        ends: list[tuple[float, str, str]] = []
        for curve in curves:
            colour = COLOURS.get(curve.colour, COLOURS["ink"])
            for epochs, values in curve.lines:
                x, y = _thin(epochs, [factor * v for v in values])
                several = len(curve.lines) > 1
                axes.plot(x, y, color=colour, linewidth=1 if several else 2, alpha=0.4 if several else 1)
            x, y = _thin(*_mean_line(curve.lines))
            y = [factor * v for v in y]
            if len(curve.lines) > 1:
                (line,) = axes.plot(x, y, color=colour, linewidth=2.2)
                if curve.colour == "control":
                    line.set_dashes((4, 1.5))
            if len(x) == 1:
                axes.plot(x, y, "o", color=colour, markersize=6)
            ends.append((y[-1], curve.name, colour))
        card = summary.teacher.members[0] if summary.teacher else {}
        teacher = number(block(card, "val").get(key)) if part == "val" else None
        if teacher is not None:
            axes.axhline(factor * teacher, color=COLOURS["teacher"], linewidth=1.4, linestyle=(0, (1, 2)))
            ends.append((factor * teacher, "teacher", COLOURS["teacher"]))
        note = _limit(axes, curves, factor, None if teacher is None else factor * teacher, low_is_wild=percent)
        names = _end_labels(axes, ends)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.4g}".replace("-", "\u2212")))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        middle = (44 + WIDTH - 84) / 2 / WIDTH
        figure.text(middle, 8 / height, "epoch", ha="center", fontsize=SMALL, color=COLOURS["muted"])
        last = "; ".join(f"{name} {value:.4g}" for value, name, _ in ends)
        description = f"{title} by epoch. Last values: {last}. {note}".rstrip()
        return render(figure, f"curve_{part}_{wording.file_stem(key)}", description, names), note


PULL_COLOURS = ("method", "method2", "method3", "method4", "leaf", "ink")
PULL_NOTE = (
    "Length of the gradient of each weighted term on all weights of the student, where it was measured, on a scale of "
    "powers of ten. A term far below the others hardly counts; one far above drowns them. Dashed: the control."
)


def pull_figure(summary: Summary) -> Drawing | None:
    """How strongly each weighted term pulled at the students, by epoch, on one scale of tenfolds; mean over seeds."""
    arms = _arms_of_history(summary)
    history = _of_students(summary)
    terms = dict.fromkeys(k for e in history for k in block(e, "gradients") if k not in ("steps", "total"))
    colours = {term: COLOURS[PULL_COLOURS[min(i, len(PULL_COLOURS) - 1)]] for i, term in enumerate(terms)}
    lines: list[tuple[str, str, bool, list[int], list[float]]] = []
    for term in terms:
        for curve in _collect(history, arms, "gradients", term):
            epochs, norms = _thin(*_mean_line(curve.lines))
            points = [(epoch, float(np.log10(norm))) for epoch, norm in zip(epochs, norms, strict=True) if norm > 0]
            if points:
                alone = curve.colour == "control"
                name, colour = (f"{term} alone", COLOURS["control"]) if alone else (term, colours[term])
                lines.append((name, colour, alone, *map(list, zip(*points, strict=True))))  # type: ignore[arg-type]
    if not lines:
        return None
    height = 232.0
    with settings():
        figure = new_figure(height)
        axes = figure.add_axes((52 / WIDTH, 42 / height, 1 - 136 / WIDTH, 1 - 54 / height))
        _bare(axes)
        axes.grid(axis="y", color=COLOURS["grid"], linewidth=1)
        for _, colour, alone, x, y in lines:
            (line,) = axes.plot(x, y, color=colour, linewidth=2.2, marker="o" if len(x) == 1 else None, markersize=6)
            if alone:
                line.set_dashes((4, 1.5))
        values = [v for *_, y in lines for v in y]
        low, high = np.floor(min(values)), max(np.ceil(max(values)), np.floor(min(values)) + 1)
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{10.0**v:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        names = _end_labels(axes, [(y[-1], name, colour) for name, colour, _, _, y in lines])
        middle = (52 + WIDTH - 84) / 2 / WIDTH
        figure.text(middle, 8 / height, "epoch", ha="center", fontsize=SMALL, color=COLOURS["muted"])
        last = "; ".join(f"{name} {10 ** y[-1]:.3g}" for name, _, _, _, y in lines)
        description = f"Norm of the gradient of each weighted term by epoch. Last values: {last}."
        return render(figure, "pulls", description, names)


def _term_title(term: str) -> str:
    origin = {"ce": ", from the labels", "bce": ", from the labels", "loss": ""}.get(term, ", from the teacher")
    return f"Training term “{wording.clean(term)}”{origin}"


def _bare(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)


def _limit(axes: Axes, curves: list[Curve], factor: float, teacher: float | None, *, low_is_wild: bool) -> str:
    """Leave out a few wild values that would flatten all others: mark where they leave the chart, and say so."""
    points = [(c.colour, e, factor * v) for c in curves for line in c.lines for e, v in zip(*line, strict=True)]
    side = -1.0 if low_is_wild else 1.0  # seen from here the wild values are the large ones
    values = side * np.array([v for *_, v in points])
    good, wild = float(values.min()), float(values.max())
    most = float(np.percentile(values, 100 - WILD)) - good
    if len(values) >= FEWEST_VALUES and wild - good > 2 * most > 0:
        wild = good + 1.25 * most
    ends = [side * good, side * wild, *([] if teacher is None else [teacher])]
    low, high = min(ends), max(ends)
    margin = max(0.05 * (high - low), 1e-6 * max(abs(high), 1.0))
    axes.set_ylim(low - margin, high + margin)
    out = [p for p in points if not low - margin <= p[2] <= high + margin]
    if not out:
        return ""
    edge, sign, marker = (low - margin, "▼", "v") if low_is_wild else (high + margin, "▲", "^")
    peaks = {colour: epoch for colour, epoch, _ in sorted(out, key=lambda p: side * p[2])}
    for colour, epoch in peaks.items():
        ink = COLOURS.get(colour, COLOURS["ink"])
        axes.plot([epoch], [edge], marker, color=ink, markersize=7, markeredgewidth=0, clip_on=False)
    epochs, furthest = sorted({e for _, e, _ in out}), max(out, key=lambda p: side * p[2])[2]
    when = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
    shown = f"{furthest:.3g}".replace("-", "\u2212")
    return f"{sign} leaves the chart, in {when}, as far as {shown}: so that the end of the curves can be read."


def _end_labels(axes: Axes, ends: list[tuple[float, str, str]]) -> dict[str, str]:
    """Names at the right end of the lines, pushed apart where they would cover each other; gives what is shown."""
    short = wording.short_names((name for _, name, _ in ends), 11)
    bottom, top = axes.get_ylim()
    gap = 0.085 * (top - bottom)
    places = sorted(((min(max(v, bottom), top), n, c) for v, n, c in ends), key=lambda e: e[0])
    heights: list[float] = []
    for value, _, _ in places:
        heights.append(max(value, heights[-1] + gap) if heights else value)
    over = max(heights[-1] - top, 0.0) if heights else 0.0
    for (_, name, colour), height in zip(places, heights, strict=True):
        axes.text(
            1.025,
            height - over,
            short[wording.clean(name)],
            transform=axes.get_yaxis_transform(),
            color=colour,
            va="center",
            fontsize=12,
            parse_math=False,
        )
    return short


def _collect(history: list[dict[str, Any]], arms: dict[str, Arm], part: str, key: str) -> list[Curve]:
    lines: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for entry in sorted(history, key=lambda e: int(e["epoch"])):
        value = number(block(entry, part).get(key))
        if value is None:
            continue
        member = str(entry.get("member"))
        arm = arms[member].key if member in arms else member
        epochs, values = lines.setdefault(arm, {}).setdefault(f"{_pass(entry)}/{member}", ([], []))
        epochs.append(int(entry["epoch"]) + 1)
        values.append(value)
    by_key = {a.key: a for a in arms.values()}
    return [
        Curve(_short(by_key.get(k), k), by_key[k].colour if k in by_key else "ink", list(v.values()))
        for k, v in sorted(lines.items(), key=lambda item: item[0] != "control")
    ]


def _short(arm: Arm | None, key: str) -> str:
    return (arm.name if arm and not arm.name.startswith("Distilled (") else key).lower()


def _arms_of_history(summary: Summary) -> dict[str, Arm]:
    """Arm of every member; for an unfinished run read off the member's name (``kd-s0``)."""
    known = {str(m.get("name")): a for a in summary.students for m in a.members}
    made: dict[str, Arm] = {}
    for name in {str(e.get("member")) for e in summary.record.history} - set(known):
        key = name.rsplit("-s", 1)[0]
        colour = "control" if key == "control" else "teacher" if is_teacher(key) else "method"
        made.setdefault(key, Arm(key, wording.arm_name(key), colour))
        known[name] = made[key]
    return known


def _mean_line(lines: list[tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    """Mean over the seeds, as far as all of them came."""
    maps = [dict(zip(*line, strict=True)) for line in lines]
    common = sorted(set.intersection(*(set(m) for m in maps)))
    if not common:
        return lines[0]
    return common, [float(np.mean([m[e] for m in maps])) for e in common]


def _thin(x: list[int], y: list[float]) -> tuple[list[int], list[float]]:
    if len(x) <= MAX_POINTS:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).round().astype(int))
    return [x[i] for i in keep], [y[i] for i in keep]


def _of_students(summary: Summary) -> list[dict[str, Any]]:
    return [e for e in summary.record.history if not is_teacher(_pass(e))]


def _pass(entry: dict[str, Any]) -> str:
    return str(entry.get("pass"))
