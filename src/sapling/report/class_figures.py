"""Figures about classes: which ones gained, and which are mistaken for which. For 2 to some hundreds of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from sapling.report import wording
from sapling.report.summary import ClassTable, Floats
from sapling.report.svg import COLOURS, SMALL, WIDTH, Drawing, new_figure, render, settings

MAX_ROWS = 30  # classes with a row of their own
ENDS = 10  # best and worst shown where there are more
MAX_NAMED = 24  # classes with their name at a confusion matrix
MAX_CELLS = 30  # classes drawn cell by cell; above that one pixel per cell
MAX_FIGURES = 12  # classes with a figure in every cell


def class_gain_figure(table: ClassTable) -> Drawing | None:
    """Recall per class: control and distilled student joined by a line, sorted by gain."""
    order = table.order
    if not order or table.control is None or table.method is None or table.gain is None:
        return None
    cut = len(order) > MAX_ROWS
    rows: list[int | None] = [*order[:ENDS], None, *order[-ENDS:]] if cut else list(order)
    height = 22 * len(rows) + 64
    with settings():
        figure = new_figure(height)
        axes = figure.add_axes((134 / WIDTH, 40 / height, 1 - 192 / WIDTH, 1 - 64 / height))
        shown = [k for k in rows if k is not None]
        marks = [100 * v for part in (table.control, table.method) for v in part[shown]]
        if table.teacher is not None:
            marks += [100 * v for v in table.teacher[shown] if np.isfinite(v)]
        margin = max(0.05 * (max(marks) - min(marks)), 1.0)
        axes.set_xlim(min(marks) - margin, max(marks) + margin)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _frame(axes)
        axes.grid(axis="x", color=COLOURS["grid"], linewidth=1)
        for place, k in enumerate(rows):
            if k is None:
                note = f"… {len(order) - 2 * ENDS} classes between …"
                axes.text(
                    0.5,
                    place,
                    note,
                    transform=axes.get_yaxis_transform(),
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    color=COLOURS["muted"],
                )
                continue
            _class_row(axes, place, k, table)
        names = wording.short_names((table.names[k] for k in shown), 16)
        labels = ["" if k is None else names[wording.clean(table.names[k])] for k in rows]
        axes.set_yticks(range(len(rows)), labels, parse_math=False, color=COLOURS["ink"], fontsize=SMALL)
        top = 1 - 10 / height
        for x, text, colour in (
            (134, "○ control", "control"),
            (212, "● distilled", "method"),
            (298, "| teacher", "teacher"),
        ):
            if colour != "teacher" or table.teacher is not None:
                figure.text(x / WIDTH, top, text, va="center", fontsize=SMALL, color=COLOURS[colour])
        figure.text(1 - 4 / WIDTH, top, "gain", ha="right", va="center", fontsize=SMALL, color=COLOURS["muted"])
        middle = (134 + WIDTH - 58) / 2 / WIDTH
        figure.text(
            middle, 6 / height, f"{table.measured}, per cent", ha="center", fontsize=SMALL, color=COLOURS["muted"]
        )
        listed = "; ".join(f"{wording.clean(table.names[k])} {100 * table.gain[k]:+.1f}" for k in shown[:10])
        return render(figure, "class_gain", f"Change of {table.measured} per class in points: {listed}.", names)


def class_profile_figure(table: ClassTable) -> Drawing | None:
    """Gains of all classes as one profile, sorted; for many classes."""
    order = table.order
    if len(order) <= MAX_ROWS or table.gain is None:
        return None
    gains = 100 * table.gain[order]
    height = 190.0
    with settings():
        figure = new_figure(height)
        axes = figure.add_axes((44 / WIDTH, 34 / height, 1 - 56 / WIDTH, 1 - 46 / height))
        _frame(axes)
        axes.grid(axis="y", color=COLOURS["grid"], linewidth=1)
        for sign, colour in ((1, "method"), (-1, "control")):
            heights = np.where(sign * gains > 0, gains, 0.0)
            axes.stairs(heights, fill=True, color=COLOURS[colour], linewidth=0)
        axes.axhline(0, color=COLOURS["muted"], linewidth=1)
        axes.set_xlim(0, len(order))
        axes.set_xticks([])
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:+g}".replace("-", "\u2212") if v else "0")
        text = f"all {len(order)} classes, from the largest gain to the largest loss"
        figure.text(0.5, 10 / height, text, ha="center", fontsize=SMALL, color=COLOURS["muted"])
        description = (
            f"Change of {table.measured} of {len(order)} classes: from {gains[0]:+.1f} to {gains[-1]:+.1f} points."
        )
        return render(figure, "class_profile", description)


def confusion_figure(shares: Floats, classes: Sequence[str], *, name: str, title: str) -> Drawing:
    """Confusion matrix: a row is a true class, a column an answer, the tint the share of the row."""
    # The square root lets rare mix-ups show beside a dark diagonal.
    strength = np.sqrt(np.nan_to_num(shares))
    lines = [100 * float(v) for v in np.diag(shares) if np.isfinite(v)]
    mean = f"; mean of the diagonal {np.mean(lines):.1f} per cent" if lines else ""
    return _matrix(
        strength, np.full(shares.shape, True), 100 * shares, classes,
        name=name, colours=("leaf", "leaf"), signed=False,
        description=f"Confusion matrix, {title}: {len(classes)} true classes by answers{mean}.",
    )  # fmt: skip


def difference_figure(control: Floats, method: Floats, classes: Sequence[str]) -> tuple[Drawing, float]:
    """What changed from control to distilled student, and the change (points) of the strongest tint.

    Blue is better: more right answers on the diagonal, fewer mix-ups beside it.
    """
    change = np.nan_to_num(method - control)
    good = np.where(np.eye(len(classes), dtype=bool), change, -change)
    largest = float(np.abs(good).max())
    strength = np.sqrt(np.abs(good) / largest) if largest > 0 else np.zeros_like(good)
    drawing = _matrix(
        strength, good >= 0, 100 * change, classes,
        name="confusion_difference", colours=("method", "control"), signed=True,
        description=f"Change of the confusion matrix; the largest is {100 * largest:.1f} points.",
    )  # fmt: skip
    return drawing, 100 * largest


def _matrix(
    strength: Floats,
    good: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    values: Floats,
    classes: Sequence[str],
    *,
    name: str,
    colours: tuple[str, str],
    signed: bool,
    description: str,
) -> Drawing:
    size = len(classes)
    named = size <= MAX_NAMED
    names = wording.short_names(classes, 14) if named else {}
    labels = [names[wording.clean(c)] for c in classes] if named else []
    room = min(7.2 * max((wording.width(label) for label in labels), default=0) + 12, 110.0)
    turned = named and room * size > WIDTH - 60
    left, below = (max(room, 40.0) + 18, (room if turned else 30.0) + 18) if named else (54.0, 44.0)
    side = min(WIDTH - left - 6, max(84.0 * size, 190.0))
    height = side + below + 8
    with settings():
        figure = new_figure(height)
        axes = figure.add_axes((left / WIDTH, below / height, side / WIDTH, side / height))
        _frame(axes)
        axes.set_xlim(0, size)
        axes.set_ylim(size, 0)
        axes.add_patch(Rectangle((0, 0), size, size, fill=False, edgecolor=COLOURS["grid"], clip_on=False))
        if size <= MAX_CELLS:
            _cells(axes, strength, good, values, colours, signed)
        else:
            tints = np.array([to_rgb(COLOURS[c]) for c in colours])
            image = np.concatenate([np.where(good[..., None], tints[0], tints[1]), strength[..., None]], axis=2)
            axes.imshow(image, interpolation="none", extent=(0, size, size, 0), aspect="auto")
        if named:
            font = SMALL if size <= 12 else 11 if size <= 18 else 10
            centres = np.arange(size) + 0.5
            axes.set_yticks(centres, labels, parse_math=False, fontsize=font)
            axes.set_xticks(centres, labels, parse_math=False, fontsize=font, rotation=90 if turned else 0)
        else:
            step = next(s for s in (5, 10, 20, 25, 50, 100, 200, 500, 1000, size) if size / s <= 9)
            ticks = np.arange(0, size, step)
            axes.set_xticks(ticks + 0.5, [str(t) for t in ticks])
            axes.set_yticks(ticks + 0.5, [str(t) for t in ticks])
        number, muted = "" if named else ", by number", COLOURS["muted"]
        middle, foot = left + side / 2, 8 / height
        figure.text(middle / WIDTH, foot, f"answer{number}", ha="center", fontsize=SMALL, color=muted)
        side_on = figure.text(10 / WIDTH, (below + side / 2) / height, f"true class{number}", rotation=90, color=muted)
        side_on.set(va="center", ha="center", fontsize=SMALL)
        return render(figure, name, description, names)


def _cells(
    axes: Axes,
    strength: Floats,
    good: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    values: Floats,
    colours: tuple[str, str],
    signed: bool,
) -> None:
    size = len(strength)
    gap = 0.02 if size <= MAX_FIGURES else 0.0
    for i, j in np.ndindex(size, size):
        tint = float(strength[i, j])
        colour = COLOURS[colours[0] if good[i, j] else colours[1]]
        if tint > 0.02:
            axes.add_patch(
                Rectangle((j + gap, i + gap), 1 - 2 * gap, 1 - 2 * gap, facecolor=colour, alpha=tint, linewidth=0)
            )
        if size <= MAX_FIGURES and np.isfinite(values[i, j]) and abs(values[i, j]) >= 0.05:
            figure = (
                f"{values[i, j]:+.1f}"
                if signed
                else f"{values[i, j]:.1f}"
                if values[i, j] < 9.95
                else f"{values[i, j]:.0f}"
            )
            axes.text(
                j + 0.5,
                i + 0.5,
                figure.replace("-", "\u2212"),
                ha="center",
                va="center",
                fontsize=11 if size > 6 else 14,
                color=COLOURS["paper" if tint > 0.62 else "ink"],
            )


def _class_row(axes: Axes, place: int, k: int, table: ClassTable) -> None:
    assert table.control is not None
    assert table.method is not None
    assert table.gain is not None
    first, second, gain = 100 * table.control[k], 100 * table.method[k], 100 * table.gain[k]
    colour = COLOURS["method"] if gain > 0 else COLOURS["control"] if gain < 0 else COLOURS["muted"]
    if table.teacher is not None and np.isfinite(table.teacher[k]):
        axes.plot([100 * table.teacher[k]] * 2, [place - 0.3, place + 0.3], color=COLOURS["teacher"], linewidth=1.6)
    axes.plot([first, second], [place, place], color=colour, linewidth=2.2, alpha=0.55)
    axes.plot(
        [first],
        [place],
        "o",
        markerfacecolor=COLOURS["paper"],
        markeredgecolor=COLOURS["control"],
        markersize=6.5,
        markeredgewidth=1.6,
    )
    axes.plot([second], [place], "o", color=COLOURS["method"], markersize=6.5, markeredgewidth=0)
    axes.text(
        1.0 + 52 / (WIDTH - 192),
        place,
        wording.signed(table.gain[k]),
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        fontsize=SMALL,
        color=COLOURS["ink"],
    )


def _frame(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
