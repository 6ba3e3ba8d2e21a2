"""Reliability: is an answer of 90 per cent right nine times in ten? One diagram for each arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sapling.report import wording
from sapling.report.folder import block, listing, number
from sapling.report.summary import Arm, Floats, Summary
from sapling.report.svg import COLOURS, SMALL, WIDTH, Drawing, new_figure, render, settings

_SMALLEST, _LARGEST = 3.0, 11.0  # size of a dot, by the share of answers in its bin
_HEIGHT = 352.0


@dataclass(frozen=True, slots=True)
class Bins:
    """Answers of an arm by stated certainty, all seeds together; each ``[B]``, NaN for the means of an empty bin."""

    count: Floats
    confidence: Floats
    accuracy: Floats

    @property
    def excess(self) -> float:
        """Mean certainty less the share that is right: above 0 it is too sure of itself."""
        known = self.count > 0
        gaps = self.confidence[known] - self.accuracy[known]
        return float((gaps * self.count[known]).sum() / self.count[known].sum())


def pooled_bins(arm: Arm) -> Bins | None:
    """The bins of all members of an arm, added up; None where a run does not have them (older runs)."""
    found = [b for b in (_bins(m) for m in arm.members) if b is not None]
    if not found or len({len(b.count) for b in found}) != 1:
        return None
    count = np.sum([b.count for b in found], axis=0)
    sums = [
        np.sum([np.nan_to_num(getattr(b, part)) * b.count for b in found], axis=0)
        for part in ("confidence", "accuracy")
    ]
    if not count.sum():
        return None
    certain, right = (np.where(count > 0, s / np.maximum(count, 1), np.nan) for s in sums)
    return Bins(count, certain, right)


def reliability_section(summary: Summary) -> dict[str, Any] | None:
    """Titles, drawings and a sentence each, for teacher, control and distilled student."""
    figures = []
    for arm in (a for a in (summary.teacher, summary.control, summary.method, summary.model) if a is not None):
        bins = pooled_bins(arm)
        if bins is not None:
            figures.append(
                {"title": arm.name, "drawing": reliability_figure(bins, arm, summary.multi_label), "note": _note(bins)}
            )
    if not figures:
        return None
    what = "each label's probability" if summary.multi_label else "the certainty of the answer"
    return {
        "figures": figures,
        "note": f"Test answers sorted by {what}. On the dashed line what is said comes true as often as is said; below "
        "it the model is too sure, above it too modest. The larger a dot, the more answers.",
    }


def reliability_figure(bins: Bins, arm: Arm, multi_label: bool = False) -> Drawing:
    """Share that is right by stated certainty, and how many answers there are of each certainty."""
    known = bins.count > 0
    shares = bins.count / bins.count.sum()
    x, y, part = 100 * bins.confidence[known], 100 * bins.accuracy[known], shares[known]
    colour = COLOURS.get(arm.colour, COLOURS["ink"])
    with settings():
        figure = new_figure(_HEIGHT)
        left, width = 52 / WIDTH, 1 - 72 / WIDTH
        axes = figure.add_axes((left, 116 / _HEIGHT, width, 1 - 132 / _HEIGHT))
        _frame(axes)
        axes.grid(color=COLOURS["grid"], linewidth=1)
        axes.plot([0, 100], [0, 100], color=COLOURS["muted"], linewidth=1.4, linestyle=(0, (4, 3)))
        axes.vlines(x, x, y, color=colour, linewidth=2.2, alpha=0.4)
        sizes = _SMALLEST + (_LARGEST - _SMALLEST) * np.sqrt(part / part.max())
        for place in range(len(x)):
            axes.plot(
                [x[place]], [y[place]], "o", color=colour, markersize=sizes[place], markeredgewidth=0, clip_on=False
            )
        axes.set_ylim(-2, 102)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_xticks([0, 25, 50, 75, 100], [""] * 5)
        below = figure.add_axes((left, 44 / _HEIGHT, width, 58 / _HEIGHT))
        _frame(below)
        edges = 100 * np.linspace(0, 1, len(bins.count) + 1)
        below.stairs(100 * shares, edges, fill=True, color=colour, alpha=0.55, linewidth=0)
        below.axhline(0, color=COLOURS["muted"], linewidth=1)
        below.set_yticks([0, _ceiling(100 * shares.max())])
        below.set_ylim(0, _ceiling(100 * shares.max()))
        below.set_xticks([0, 25, 50, 75, 100])
        for panel in (axes, below):
            panel.set_xlim(-2, 102)
        name = "probability of a label, per cent" if multi_label else "certainty of the answer, per cent"
        figure.text(left + width / 2, 8 / _HEIGHT, name, ha="center", fontsize=SMALL, color=COLOURS["muted"])
        for text, middle in (("images with it, %" if multi_label else "right, %", 228), ("share, %", 73)):
            figure.text(
                9 / WIDTH, middle / _HEIGHT, text, rotation=90, ha="center", va="center", fontsize=SMALL,
                color=COLOURS["muted"],
            )  # fmt: skip
        listed = "; ".join(
            f"{c:.0f} per cent sure, {r:.0f} per cent right, {100 * s:.1f} per cent of the answers"
            for c, r, s in zip(x, y, part, strict=True)
        )
        return render(
            figure, f"reliability_{wording.file_stem(arm.key)}", f"Reliability of {wording.clean(arm.name)}: {listed}."
        )


def _note(bins: Bins) -> str:
    excess = bins.excess
    if abs(excess) < 0.005:
        return "On average it is as sure as it is right."
    word = "surer of itself than it should be" if excess > 0 else "less sure than it could be"
    return f"On average it is {wording.points(abs(excess))} {word}."


def _bins(member: dict[str, Any]) -> Bins | None:
    content = block(member, "test", "calibration")
    columns = [listing(content, key) for key in ("count", "confidence", "accuracy")]
    if not columns[0] or len({len(c) for c in columns}) != 1:
        return None
    values = [np.array([np.nan if (v := number(x)) is None else v for x in c], dtype=np.float64) for c in columns]
    count = np.maximum(np.nan_to_num(values[0]), 0)
    # a bin with answers but without means is damaged: leave it out
    whole = np.isfinite(values[1]) & np.isfinite(values[2])
    return Bins(np.where(whole, count, 0), values[1], values[2])


def _ceiling(value: float) -> float:
    return next((float(top) for top in (5, 10, 20, 25, 50) if value <= top), 100.0)


def _frame(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
