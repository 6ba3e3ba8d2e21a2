"""What a method learned before there was a student: does the denoiser denoise held-out images?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from sapling.report import wording
from sapling.report.folder import block, listing, number
from sapling.report.summary import Summary
from sapling.report.svg import COLOURS, SMALL, WIDTH, Drawing, new_figure, render, settings

_ROW, _TOP, _GAP, _FOOT = 26.0, 34.0, 58.0, 8.0


def phase_section(summary: Summary) -> dict[str, Any] | None:
    """A sentence, what was found too bad, and a drawing for each branch; None where no phase was checked."""
    figures: list[dict[str, Any]] = []
    problems: list[str] = []
    facts: list[str] = []
    for name, card in block(summary.results, "phases").items():
        check = block(card, "check") if isinstance(card, Mapping) else {}
        if not check:
            continue
        problems += [wording.clean(p) for p in listing(check, "problems")]
        if (epochs := number(card.get("epochs"))) is not None:
            where = "; taken from the cache" if card.get("from_cache") else ""
            facts.append(f"Phase {wording.clean(name)}: {epochs:.0f} epochs on the teacher alone{where}.")
        for branch, measured in block(check, "branches").items():
            drawing = check_figure(str(name), str(branch), measured if isinstance(measured, Mapping) else {})
            if drawing is not None:
                figures.append(
                    {"title": f"Branch {wording.clean(branch)}", "drawing": drawing, "note": _note(measured)}
                )
    if not figures:
        return None
    return {"figures": figures, "problems": problems, "facts": facts, "passed": not problems}


def check_figure(phase: str, branch: str, measured: Mapping[str, Any]) -> Drawing | None:
    """Noise loss by timestep, and the cosine to the clean latent before and after the steps."""
    losses = {wording.clean(k): v for k, x in block(measured, "noise_loss").items() if (v := number(x)) is not None}
    cosines = [number(measured.get(k)) for k in ("cosine_before", "cosine_after")]
    if not losses or cosines[0] is None or cosines[1] is None:
        return None
    height = _TOP + _ROW * len(losses) + _GAP + 2 * _ROW + _FOOT
    left, width = 92 / WIDTH, 1 - 120 / WIDTH
    with settings():
        figure = new_figure(height)
        upper = figure.add_axes((left, (_FOOT + 2 * _ROW + _GAP) / height, width, _ROW * len(losses) / height))
        _bars(upper, list(losses), list(losses.values()), COLOURS["method"], most=1.0)
        upper.axvline(1, color=COLOURS["muted"], linewidth=1.4, linestyle=(0, (4, 3)))
        lower = figure.add_axes((left, _FOOT / height, width, 2 * _ROW / height))
        found = [float(c) for c in cosines if c is not None]
        _bars(lower, ["before", "after"], found, COLOURS["method"], most=1.0, first=COLOURS["teacher"])
        for text, y in (
            ("loss of the predicted noise, by timestep (dashed: knows nothing)", height - 18),
            ("cosine to the clean feature, before and after the steps", _FOOT + 2 * _ROW + 16),
        ):
            figure.text(9 / WIDTH, y / height, text, fontsize=SMALL, color=COLOURS["muted"])
        told = "; ".join(f"{v:.2f} at timesteps {k}" for k, v in losses.items())
        return render(
            figure,
            f"phase_{wording.file_stem(phase)}_{wording.file_stem(branch)}",
            f"Check of phase {wording.clean(phase)}, branch {wording.clean(branch)}: noise loss {told}; cosine to the "
            f"clean feature {found[0]:.2f} before and {found[1]:.2f} after the steps.",
        )


def _bars(
    axes: Axes, names: list[str], values: list[float], colour: str, *, most: float, first: str | None = None
) -> None:
    places, limit = list(range(len(names)))[::-1], max(most, *values) + 0.12
    colours = [first or colour, *[colour] * (len(names) - 1)]
    axes.barh(places, [max(0.0, v) for v in values], height=0.62, color=colours)
    for place, value in zip(places, values, strict=True):
        axes.text(1.04 * limit, place, f"{value:.2f}", ha="right", va="center", fontsize=SMALL, clip_on=False)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.set_xlim(0, limit)
    axes.set_xticks([])
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axvline(0, color=COLOURS["muted"], linewidth=1)


def _note(measured: Mapping[str, Any]) -> str:
    parts = []
    if (count := number(measured.get("num_images"))) is not None:
        parts.append(f"Measured on {count:,.0f} validation images".replace(",", "\u202f"))
    if (r2 := number(measured.get("ae_r2"))) is not None:
        amount = f"explains {wording.share(r2)}" if r2 > 0 else "explains nothing"
        parts.append(f"the autoencoder {amount} of the teacher's feature")
    return "; ".join(parts) + "." if parts else ""
