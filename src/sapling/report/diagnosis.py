"""What a diagnosis says, for the page and the terminal. Runs of before there was one simply have no such section."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from sapling.report import wording
from sapling.report.folder import block, inner, listing, number
from sapling.report.summary import Summary

LEVELS = {"likely": "Likely", "possible": "Possible"}
NOTHING = "Nothing wrong was found"


def diagnosis_section(summary: Summary) -> dict[str, Any] | None:
    """Causes with the next commands, and what was measured; None where the verdict is *better*, or of old runs."""
    found = shown_diagnosis(summary.results)
    if found is None:
        return None
    causes = [_cause(f) for f in listing(found, "findings") if isinstance(f, Mapping)]
    following = block(found, "next")
    if not causes and following:
        text = "Of the causes that can be read off measurements none stands out: the teacher is better than the "
        text += "control, the terms are in proportion, training was long enough."
        causes = [{"level": "", "title": NOTHING, "measured": text, "why": "", **_step(following)}]
    if not causes:
        return None
    return {
        "causes": causes,
        "measured": _measured(block(found, "measured")),
        "not_looked_at": [wording.sentence(t) for t in listing(found, "not_looked_at")],
    }


def terminal_lines(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line that the terminal shows; none where there is nothing to explain."""
    found = shown_diagnosis(results)
    if found is None:
        return []
    causes = [f for f in listing(found, "findings") if isinstance(f, Mapping)]
    lines = []
    if not causes and not block(found, "next"):
        return []
    if causes:
        first = causes[0]
        word = "why" if first.get("level") == "likely" else "perhaps"
        lines.append((word, f"{wording.clean(first.get('title'))}. {wording.clean(first.get('measured'))}"))
        if len(causes) > 1:
            others = "; ".join(wording.clean(f.get("title")) for f in causes[1:])
            lines.append(("also", others))
    else:
        lines.append(("why", f"{NOTHING} in what was measured."))
    step = _step(causes[0] if causes else block(found, "next"))
    if step["command"] or step["remedy"]:
        lines.append(("next", step["remedy"]))
    if step["command"]:
        lines.append(("", step["command"]))
    return lines


def shown_diagnosis(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The diagnosis of a run whose verdict is not *better*, or None."""
    found = block(results, "diagnosis")
    outcome = inner(results, "comparison", "verdict", "outcome")
    return found if found and outcome not in (None, "better") else None


def _cause(finding: Mapping[str, Any]) -> dict[str, str]:
    texts = {k: wording.sentence(finding.get(k) or "") for k in ("title", "measured", "why")}
    return {**texts, "level": LEVELS.get(str(finding.get("level")), ""), **_step(finding)}


def _step(entry: Mapping[str, Any]) -> dict[str, str]:
    remedy = wording.clean(entry["remedy"]) if entry.get("remedy") else ""
    # spaces of a command stay as they are: it is copied
    command = "".join(c for c in str(entry.get("command") or "") if unicodedata.category(c)[0] != "C")
    return {"remedy": remedy, "command": command}


def _measured(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what was measured; what is missing is left out."""
    rows = []
    gap, error = number(m.get("gap")), number(m.get("gap_error"))
    if gap is not None:
        spread = f" (± {wording.points(2 * error)})" if error is not None else ""
        rows.append(("Teacher above control, validation", f"{wording.signed(gap)} points{spread}"))
    for part, name in (("train", "training images"), ("val", "validation images")):
        for key, title, show in (
            ("agreement", "Answers as the teacher", wording.share),
            ("kl", "Divergence from the teacher", wording.plain),
        ):
            values = [(arm, number(inner(m, "students", arm, part, key))) for arm in ("control", "distilled")]
            if all(v is not None for _, v in values):
                unit = " nats" if key == "kl" else ""
                rows.append((f"{title}, {name}", ", ".join(f"{arm} {show(v)}{unit}" for arm, v in values)))
    sure, right = (number(inner(m, "teacher_train", k)) for k in ("confidence", "right"))
    if sure is not None and right is not None:
        rows.append(("The teacher on training images", f"{wording.share(right)} right, {wording.share(sure)} sure"))
    plain, soft = (number(inner(m, "teacher_train", k)) for k in ("entropy", "entropy_at_temperature"))
    temperature, most = number(m.get("temperature")), number(m.get("most_entropy"))
    if plain is not None and soft is not None and most:
        text = f"{wording.share(plain / most, 0)} of the largest at temperature 1"
        if temperature is not None and temperature != 1:
            text += f", {wording.share(soft / most, 0)} at {temperature:g}"
        rows.append(("Entropy of the soft targets", text))
    pulls = {k: v for k, value in block(m, "pulls").items() if (v := number(value)) is not None}
    if pulls:
        text = ", ".join(f"{wording.clean(k)} {v:.2g}" for k, v in pulls.items())
        rows.append(("Pull of each weighted term (the labels on the control: 1)", text))
    epochs, steps = number(m.get("epochs")), number(m.get("steps"))
    if epochs and steps:
        rising = number(m.get("rising"))
        end = (
            f"; over the last tenth validation changed by {wording.signed(rising)} points" if rising is not None else ""
        )
        rows.append(("Training", f"{wording.plural(int(epochs), 'epoch')}, {wording.plural(int(steps), 'step')}{end}"))
    return rows
