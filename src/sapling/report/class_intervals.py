"""The gain of each class with its interval: a row for each of a few classes, one profile of many."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sapling.report import wording
from sapling.report.folder import block, listing, number
from sapling.report.summary import Floats, Summary
from sapling.report.svg import COLOURS, SMALL, WIDTH, Drawing, new_figure, render, settings

MAX_ROWS = 30  # classes with a row of their own
ENDS = 3  # best and worst named where there are more


def class_gains(summary: Summary) -> Floats | None:
    """``[K,3]``: gain of each class and its interval, NaN where unknown; None for runs without them."""
    entries = listing(summary.results, "comparison", "classes")
    if not entries or len(entries) != len(summary.classes):
        return None
    rows = [[number(block(e).get(key)) for key in ("difference", "low", "high")] for e in entries]
    values = np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64)
    values[~np.isfinite(values).all(1)] = np.nan
    values = np.clip(values, -1.0, 1.0)
    return values if np.isfinite(values).any() else None


def class_interval_section(summary: Summary) -> dict[str, Any] | None:
    """The drawing, and how many intervals lie beside zero; None for runs without them."""
    gains = class_gains(summary)
    if gains is None:
        return None
    known = gains[np.isfinite(gains[:, 0])]
    up, down = int((known[:, 1] > 0).sum()), int((known[:, 2] < 0).sum())
    level = number(block(summary.results, "comparison", "verdict").get("confidence")) or 0.95
    chance = (1 - level) * len(known)
    text = f"Of {wording.plural(len(known), 'class', 'classes')}, {up} gained and {down} lost by more than the "
    text += f"{100 * level:.0f}\u202f% interval allows for"
    text += f"; of so many about {chance:.0f} would if nothing had changed." if chance >= 0.95 else "."
    return {"drawing": class_interval_figure(gains, summary.classes), "note": text}


def class_interval_figure(gains: Floats, classes: list[str]) -> Drawing:
    """Gains ``[K,3]`` in [-1,1], sorted, each a dot with its interval."""
    order = [int(k) for k in np.argsort(-np.nan_to_num(gains[:, 0]), kind="stable") if np.isfinite(gains[k, 0])]
    values = 100 * gains[order]
    names = [classes[k] for k in order]
    with settings():
        few = len(order) <= MAX_ROWS
        short = wording.short_names(names, 16) if few else _ends(names)
        figure = _rows(values, [short[wording.clean(n)] for n in names]) if few else _profile(values, [*short.values()])
        shown = list(zip(names, values, strict=True))
        shown = shown if len(shown) <= MAX_ROWS else [*shown[:ENDS], *shown[-ENDS:]]
        listed = "; ".join(f"{wording.clean(n)} {v[0]:+.1f} ({v[1]:+.1f} to {v[2]:+.1f})" for n, v in shown)
        what = f"Gain of {'each class' if len(order) <= MAX_ROWS else f'{len(order)} classes'} in points, with interval"
        return render(figure, "class_intervals", f"{what}: {listed}.", short)


def _ends(names: list[str]) -> dict[str, str]:
    ends = [f"{word}: {wording.clean(name)}" for word, name in (("most", names[0]), ("least", names[-1]))]
    return {end: wording.shorten(end, 27) for end in ends}


def _rows(values: Floats, names: list[str]) -> Any:
    height = 22.0 * len(values) + 62
    figure = new_figure(height)
    axes = figure.add_axes((134 / WIDTH, 44 / height, 1 - 152 / WIDTH, 1 - 72 / height))
    _frame(axes)
    axes.grid(axis="x", color=COLOURS["grid"], linewidth=1)
    axes.axvline(0, color=COLOURS["muted"], linewidth=1.2)
    edge = max(float(np.abs(values).max()), 0.5) * 1.06
    axes.set_xlim(-edge, edge)
    axes.set_ylim(len(values) - 0.4, -0.6)
    for place, (mean, low, high) in enumerate(values):
        colour = _colour(low, high)
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8, alpha=0.75)
        axes.plot([mean], [place], "o", color=colour, markersize=6.5, markeredgewidth=0)
    axes.set_yticks(range(len(values)), names, parse_math=False, color=COLOURS["ink"], fontsize=SMALL)
    _signed(axes.xaxis)
    left, right, top = 134 / WIDTH, 1 - 18 / WIDTH, 1 - 12 / height
    for x, side, text, colour in (
        (left, "left", "← lost", "control"),
        (right, "right", "gained →", "method"),
    ):
        figure.text(x, top, text, ha=side, va="center", fontsize=SMALL, color=COLOURS[colour])
    figure.text((left + right) / 2, 8 / height, "points", ha="center", fontsize=SMALL, color=COLOURS["muted"])
    return figure


def _profile(values: Floats, ends: list[str]) -> Any:
    height = 260.0
    figure = new_figure(height)
    axes = figure.add_axes((52 / WIDTH, 40 / height, 1 - 62 / WIDTH, 1 - 56 / height))
    _frame(axes)
    axes.grid(axis="y", color=COLOURS["grid"], linewidth=1)
    axes.axhline(0, color=COLOURS["muted"], linewidth=1.2)
    places = np.arange(len(values))
    colours = np.array([_colour(low, high) for _, low, high in values])
    step = (WIDTH - 62) / len(values)
    for colour in dict.fromkeys(colours.tolist()):
        part = colours == colour
        axes.vlines(
            places[part], values[part, 1], values[part, 2], color=colour, linewidth=min(1.6, 0.7 * step), alpha=0.45
        )
        axes.plot(
            places[part], values[part, 0], "o", color=colour, markersize=min(4.0, max(1.2, step)), markeredgewidth=0
        )
    axes.set_xlim(-1, len(values))
    axes.set_xticks([])
    # one class with a single test image must not flatten all others
    reach = np.percentile(np.abs(values[:, 1:]), 90)
    edge = 1.08 * max(float(reach), float(np.abs(values[:, 0]).max()), 0.5)
    axes.set_ylim(-edge, edge)
    _signed(axes.yaxis)
    places_of_ends = (
        (0.02, 0.0, "left", "bottom", ends[0]),
        (0.98, 1.0, "right", "top", ends[1]),
    )
    for x, y, side, edge_name, text in places_of_ends:
        axes.text(
            x, y, text, transform=axes.transAxes, ha=side, va=edge_name, fontsize=SMALL, color=COLOURS["ink"],
            parse_math=False,
        )  # fmt: skip
    figure.text(
        0.5, 10 / height, f"all {len(values)} classes, from the largest gain to the largest loss", ha="center",
        fontsize=SMALL, color=COLOURS["muted"],
    )  # fmt: skip
    figure.text(
        9 / WIDTH, 0.55, "gain, points", rotation=90, ha="center", va="center", fontsize=SMALL, color=COLOURS["muted"]
    )
    return figure


def _colour(low: float, high: float) -> str:
    return COLOURS["method"] if low > 0 else COLOURS["control"] if high < 0 else COLOURS["muted"]


def _signed(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], symmetric=True))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+g}".replace("-", "\u2212") if v else "0"))


def _frame(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
