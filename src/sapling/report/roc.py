"""ROC curves: what share of the images with a class is found, at what share of false alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sapling.report import wording
from sapling.report.folder import listing, number
from sapling.report.summary import Arm, Floats, Summary
from sapling.report.svg import COLOURS, SMALL, WIDTH, Drawing, new_figure, render, settings

_HEIGHT = 400.0
_DASHES: dict[str, Any] = {"control": (0, (4, 1.5)), "teacher": (0, (1, 1.4))}


def roc_section(summary: Summary) -> dict[str, Any] | None:
    """Drawing and note; None where there are more than two classes, or in runs without curves (older ones)."""
    arms = [a for a in (summary.teacher, summary.control, summary.method, summary.model) if a is not None]
    curves = [(arm, found) for arm in arms if len(found := roc_curves(arm))]
    if not curves or not (summary.multi_label or len(summary.classes) == 2):
        return None
    if summary.multi_label:
        what = "The mean over the labels that some test images have and some have not, each at the same false alarms."
    else:
        what = f"Found is “{wording.clean(summary.classes[1])}”; a false alarm is another image that is taken for it."
    lines = " Thin lines are single seeds, thick ones their mean." if len(summary.seeds) > 1 else ""
    return {
        "drawing": roc_figure(curves),
        "note": f"{what} The further up and to the left, the better; the grey diagonal is guessing.{lines}",
    }


def roc_curves(arm: Arm) -> Floats:
    """``[S,P]``: share found at equally spaced shares of false alarms from 0 to 1, a row for each seed that has one."""
    rows = []
    for member in arm.members:
        values = [number(v) for v in listing(member, "test", "roc")]
        if len(values) > 1 and all(v is not None and 0 <= v <= 1 for v in values):
            rows.append(values)
    whole = [r for r in rows if len(r) == len(rows[0])]
    return np.array(whole, dtype=np.float64) if whole else np.empty((0, 0))


def roc_figure(curves: list[tuple[Arm, Floats]]) -> Drawing:
    """One curve for each arm, with the area under it: shares found ``[S,P]`` over false alarms."""
    with settings():
        figure = new_figure(_HEIGHT)
        axes: Axes = figure.add_axes((52 / WIDTH, 44 / _HEIGHT, 1 - 72 / WIDTH, 1 - 56 / _HEIGHT))
        axes.patch.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(color=COLOURS["grid"], linewidth=1)
        axes.plot([0, 100], [0, 100], color=COLOURS["grid"], linewidth=2)
        said = []
        for place, (arm, rows) in enumerate(curves):
            colour, x = COLOURS.get(arm.colour, COLOURS["ink"]), np.linspace(0, 100, rows.shape[1])
            for row in rows if len(rows) > 1 else ():
                axes.plot(x, 100 * row, color=colour, linewidth=0.9, alpha=0.35)
            dashes = _DASHES.get(arm.colour, "-")
            axes.plot(x, 100 * rows.mean(axis=0), color=colour, linewidth=2.2, linestyle=dashes)
            area = arm.mean("auc")
            text = wording.shorten(arm.name, 16) + (f", area {area:.3f}" if area is not None else "")
            height = 6 + 8 * (len(curves) - 1 - place)
            axes.plot([45, 54], [height, height], color=colour, linewidth=2.2, linestyle=dashes)
            axes.text(57, height, text, color=colour, va="center", fontsize=SMALL, parse_math=False)
            middle = 100 * float(np.interp(10, x, rows.mean(axis=0)))
            said.append(f"{text}, {middle:.1f} per cent found at 10 per cent false alarms")
        for limit, ticks in ((axes.set_xlim, axes.set_xticks), (axes.set_ylim, axes.set_yticks)):
            limit(-2, 102)
            ticks([0, 25, 50, 75, 100])
        figure.text(
            (52 + WIDTH - 20) / 2 / WIDTH, 8 / _HEIGHT, "false alarms, per cent of the images without it", ha="center",
            fontsize=SMALL, color=COLOURS["muted"],
        )  # fmt: skip
        figure.text(
            9 / WIDTH, 0.55, "found, per cent of the images with it", rotation=90, ha="center", va="center",
            fontsize=SMALL, color=COLOURS["muted"],
        )  # fmt: skip
        return render(figure, "roc", f"ROC curves: {'; '.join(said)}.")
