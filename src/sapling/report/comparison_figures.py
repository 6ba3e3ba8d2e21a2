"""Figures of a comparison of runs: what each method gained, and where its students stand, every seed a dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sapling.report import wording
from sapling.report.folder import block, number, numbers
from sapling.report.svg import COLOURS, SMALL, WIDTH, Drawing, new_figure, render, settings

_LEFT, _RIGHT, _ROW = 112, 16, 44
_NAME = 14  # letters
_TONES = {"better": "method", "worse": "control"}


def gains_figure(methods: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Each method's difference to its control: a dot per seed, the mean with its interval."""
    rows = []
    for method in methods:
        verdict = block(method, "verdict")
        span = [number(verdict.get(key)) for key in ("difference", "low", "high")]
        if None not in span:
            dots = [100 * v for v in numbers(verdict.get("seed_differences"))]
            rows.append((method, [100 * float(v) for v in span if v is not None], dots))
    if not rows:
        return None
    with settings():
        figure, axes, height, names = _rows_of([str(m["name"]) for m, _, _ in rows], top=34)
        edge = 1.1 * max(0.5, *(abs(v) for _, span, dots in rows for v in (*span, *dots)))
        axes.set_xlim(-edge, edge)
        axes.axvline(0, color=COLOURS["muted"], linewidth=1.2)
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], symmetric=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+g}".replace("-", "\u2212") if v else "0"))
        for place, (method, (mean, low, high), dots) in enumerate(rows):
            colour = COLOURS[_TONES.get(str(method.get("outcome")), "ink")]
            axes.plot([low, high], [place - 0.12] * 2, color=colour, linewidth=2.4, solid_capstyle="round")
            axes.plot([mean], [place - 0.12], "D", color=colour, markersize=8)
            if len(dots) > 1:
                axes.plot(
                    dots, [place + 0.22] * len(dots), "o", color=colour, markersize=5.5, alpha=0.5, markeredgewidth=0
                )
        for x, side, text, tone in (
            (_LEFT / WIDTH, "left", "← control is better", "control"),
            (1 - _RIGHT / WIDTH, "right", "method is better →", "method"),
        ):
            figure.text(x, 1 - 10 / height, text, ha=side, va="center", fontsize=SMALL, color=COLOURS[tone])
        _below(figure, height, "percentage points")
        said = "; ".join(
            f"{wording.clean(m['name'])} {mean:+.1f} points, interval {low:+.1f} to {high:+.1f}"
            for m, (mean, low, high), _ in rows
        )
        return render(figure, "gains", f"Difference of each method to its control: {said}.", names)


def levels_figure(arms: Sequence[tuple[str, str, Sequence[float]]], measure: str) -> Drawing | None:
    """Where students stand: ``arms`` holds name, colour and the measure of each seed."""
    rows = [(name, tone, [100 * v for v in values]) for name, tone, values in arms if values]
    if not rows:
        return None
    everything = [v for _, _, values in rows for v in values]
    low, high = min(everything), max(everything)
    margin = max(0.12 * (high - low), 0.6)
    with settings():
        figure, axes, height, names = _rows_of([name for name, _, _ in rows], top=10, right=66)
        axes.set_xlim(max(low - margin, -1), min(high + margin, 101))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        for place, (_, tone, values) in enumerate(rows):
            colour, mean = COLOURS[tone], float(np.mean(values))
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=6, alpha=0.45, markeredgewidth=0)
            axes.plot([mean, mean], [place - 0.24, place + 0.24], color=colour, linewidth=3, solid_capstyle="round")
            axes.text(
                1.03, place, f"{mean:.1f}\u202f%", transform=axes.get_yaxis_transform(), va="center", color=colour
            )
        title = wording.MEASURES[measure]
        _below(figure, height, f"{title} on test images, per cent")
        said = "; ".join(f"{wording.clean(name)} {np.mean(values):.1f} per cent" for name, _, values in rows)
        return render(figure, "levels", f"Mean {title}: {said}.", names)


def _rows_of(names: Sequence[str], *, top: float, right: float = _RIGHT) -> tuple[Figure, Axes, float, dict[str, str]]:
    """A figure with a named row for each, the first on top; with its height and what is shown of each name."""
    height = top + _ROW * len(names) + 42
    figure = new_figure(height)
    axes = figure.add_axes((_LEFT / WIDTH, 42 / height, 1 - (_LEFT + right) / WIDTH, 1 - (top + 42) / height))
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=COLOURS["grid"], linewidth=1)
    short = wording.short_names(names, _NAME)
    axes.set_yticks(range(len(names)), [short[wording.clean(n)] for n in names], parse_math=False, color=COLOURS["ink"])
    return figure, axes, height, short


def _below(figure: Figure, height: float, text: str) -> None:
    middle = (_LEFT + WIDTH - _RIGHT) / 2 / WIDTH
    figure.text(middle, 6 / height, text, ha="center", fontsize=SMALL, color=COLOURS["muted"])
