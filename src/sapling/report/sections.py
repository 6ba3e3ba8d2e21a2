"""What the page says about the result, as plain values; the template only lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapling.report import wording
from sapling.report.details import short_code
from sapling.report.folder import block, inner, listing, number
from sapling.report.summary import ClassTable, Summary
from sapling.report.unfinished import progress, unfinished

ADVISED_SEEDS = 5  # for a claim in a paper or a README
HOPELESS = 0.5  # differences that no one has to prove
_MEANINGS = {
    "recall": "Recall: of all test images of a class, the share that was recognised.",
    "average precision": "Average precision: are test images with a label ranked before those without it? In no order "
    "at all it is the share of the images that have the label.",
}


def headline(summary: Summary) -> dict[str, Any]:
    """The sentence at the top, its badge, and one or two plain sentences below."""
    verdict, results = summary.verdict, summary.results
    statement = str(verdict.get("statement") or "").strip()
    if statement:
        outcome = str(verdict.get("outcome"))
        symbol = {"better": "up", "worse": "down"}.get(outcome, "level")
        # The finding is set large and its figures smaller, but it stays one sentence.
        finding, colon, rest = wording.sentence(statement).partition(": ")
        text = finding + ":" if colon else finding
        seeds = int(number(verdict.get("num_seeds")) or 0)
        badge = "verdict" if text.lower().startswith(outcome) else wording.clean(outcome)
        if seeds == 1:  # two networks were compared, no method was judged
            badge, symbol = "one seed: these two students only", "level"
        elif 1 < seeds < ADVISED_SEEDS:
            badge = "preliminary" if badge == "verdict" else f"{badge}, preliminary"
        return {
            "badge": badge,
            "symbol": symbol,
            "text": text,
            "rest": rest,
            "lead": _lead(verdict),
            "scope": wording.sentence(verdict.get("scope") or ""),
        }
    if not results or not (summary.students or summary.teacher):
        state = unfinished(summary.record)
        badge, text = (state.badge, state.headline) if state else ("not finished", "This run has no results yet.")
        return _plain_headline(badge, text, progress(summary.record))
    if results.get("task") == "train" and summary.model:
        arm = summary.model
        images = number(block(arm.members[0], "test").get("num_images"))
        top1 = arm.mean(summary.measure)
        name = wording.model_name(summary.manifest.get("student") or "The model")
        if top1 is None:
            return _plain_headline("", f"{name} was trained.", "")
        where = f"of {wording.count(images)} test images" if images else "of the test images"
        if summary.multi_label:
            text = f"{name} has a mean average precision of {wording.share(top1)}"
            return _plain_headline("trained", f"{text} on{where.removeprefix('of')}.", "")
        return _plain_headline("trained", f"{name} names {wording.share(top1)} {where} correctly.", "")
    return _plain_headline("no verdict", "This run holds no comparison with a control.", "")


def warnings_of(summary: Summary) -> list[str]:
    """What a reader must know before believing a figure, most important first."""
    found = []
    gate = block(summary.results, "teacher", "gate")
    if gate and gate.get("passed") is False:
        failed = [c for c in listing(gate, "checks") if isinstance(c, dict) and not c.get("passed", True)]
        names = ", ".join(wording.clean(c.get("name", "check")) for c in failed)
        text = "The teacher did not pass its check" + (f" ({names})" if names else "")
        if gate.get("overridden"):
            text += ", and training went on all the same"
        found.append(text + ". What follows says little about distillation from a good teacher.")
    if summary.results and not summary.results.get("finished"):
        found.append("This run was not finished. Figures below show how far it came.")
    for entry in listing(summary.results, "warnings"):
        text = wording.sentence(entry.get("message", entry) if isinstance(entry, dict) else entry)
        # The workflow's own line on the gate says less than the one above.
        if text not in found and not (found and text.startswith("The teacher did not pass the gate")):
            found.append(text)
    return found


def measured_on(summary: Summary) -> str:
    """What the figures were measured on: never more than the run's warnings admit."""
    leaks = any(str(w).startswith("Leak") for w in listing(summary.results, "warnings"))
    if leaks or listing(summary.record.data, "leaks", "found"):
        return "Measured on test images, though this run was told to go on with a leak: see the warnings above."
    teacher = block(summary.results, "teacher")
    if teacher.get("origin") == "given" and not listing(teacher, "trained_on"):
        return "Measured on test images that no student was trained on; which the given teacher knows is not recorded."
    return "Measured on test images that nothing was trained or chosen on."


def key_facts(summary: Summary) -> list[dict[str, str]]:
    """Three or four figures for someone who reads no further."""
    facts = []
    # The file on disk is of the student that ships, which may be the control; so are the figures beside it.
    shipped = block(summary.results, "shipped").get("arm")
    arm = next((a for a in summary.students if a.key == shipped), summary.method or summary.model or summary.control)
    if arm is None:
        return []
    value = arm.mean(summary.measure)
    if value is not None:
        others = [a for a in (summary.control, summary.method, summary.teacher) if a is not None and a is not arm]
        notes = [f"{a.name.lower()} {wording.share(m)}" for a in others if (m := a.mean(summary.measure)) is not None]
        label = "of test images right" if summary.measure == "top1" else wording.MEASURES[summary.measure]
        if summary.is_comparison:
            label += f", {arm.name.lower() if arm is summary.control else 'distilled student'}"
        facts.append({"value": wording.share(value), "label": label, "note": ", ".join(notes)})
    own, big = arm.first("parameters"), summary.teacher.first("parameters") if summary.teacher else None
    if own and big and big > 1.05 * own:
        note = f"{wording.amount(own)} instead of {wording.amount(big)}"
        facts.append({"value": wording.times(big / own), "label": "fewer parameters than the teacher", "note": note})
    elif own:
        facts.append({"value": wording.amount(own), "label": "parameters", "note": ""})
    onnx = block(summary.results, "deploy", "onnx")
    single = number(inner(onnx, "latency_ms", "1", "p50"))
    if single:
        threads = number(onnx.get("threads"))
        note = f"one at a time, {wording.plural(int(threads), 'thread')}" if threads else "one at a time"
        facts.append({"value": wording.milliseconds(single), "label": "per image, typically", "note": note})
    if number(onnx.get("bytes")):
        facts.append({"value": wording.size(number(onnx["bytes"])), "label": "on disk, as ONNX", "note": ""})
    return facts


def certainty(summary: Summary) -> list[str]:
    """What the interval means, and what this run could have seen."""
    verdict = summary.verdict
    if not verdict:
        return []
    texts = []
    low, high = number(verdict.get("low")), number(verdict.get("high"))
    confidence = number(verdict.get("confidence")) or 0.95
    basis = {
        "crossed seeds and images": "It counts in that other seeds and other test images would give other results.",
        "seed means": "It comes from the spread between the seeds, the wider of two estimates.",
        "images of one pair": "It holds for these two trained students only, because there is one seed.",
    }.get(str(verdict.get("interval_from")), "")
    if low is not None and high is not None:
        texts.append(
            f"The {100 * confidence:.0f}\u202f% interval runs from {wording.signed(low)} to {wording.signed(high)} "
            f"points. {basis}".strip()
        )
    seen = block(verdict, "detectable")
    now, twice, endless = (number(seen.get(k)) for k in ("now", "twice_the_seeds", "endless_seeds"))
    seeds = int(number(verdict.get("num_seeds")) or len(summary.seeds) or 1)
    images = number(verdict.get("num_images"))
    if now is not None:
        base = f"With {wording.plural(seeds, 'seed')}" + (f" and {wording.count(images)} test images" if images else "")
        if now > HOPELESS:
            text = f"{base}, a run like this can show no difference reliably"
        else:
            text = f"{base}, a run like this finds a true difference of {wording.limit(now)} four times in five"
        if twice is not None and endless is not None and endless <= HOPELESS:
            text += (
                f". With {2 * seeds} seeds that would be about {wording.limit(twice)}, with any number of seeds "
                f"{wording.limit(endless)}; for less than that, only more test images help"
            )
        texts.append(text + ".")
    if seeds < ADVISED_SEEDS:
        have = "one seed" if seeds == 1 else f"{seeds} seeds"
        texts.append(f"This run has {have}. A claim in a paper or a decision that costs money should rest on five.")
    return texts


def standing(summary: Summary) -> str:
    """Where the distilled student stands between control and teacher."""
    arms = (summary.control, summary.method, summary.teacher)
    low, own, high = (arm.mean(summary.measure) if arm else None for arm in arms)
    text = "Every dot is one seed; the upright stroke is the mean."
    if low is None or own is None or high is None:
        return text
    if high <= low:
        return f"{text} On these images the teacher is no better than the control."
    place = f"{wording.points(abs(own - low))} {'above' if own >= low else 'below'} it"
    return f"{text} The teacher is {wording.points(high - low)} above the control, the distilled student {place}."


def gate_section(summary: Summary) -> dict[str, Any] | None:
    """The teacher: what it is, and whether it was fit to teach."""
    teacher = block(summary.results, "teacher") or summary.record.teacher
    if not teacher:
        return None
    gate, spent = block(teacher, "gate"), number(teacher.get("seconds"))
    val, test, train = (block(teacher, part) for part in ("val", "test", "train"))
    entropies = [number(part.get("entropy")) for part in (train, val)]
    key, called = ("map", "Mean average precision") if "map" in val else ("top1", "Accuracy")
    rows = [
        ("Model", wording.model_name(teacher.get("model") or wording.MISSING)),
        ("Origin", wording.clean(teacher.get("origin") or wording.MISSING)),
        ("Its answers", wording.clean(teacher.get("answers") or wording.MISSING)),
        ("How students heard it", wording.clean(block(teacher, "heard").get("sentence") or wording.MISSING)),
        *_members_of(teacher, key),
        (f"{called}, validation", wording.share(number(val.get(key)))),
        (f"{called}, test", wording.share(number(test.get(key)))),
        ("ECE, validation", wording.share(number(val.get("ece")))),
    ]
    unseen = ", out of fold" if teacher.get("cross_fit") is True else ""
    if train:
        rows += [
            (f"{called}, training images{unseen}", wording.share(number(train.get(key)))),
            (f"ECE, training images{unseen}", wording.share(number(train.get("ece")))),
        ]
    if None not in entropies:
        train_nats, val_nats = (f"{entropy:.3f}" for entropy in entropies)
        rows.append(("Entropy of its answers", f"{train_nats} nats on training images, {val_nats} on validation"))
    rows += [
        ("Training time", "given, not trained in this run" if spent == 0 else wording.duration(spent)),
        ("Weights, sha256", short_code(teacher.get("sha256"))),
    ]
    checks = [
        {
            "passed": bool(c.get("passed")),
            "name": wording.clean(c.get("name", "check")),
            "detail": wording.sentence(c["detail"]) if c.get("detail") else "",
        }
        for c in listing(gate, "checks")
        if isinstance(c, dict)
    ]
    state = "not checked"
    if gate:
        state = "passed" if gate.get("passed") else "overridden" if gate.get("overridden") else "failed"
    return {"rows": [r for r in rows if r[1] != wording.MISSING], "checks": checks, "state": state}


def _members_of(teacher: Mapping[str, Any], key: str) -> list[tuple[str, str]]:
    """A row for each of several teachers, or for one that answers for all symmetries: what it is worth alone."""
    rows = []
    for member in (m for m in listing(teacher, "members") if isinstance(m, dict)):
        parts = [
            f"{wording.share(value)} on {name}"
            for part, name in (("val", "validation"), ("test", "test"))
            if (value := number(block(member, part).get(key))) is not None
        ]
        weights = short_code(member.get("sha256"))
        if weights != wording.MISSING:
            parts.append(f"weights {weights}")
        rows.append((f"{wording.clean(member.get('name', 'teacher'))} alone".capitalize(), ", ".join(parts)))
    return rows


def class_section(table: ClassTable) -> dict[str, Any]:
    """Sentence and table rows about classes."""
    sentence = ""
    if table.gain is not None and table.order:
        gain = table.gain
        up = sum(bool(gain[k] > 0.0005) for k in table.order)
        down = sum(bool(gain[k] < -0.0005) for k in table.order)
        same = len(table.order) - up - down
        best, worst = table.order[0], table.order[-1]
        sentence = f"Of {wording.plural(len(table.order), 'class', 'classes')}, {up} gained and {down} lost"
        sentence += f", {same} stayed the same. " if same else ". "
        sentence += f"The changes run from {wording.signed(gain[best])} points ({wording.clean(table.names[best])}) "
        sentence += f"to {wording.signed(gain[worst])} ({wording.clean(table.names[worst])})."
    columns = [
        (n, v)
        for n, v in (
            ("Teacher", table.teacher),
            ("Control", table.control),
            ("Distilled", table.method),
            (table.measured.capitalize(), table.model),
        )
        if v is not None
    ]
    rows = []
    for k, name in enumerate(table.names):
        cells = [wording.share(number(float(values[k]))) for _, values in columns]
        spread = ""
        if table.gain_low is not None and table.gain_high is not None:
            spread = wording.between(number(float(table.gain_low[k])), number(float(table.gain_high[k])))
        rows.append(
            {
                "name": wording.clean(name),
                "train": wording.count(table.train[k]),
                "test": wording.count(table.test[k]),
                "cells": cells,
                "gain": wording.signed(number(float(table.gain[k]))) if table.gain is not None else None,
                "spread": spread,
            }
        )
    tests = [t for t in table.test if t]
    note = ""
    if tests:
        smallest = min(tests)
        note = f"The smallest class has {wording.plural(smallest, 'test image')}"
        note += f": there, one image is worth {wording.points(1 / smallest)}." if table.measured == "recall" else "."
    return {
        "sentence": sentence,
        "note": note,
        "columns": [n for n, _ in columns],
        "rows": rows,
        "counts": any(t is not None for t in table.train),
        "tests": bool(tests),
        "gains": table.gain is not None,
        "measured": table.measured,
        "meaning": _MEANINGS[table.measured],
    }


def _lead(verdict: Mapping[str, Any]) -> str:
    difference, low, high = (number(verdict.get(k)) for k in ("difference", "low", "high"))
    if difference is None or low is None or high is None:
        return ""
    if verdict.get("outcome") in ("better", "worse") and verdict.get("measure", "top1") == "top1":
        few, about, many = sorted(round(1000 * abs(v)) for v in (low, difference, high))
        word = "more" if difference > 0 else "fewer"
        text = f"Of 1,000 new images of this kind, that is about {about} {word} named correctly"
        return f"{text}; anything from {few or 'less than 1'} to {many} fits the interval." if about else ""
    if verdict.get("outcome") not in ("better", "worse"):
        return "This does not prove that the two are equal; a smaller difference may be there and stay unseen."
    return ""


def _plain_headline(badge: str, text: str, lead: str) -> dict[str, Any]:
    return {"badge": badge, "symbol": "", "text": text, "rest": "", "lead": lead, "scope": ""}
