"""``sapling methods``: all methods side by side, or one explained. From the catalogue alone, no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sapling.errors import UsageError
from sapling.methods.combination import DEFAULT_METHOD
from sapling.screen import docstring
from sapling.tables import open_console

COLUMNS = ("method", "year", "labels", "cache", "own", "cost", "taps")
TO_THE_RIGHT = ("own", "cost")
LEGEND = (
    (
        "labels",
        "ce: only the label term (method.alpha=0 leaves it out) or one like it, mixed or not; yes: one class per image",
    ),
    ("cache", "whether stored answers of the teacher would do; - has no teacher"),
    (
        "own",
        "parameters of the method itself, resnet18 -> cnn3; left behind, but for *, which become part of what ships",
    ),
    ("cost", "what it adds to a training step of the student alone, cnn3 at 64 px; the teacher's pass comes on top"),
    ("taps", "features that are compared, of student / teacher; - compares answers alone"),
)
NUMBERS = (("exclusiveMinimum", "above {:g}"), ("minimum", "{:g} or more"))
INDENT, GAP = 2, 2


def show_methods(name: str | None, *, as_json: bool) -> None:
    """List all methods, or explain one.

    Raises:
        UsageError: there is no such method.
    """
    from sapling.methods.registry import catalogue, entry, unknown_method

    entries = catalogue()
    if name is not None and ("+" in name or (name.endswith(".py") and "," not in name)):
        entries[name] = entry(name)
    if name is not None and name not in entries:
        raise UsageError(unknown_method(name), allowed=", ".join(entries))
    if as_json:
        print(json.dumps(entries[name] if name else list(entries.values()), ensure_ascii=False))
    elif name is None:
        _list(entries.values())
    else:
        _explain(entries[name])


def _list(entries: Iterable[Mapping[str, Any]]) -> None:
    """A block for each family; two lines for each method: its facts, and what it is."""
    from rich.text import Text

    console = open_console()
    families: dict[str, list[Mapping[str, Any]]] = {}
    for e in entries:
        families.setdefault(e["family"], []).append(e)
    rows = {e["name"]: facts(e) for found in families.values() for e in found}
    widths = [max(len(title), *(len(row[k]) for row in rows.values())) for k, title in enumerate(COLUMNS)]
    console.print(Text(_line(COLUMNS, widths).rstrip(), style="bold"))
    for family, found in sorted(families.items(), key=lambda item: -len(item[1])):
        console.print(Text(f"\n{family}", style="bold"))
        for e in found:
            *cells, taps = rows[e["name"]]
            line = _line(cells, widths[:-1])
            _say(console, taps, indent=sum(widths[:-1]) + GAP * len(cells), first=line)
            by_itself = "; what a run takes that names none" if e["name"] == DEFAULT_METHOD else ""
            _say(console, str(e["title"]) + by_itself, style="dim")
    console.print()
    for word, meaning in LEGEND:
        _say(console, f"{word}: {meaning}", style="dim", indent=0)
    notes = {e["step_cost"]["measured"] for found in families.values() for e in found if e.get("step_cost")}
    for note in sorted(notes):
        _say(console, f"measured: {note}", style="dim", indent=0)
    _say(console, "sapling methods NAME explains one: formula, settings, paper, published figures.", indent=0)


def _explain(e: Mapping[str, Any]) -> None:
    """Everything that the catalogue knows of one method."""
    from rich.text import Text

    console = open_console()
    year = f", {e['year']}" if e.get("year") else ""
    console.print(Text(f"{e['name']}: {e['title']}", style="bold"))
    _say(console, f"{e['family']}{year}", style="dim", indent=0)
    needs = [
        f"taps {taps_of(e) if taps_of(e) != '-' else 'none'}",
        f"own parameters {counted(e.get('own_parameters'))}" + (", shipped" if e.get("ships_own_parts") else ""),
        f"labels {labels_of(e)}",
        f"teacher cache {cache_of(e).replace('-', 'none: it has no teacher')}",
        *([f"batches of {e['requires']['min_batch']} or more"] if e["requires"]["min_batch"] > 1 else []),
        "several labels per image " + ("yes" if e["requires"]["multi_label"] else "no"),
    ]
    parts = [(label, str(e.get(label) or "")) for label in ("summary", "formula")]
    parts += [("needs", "; ".join(needs)), ("cost", cost_in_words(e))]
    parts += [(label, str(e.get(label) or "")) for label in ("paper", "reference", "defaults", "departures")]
    for label, text in parts:
        if text:
            console.print()
            console.print(Text(label, style="bold"))
            _say(console, text)
    console.print()
    console.print(Text("settings", style="bold"))
    for field, schema in e["fields"].items():
        default = schema.get("default")
        if field.rpartition(".")[2] == "weights":  # of a combination each part's own stand there
            part = e.get("parts", {}).get(field.removesuffix(".weights"), e)
            default = part["default_weights"] or None
        allowed = range_of(schema)
        given = f"{field} = {shown(default)}" + (f"  ({allowed})" if allowed else "")
        _say(console, given)
        _say(console, str(schema.get("description", "")), style="dim", indent=2 * INDENT)


def facts(e: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a method, in the order of ``COLUMNS``."""
    year = str(e.get("year") or "-")
    cost = e.get("step_cost")
    own = counted(e.get("own_parameters")) + ("*" if e.get("ships_own_parts") else " ")
    extra = "?" if cost is None else percent(cost["extra"])
    return str(e["name"]), year, labels_of(e), cache_of(e), own, extra, taps_of(e)


def taps_of(e: Mapping[str, Any]) -> str:
    """``stage2-4 / embedding``: what is tapped in student / teacher; one of them where both are the same."""
    student, teacher = (_joined(e["taps"][side]) for side in ("student", "teacher"))
    if student == teacher:
        return student or "-"
    return f"{student or '-'} / {teacher or '-'}"


def labels_of(e: Mapping[str, Any]) -> str:
    """Whether hard labels are needed: ``yes``, ``ce`` (only by the label term), ``no`` (that has no weight)."""
    if e["requires"]["labels"]:
        return "yes"
    return "ce" if e["default_weights"].get("ce", 1.0) else "no"


def cache_of(e: Mapping[str, Any]) -> str:
    """Whether the teacher's answers may come from a cache."""
    if not e["requires"]["teacher"]:
        return "-"
    return "no" if e["requires"]["live_teacher"] else "yes"


def counted(number: int | None) -> str:
    """``1.1 M`` of a number of parameters; ``0``; ``?`` where nobody counted."""
    if number is None:
        return "?"
    if number < 1000:
        return str(number)
    return f"{number / 1e3:.0f} k" if number < 999_500 else f"{number / 1e6:.1f} M"


def percent(share: float) -> str:
    """``+7 %``; what is below one per cent either way is not told from nothing."""
    return f"{round(100 * share):+,} %" if abs(share) >= 0.01 else "< 1 %" if share else "0 %"


def cost_in_words(e: Mapping[str, Any]) -> str:
    """The measured step, its spread and how it was measured."""
    cost = e.get("step_cost")
    if cost is None:
        return "not measured"
    low, high = percent(cost["low"]), percent(cost["high"])
    spread = f" ({low} to {high})" if low != high else ""
    live = "" if not e["requires"]["teacher"] else f"; with the teacher's pass in every step {percent(cost['live'])}"
    return f"{percent(cost['extra'])} of a step of the student alone{spread}{live}. Measured {cost['measured']}"


def range_of(schema: Mapping[str, Any]) -> str:
    """What a setting may be, from its JSON schema; empty where any text will do."""
    if "anyOf" in schema:
        options = [
            "text" if option == {"type": "string"} else range_of(option)
            for option in schema["anyOf"]
            if option.get("type") != "null"
        ]
        empty = any(option.get("type") == "null" for option in schema["anyOf"])
        return " or ".join([*filter(None, options), *(["none"] if empty else [])])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("type")
    if kind == "boolean":
        return "true | false"
    if kind in ("number", "integer"):
        return _numbers(schema, whole=kind == "integer")
    if kind == "array":
        inner = range_of(schema.get("items", {}))
        low, high = schema.get("minItems"), schema.get("maxItems")
        count = f"{low} to {high} of" if low and high else f"{low} or more of" if low else "list of"
        return f"{count}: {inner}" if inner else count.removesuffix(" of") if count != "list of" else "list"
    return "term: number" if kind == "object" else ""


def shown(value: Any) -> str:
    """A default as one would write it in YAML."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(schema: Mapping[str, Any], *, whole: bool) -> str:
    kind = "whole number, " if whole else ""
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    words = [form.format(schema[key]) for key, form in NUMBERS if key in schema]
    if high is None:
        return (kind + "".join(words)).rstrip(", ")
    below = f"below {_plain(high)}" if "exclusiveMaximum" in schema else f"to {_plain(high)}"
    if "minimum" in schema and "maximum" in schema:
        return f"{kind}{_plain(schema['minimum'])} {below}"
    return kind + ", ".join([*words, below.replace("to ", "at most ")])


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _joined(taps: Sequence[str]) -> str:
    """Stages that follow each other as one: ``stage2-4``, ``stage2-4.pre``."""
    found: list[str] = []
    for tap in taps:
        now = re.fullmatch(r"stage(\d)(\.pre)?", tap)
        last = re.fullmatch(r"stage(\d)(?:-(\d))?(\.pre)?", found[-1]) if found else None
        if now and last and last[3] == now[2] and int(last[2] or last[1]) + 1 == int(now[1]):
            found[-1] = f"stage{last[1]}-{now[1]}{now[2] or ''}"
        else:
            found.append(tap)
    return ", ".join(found)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if title in TO_THE_RIGHT else cell.ljust(width)
        for cell, width, title in zip(cells, widths, COLUMNS, strict=False)
    ]
    return (" " * GAP).join(padded)


def _say(console: Any, text: str, *, style: str = "", indent: int = INDENT, first: str = "") -> None:
    """A paragraph, wrapped at the console's width; ``first`` stands in the indentation of its first line."""
    from rich.text import Text

    words = docstring(text)
    words.stylize(style)
    for number, line in enumerate(words.wrap(console, max(console.width - indent, 10))):
        line.rstrip()
        console.print(Text.assemble((first if number == 0 else "").ljust(indent), line), soft_wrap=True)
