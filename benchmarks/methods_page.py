"""Draw docs/images/methods.png and write the tables of docs/methods/measured.md from results/methods.json.

python benchmarks/methods_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median
from typing import Any

import matplotlib.pyplot as plt

from sapling.report.svg import COLOURS

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
SETS = {"aid-32px": "AID", "eurosat-32px": "EuroSAT, a part", "trees-32px": "Trees"}
TRIALS = {"aid-32px-10-epochs": "AID", "eurosat-32px-10-epochs": "EuroSAT, a part", "trees-32px-10-epochs": "Trees"}
KD_TRIALS = {
    "aid-32px-mixed-teacher-15-epochs": "AID, teacher trained with mixup",
    "eurosat-32px-7-epochs": "EuroSAT, a part",
    "trees-32px-12-epochs": "Trees",
}
TUNED = "lr=0.2-weight_decay=0.002"
LONG = {
    "aid-32px-100-epochs-lr=0.05": "AID, from the ResNet-20",
    "aid-32px-100-epochs-wrn": "AID, from a wrn_16_2",
}
MIMIC_LONG = {
    "aid-32px-100-epochs-mimic-lr=0.05": "AID, from a ResNet-20",
    "aid-32px-100-epochs-mimic-wrn": "AID, from a wrn_16_2",
}
MIXED = {"aid-32px-60-epochs-mixup": "AID, 60 epochs with mixup, from a ResNet-20"}
KD_TUNED = {f"{name}-kd-{TUNED}": title for name, title in SETS.items()}
OTHERS = {f"{name}-diffkd-{TUNED}": title for name, title in SETS.items()}
SHIPPED_TRIALS = {f"{name}-fdbd-trials": title for name, title in SETS.items()}
PAGE = DOCS / "methods" / "measured.md"
CONTROL = "control"
MIXED_EPOCHS = 40
"""Of the students whose teachers were trained with mixup, at 64 pixels."""
MOST_TRIALS = 8
"""Settings of the control that are shown."""
LOOKS = {"better": ("method", "^"), "worse": ("control", "v"), "no difference shown": ("muted", "o")}
"""Colour and marker of an outcome."""

Rows = dict[str, dict[str, Any]]


def tables(kept: dict[str, Any]) -> dict[str, Rows]:
    """Arms of each set that has been measured, the control apart from them."""
    return {title: kept[name]["arms"] for name, title in SETS.items() if name in kept}


def order(found: dict[str, Rows], most: int, by: str = "mean_rank") -> list[str]:
    """Arms with ``most`` seeds on any set, the best first; those on fewer sets stand below.

    Args:
        found: rows of each set.
        most: seeds that an arm must have.
        by: ``mean_rank`` or ``gain``, the mean over the sets.
    """
    arms = {arm for rows in found.values() for arm, row in rows.items() if len(row["seeds"]) >= most and "gain" in row}

    def key(arm: str) -> tuple[int, float]:
        values = [rows[arm][by] for rows in found.values() if arm in rows and len(rows[arm]["seeds"]) >= most]
        return -len(values), mean(values) if by == "mean_rank" else -mean(values)

    return sorted(sorted(arms), key=key)


def draw(found: dict[str, Rows], arms: list[str], most: int) -> None:
    """A panel for each set: mean gain of each arm with its interval."""
    plt.rcParams.update({"font.size": 12, "axes.edgecolor": COLOURS["grid"]})
    figure, panels = plt.subplots(
        1, len(found), figsize=(3.4 * len(found) + 2.4, 0.36 * len(arms) + 1.5), sharey=True, squeeze=False
    )
    for axes, (title, rows) in zip(panels[0], found.items(), strict=True):
        shown = [arm for arm in arms if arm in rows and len(rows[arm]["seeds"]) >= most]
        for arm in shown:
            row, place = rows[arm], arms.index(arm)
            tone, marker = LOOKS[row["outcome"]]
            axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=COLOURS[tone], lw=2.6)
            axes.plot([100 * row["gain"]], [place], marker, color=COLOURS[tone], ms=8)
        axes.axvline(0, color=COLOURS["ink"], lw=1)
        axes.grid(axis="x", color=COLOURS["grid"])
        axes.set_axisbelow(True)
        axes.set_title(f"{title}\ncontrol {100 * rows[CONTROL]['top1']:.1f} %", fontsize=13)
        axes.set_xlabel("points of top-1")
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.tick_params(length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    panels[0][0].set_yticks(range(len(arms)), arms)
    figure.text(
        0.995,
        0.005,
        "▲ better   ▼ worse   ● no difference shown",
        ha="right",
        va="bottom",
        fontsize=11,
        color=COLOURS["muted"],
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(DOCS / "images" / "methods.png", dpi=110)


def cell(row: dict[str, Any] | None, most: int) -> str:
    """A gain with its interval; bold where a difference is shown; of fewer seeds than ``most`` without any claim."""
    if row is None or "gain" not in row:
        return ""
    if (number := len(row["seeds"])) < most:
        return f"{100 * row['gain']:+.1f}, {number} seed" + ("s" if number > 1 else "")
    gain, low, high = (round(100 * row[key], 1) for key in ("gain", "low", "high"))
    text = f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if most > 1 and row["outcome"] in ("better", "worse") else text


def table(found: dict[str, Rows], arms: list[str], most: int, *, ranked: bool = True) -> str:
    """Markdown: a row for each arm, for each set its gain; its mean rank and cost over the sets if ``ranked``."""
    heads = [*found, "mean rank", "cost"] if ranked else [*found]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for arm in arms:
        rows = [of_set.get(arm) for of_set in found.values()]
        cells = [cell(row, most) for row in rows]
        if ranked:
            ranks = [row["mean_rank"] for row in rows if row and row["mean_rank"]]
            costs = [row["step_cost"] for row in rows if row and "step_cost" in row]
            cells.append(f"{mean(ranks):.1f}" if len(ranks) == len(rows) else "")
            cells.append(f"{round(100 * (median(costs) - 1)) + 0:+d} %" if costs else "")
        lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pairs(kept: dict[str, Any], names: dict[str, str]) -> str:
    """Markdown: differences between two arms, for each set."""
    found = {title: kept[name].get("pairs", {}) for name, title in names.items() if name in kept}
    asked = list(dict.fromkeys(pair for of_set in found.values() for pair in of_set))
    lines = ["| difference | " + " | ".join(found) + " |", "|---" * (1 + len(found)) + "|"]
    for pair in asked:
        cells = [cell(rows.get(pair), 2) for rows in found.values()]
        one, other = pair.split(" - ")
        lines.append(f"| `{one}` minus `{other}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def about(title: str, entry: dict[str, Any]) -> str:
    """One line on what a set's figures rest on."""
    a, control = entry["about"], entry["arms"][CONTROL]
    teacher = a["teacher"]
    return (
        f"| {title} | {a['train']:,} / {a['dev']:,} | {teacher['epochs']} / {a['epochs']} | "
        f"{100 * teacher['top1']:.1f} % | {100 * control['top1']:.1f} % |"
    )


def beside_control(kept: dict[str, Any], names: dict[str, str], by: str = "gain") -> str:
    """A table of its own for sets under other terms; the control's accuracy stands in the heads."""
    found = {
        f"{title} (teacher {100 * kept[name]['about']['teacher']['top1']:.1f} %, "
        f"control {100 * kept[name]['arms'][CONTROL]['top1']:.1f} %)": kept[name]["arms"]
        for name, title in names.items()
        if name in kept
    }
    return table(found, order(found, 2, by=by), 2, ranked=False)


def mimic_trials(tried: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: top-1 of each seed of each trial, the best mean over sets and seeds first."""

    def key(arm: str) -> tuple[int, float]:
        found = [list(rows[arm].values()) for rows in tried.values() if arm in rows]
        return -len(found), -mean(mean(values) for values in found)

    arms = sorted({arm for rows in tried.values() for arm in rows}, key=key)
    lines = ["| method | AID | EuroSAT, a part | Trees |", "|---|---|---|---|"]
    for arm in arms:
        rows = (tried[name].get(arm, {}) for name in ("aid", "eurosat", "trees"))
        cells = [", ".join(f"{100 * row[s]:.1f}" if s in row else "-" for s in ("7", "8")) for row in rows]
        lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def of_mixed_teachers(rows: list[dict[str, Any]]) -> str:
    """Markdown: dev accuracy of the students of each teacher that was trained with mixup, the best mean first."""
    rows = [row for row in rows if row["recipe"] == "mixed" and row.get("student_epochs") == MIXED_EPOCHS]
    heads = [f"teacher {row['seed']}: {100 * row['teacher']['top1']:.1f} %" for row in rows]
    found = {arm: [row["students"][arm]["top1"] for row in rows] for arm in rows[0]["students"]}
    lines = [f"| method | {' | '.join(heads)} | minus control, mean |", "|---|" + "---|" * (len(rows) + 1)]
    for arm, values in sorted(found.items(), key=lambda item: -mean(item[1])):
        gain = "" if arm == CONTROL else f"{100 * (mean(values) - mean(found[CONTROL])):+.1f}"
        cells = [*(f"{100 * value:.1f}" for value in values), gain]
        lines.append(f"| `{arm}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def control_trials(tried: dict[str, Any]) -> str:
    """Markdown: the best settings of the control's training, and the usual one."""
    means, usual = tried["means"], tried["usual"]
    shown = sorted(means, key=lambda label: -means[label])[:MOST_TRIALS]
    lines = ["| control with | AID | EuroSAT, a part | Trees | mean |", "|---|---|---|---|---|"]
    for label in [*shown, *([usual] if usual not in shown else [])]:
        cells = [f"{100 * tried['sets'][name][label]:.1f}" for name in ("aid", "eurosat", "trees")]
        note = " (the default)" if label == usual else ""
        lines.append(f"| {label}{note} | " + " | ".join(cells) + f" | {100 * means[label]:.1f} |")
    return "\n".join(lines)


def between(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks of ``name``."""
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, rest = text.split(first)
    return f"{head}{first}\n{content}\n{last}{rest.split(last)[1]}"


def main() -> None:
    """Figure and tables anew; what stands around them is written by hand."""
    kept = json.loads((HERE / "results" / "methods.json").read_text(encoding="utf-8"))["sets"]
    found = tables(kept)
    most = max(len(row["seeds"]) for rows in found.values() for row in rows.values())
    arms = order(found, most)
    draw(found, arms, most)
    lines = ["| set | train / dev | epochs of teacher / student | teacher | control |", "|---|---|---|---|---|"]
    lines += [about(SETS[name], kept[name]) for name in SETS if name in kept]
    trials = {title: kept[name]["arms"] for name, title in TRIALS.items() if name in kept}
    tried = order(trials, 1, by="gain")
    text = PAGE.read_text(encoding="utf-8")
    text = between(text, "sets", "\n".join(lines))
    text = between(text, "table", table(found, arms, most))
    text = between(text, "pairs", pairs(kept, SETS))
    text = between(text, "trials", table(trials, tried, 1, ranked=False))
    of_kd = {title: kept[name]["arms"] for name, title in KD_TRIALS.items() if name in kept}
    text = between(text, "kd", table(of_kd, order(of_kd, 3, by="gain"), 3, ranked=False))
    text = between(text, "kd tuned", beside_control(kept, KD_TUNED))
    text = between(text, "kd long", beside_control(kept, {"aid-32px-100-epochs-kd": "AID, 100 epochs"}))
    recipes = json.loads((HERE / "results" / "teacher_recipes.json").read_text(encoding="utf-8"))["rows"]
    text = between(text, "kd mixed", of_mixed_teachers(recipes))
    tuned = {f"{name}-{TUNED}": title for name, title in SETS.items()}
    text = between(text, "tuned", beside_control(kept, tuned))
    text = between(text, "long", beside_control(kept, LONG))
    anew = {f"{name}-mimic-{TUNED}": title for name, title in SETS.items()}
    text = between(text, "mimic", beside_control(kept, anew))
    text = between(text, "mimic pairs", pairs(kept, anew))
    text = between(text, "mixed", beside_control(kept, MIXED))
    text = between(text, "others", beside_control(kept, OTHERS))
    shipped = {title: kept[name]["arms"] for name, title in SHIPPED_TRIALS.items() if name in kept}
    text = between(text, "shipped trials", table(shipped, order(shipped, 1, by="gain"), 1, ranked=False))
    text = between(text, "mimic long", beside_control(kept, MIMIC_LONG))
    tried_too = json.loads((HERE / "results" / "mimic_trials.json").read_text(encoding="utf-8"))["sets"]
    text = between(text, "mimic trials", mimic_trials(tried_too))
    rows = json.loads((HERE / "results" / "control_trials.json").read_text(encoding="utf-8"))
    text = between(text, "control", control_trials(rows))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
