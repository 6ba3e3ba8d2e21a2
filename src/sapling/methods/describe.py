"""What a method says of itself, as plain data: its class and the docstring at the top of its file.

That docstring opens with a title line and a summary, followed by headings in the first column, each with
its text behind the colon and on indented lines below: Family, Paper, Year, Formula, Defaults (where they
come from) and Departures (from the paper, and why); Reference (published figures, with their source) may follow. A
file of a user's own may leave all of it away.
Imports no torch; it is handed classes that did.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sapling.errors import MethodError
from sapling.methods.combination import describe_combination
from sapling.methods.own import OWN_FILES, explained
from sapling.methods.weights import LABEL_TERM, default_weights

if TYPE_CHECKING:
    from sapling.methods.base import Method

HEADINGS = ("Family", "Paper", "Year", "Formula", "Defaults", "Departures")
OPTIONAL = ("Reference",)
MEASURED = ("own_parameters", "step_cost")
"""What ``benchmarks/step_cost.py`` measures of a method, and the class cannot say."""


@explained()
def describe(method: type[Method]) -> dict[str, Any]:
    """Describe a method class as JSON types: what the catalogue holds of it.

    Raises:
        MethodError: the class or its docstring is incomplete; says what is missing.
    """
    joined: dict[str, type[Method]] = getattr(method, "classes", {})
    if joined:
        return describe_combination({name: describe(part) for name, part in joined.items()})
    problems = check_class(method)
    text = parse_docstring(sys.modules[method.__module__].__doc__ or "")
    if method.__module__.startswith(f"{OWN_FILES}."):  # a trial owes nobody an explanation
        text = {**dict.fromkeys(map(str.lower, HEADINGS), ""), **text}
        text |= {key: text[key] or f"{method.name}, a method of one's own" for key in ("title", "summary")}
    problems += [f"the docstring of its file has no {key}" for key in ("title", "summary") if not text[key]]
    problems += [f"the docstring of its file has no line '{h}: ..'" for h in HEADINGS if h.lower() not in text]
    if problems:
        raise MethodError(
            f"method {method.name!r} is incomplete: " + "; ".join(problems),
            where=inspect.getsourcefile(method),
            remedy="see CONTRIBUTING.md, or methods/kd.py as an example",
        )
    schema = method.Config.model_json_schema()
    taps = method.taps(method.Config.model_validate({}))
    return {
        "name": method.name,
        "family": text["family"],
        "title": text["title"],
        "summary": text["summary"],
        "paper": text["paper"],
        "year": int(text["year"]) if text["year"].isdecimal() else None,
        "formula": text["formula"],
        "defaults": text["defaults"],
        "departures": text["departures"],
        "reference": text.get("reference", ""),
        "terms": list(method.terms),
        "default_weights": default_weights(method.terms, method.default_alpha, method.scales),
        "taps": {"student": list(taps.student), "teacher": list(taps.teacher)},
        "requires": asdict(method.requires),
        "fields": {k: {n: v for n, v in f.items() if n != "title"} for k, f in schema["properties"].items()},
        "ships_own_parts": method.ships_own_parts(),
        **dict.fromkeys(MEASURED),
    }


def parse_docstring(doc: str) -> dict[str, str]:
    """Split a docstring into ``title``, ``summary`` and its headings (lower case), each on one line."""
    found: dict[str, list[str]] = {}
    head, *lines = inspect.cleandoc(doc).split("\n")
    section = found.setdefault("summary", [])
    for line in lines:
        match = re.match(rf"({'|'.join((*HEADINGS, *OPTIONAL))}):(.*)", line)
        if match:
            section = found.setdefault(match[1].lower(), [])
            line = match[2]
        section.append(line.strip())
    return {"title": head.rstrip("."), **{key: " ".join(filter(None, part)) for key, part in found.items()}}


def check_class(method: type[Method]) -> list[str]:
    """Say what a method class lacks, in sentences; empty if nothing."""
    from sapling.methods.base import Method

    problems: list[str] = []
    terms = method.terms
    if not isinstance(terms, tuple) or not terms or len(set(terms)) != len(terms):
        problems.append("terms must be a tuple of different names")
        return problems
    if LABEL_TERM in terms[1:]:
        problems.append(f"{LABEL_TERM!r} must be the first of its terms")
    if strangers := set(method.scales) - set(terms[terms[0] == LABEL_TERM :]):
        problems.append(f"scales names {sorted(strangers)}, which are no terms beside {LABEL_TERM!r}")
    if method.default_alpha is not None and LABEL_TERM not in terms:
        problems.append(f"default_alpha needs the term {LABEL_TERM!r}")
    if method.forward is Method.forward:
        problems.append("it has no forward(student, teacher, batch, step)")
    else:
        try:
            inspect.signature(method.forward).bind(*[None] * 5)
        except TypeError:
            problems.append("its forward does not take (self, student, teacher, batch, step)")
    schema = method.Config.model_json_schema()
    if "$defs" in schema:
        problems.append("its Config holds nested models; fields must be numbers, texts, flags or lists of them")
    problems += [
        f"the field {name!r} of its Config has no description"
        for name, field in schema["properties"].items()
        if not field.get("description")
    ]
    if schema.get("required"):
        problems.append(f"fields without a default: {', '.join(schema['required'])}")
    return problems
