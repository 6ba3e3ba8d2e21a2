"""Checking a method's settings against its description: all errors at once, nearest names, and no torch."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from typing import Any

from sapling.errors import MethodError, nearest
from sapling.methods.combination import CONTROL, OF_THE_WHOLE, WEIGHT, WEIGHT_SCHEMA, split_name, wrong_parts
from sapling.methods.registry import built_in, entry, names, unknown_method
from sapling.methods.weights import check_weights

KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "a text",
    "array": "a list",
    "object": "a mapping of names to values",
    "null": "nothing",
}
NUMBER_TEXTS = {
    "number": re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
    "integer": re.compile(r"[+-]?[0-9]+"),
}
BOUNDS = (
    ("minimum", operator.ge, "{} or more"),
    ("exclusiveMinimum", operator.gt, "above {}"),
    ("maximum", operator.le, "{} or less"),
    ("exclusiveMaximum", operator.lt, "below {}"),
)


def check_config(name: str, options: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with the settings of a method, one sentence each, opening with the setting's name.

    Args:
        name: of the method. A file or another package's method is checked when it is built, as that imports
            it.
        options: the ``method`` block without ``name``.

    Returns:
        Sentences such as ``temprature: unknown setting; did you mean 'temperature'?``; empty if all is well.
    """
    parts = split_name(name)
    problems = [f"name: {p}" for p in (wrong_parts(parts) if len(parts) > 1 else ())]
    problems += [
        f"name: {_ended(unknown_method(part))} allowed: {', '.join(names())}, or a path to a .py file"
        for part in parts
        if part and not part.endswith(".py") and part not in names()
    ]
    if problems or any(part not in built_in() for part in parts):
        return problems
    try:
        return check_options(entry(name), options)
    except MethodError as error:
        return [f"name: {error.what}"]


def check_options(described: Mapping[str, Any], options: Mapping[str, Any], also: tuple[str, ...] = ()) -> list[str]:
    """As ``check_config``, against a description that is at hand (see ``describe``); ``also`` may be set beside it."""
    if "parts" in described:
        return _check_parts(described, options)
    fields: Mapping[str, Any] = described["fields"]
    problems: list[str] = []
    for key, value in options.items():
        if key in fields:
            problems += _check(str(key), value, fields[key])
        else:
            hint = nearest(str(key), (*also, *fields)) or f"allowed: {', '.join((*also, *fields))}"
            if key in names() and key not in (described["name"], CONTROL):
                hint = f"several methods are a list: method: [{described['name']}, {key}], or --method A+B"
            if key == WEIGHT:
                hint = "it is for the parts of a combination; of one method give alpha or weights"
            problems.append(f"{key}: unknown setting of method {described['name']!r}; {hint}")
    return problems + _check_weights(described, options, problems)


def _check_parts(described: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """The settings of a combination: of the whole, and of each part."""
    fields, parts, name = described["fields"], described["parts"], described["name"]
    problems: list[str] = []
    for key, value in options.items():
        if key in OF_THE_WHOLE:
            problems += _check(str(key), value, fields[key])
        elif key not in parts:
            owners = [f"method.{part}.{key}" for part in parts if f"{part}.{key}" in fields]
            hint = f"it is a setting of its parts: {' or '.join(owners)}" if owners else ""
            hint = hint or nearest(str(key), (*parts, *(field for field in fields if "." in field)))
            if key in names():
                hint = f"{key} is no part of it"
            hint = hint or f"allowed: {', '.join((*parts, *OF_THE_WHOLE))}"
            problems.append(f"{key}: unknown setting of method {name!r}; {hint}")
        elif not isinstance(value, Mapping):
            problems.append(f"{key}: {value!r} is not allowed; must be a mapping of settings of method {key!r}")
        else:
            own = {k: v for k, v in value.items() if k != WEIGHT}
            problems += [f"{key}.{problem}" for problem in check_options(parts[key], own, (WEIGHT,))]
            problems += _check(f"{key}.{WEIGHT}", value.get(WEIGHT, 1.0), WEIGHT_SCHEMA)
    if options.get("alpha") is not None:
        own = {part: options[part] for part in parts if isinstance(options.get(part), Mapping)}
        both = [f"{part}.{k}" for part, block in own.items() for k in OF_THE_WHOLE if block.get(k) is not None]
        problems += [f"alpha: given together with {k}; give one of the two (alpha is for all parts)" for k in both[:1]]
    # what the parts make of their terms is known when they are built
    return problems + _check_weights(
        {**described, "default_weights": dict.fromkeys(described["terms"], 1.0)}, options, problems
    )


def _check_weights(described: Mapping[str, Any], options: Mapping[str, Any], problems: list[str]) -> list[str]:
    """The weights and alpha of a method, unless the ``problems`` speak of them already."""
    if any(p.startswith(OF_THE_WHOLE) for p in problems):
        return []
    weights, alpha = options.get("weights"), options.get("alpha")
    return check_weights(
        described["terms"],
        None if weights is None else {k: float(v) for k, v in weights.items()},
        None if alpha is None else float(alpha),
        described["default_weights"],
    )


def _check(place: str, value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Check one value against the part of JSON schema that pydantic writes for plain fields."""
    if "anyOf" in schema:
        attempts = [_check(place, value, option) for option in schema["anyOf"]]
        if any(not attempt for attempt in attempts):
            return []
        # of the kinds that are allowed, speak of the one that the value comes nearest to
        return next((a for a, o in zip(attempts, schema["anyOf"], strict=True) if _fits(value, o)), attempts[0])
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices is not None:
        if value in choices and not (isinstance(value, bool) and True not in choices):
            return []
        return [f"{place}: {value!r} is not allowed; {_one_of(value, choices)}"]
    if not _fits(value, schema):
        return [f"{place}: {value!r} is not allowed; must be {KINDS[schema['type']]}"]
    kind = schema.get("type")
    if kind in ("number", "integer"):
        return _check_range(place, _number(value), value, schema)
    if kind == "array":
        return _check_array(place, value, schema)
    inner = schema.get("additionalProperties")
    if kind == "object" and isinstance(inner, Mapping):
        return [p for key, part in value.items() for p in _check(f"{place}.{key}", part, inner)]
    return []


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _check_range(place: str, number: float, value: Any, schema: Mapping[str, Any]) -> list[str]:
    if not math.isfinite(number):
        return [f"{place}: {value!r} is not allowed; must be a finite number"]
    limits = [(fits, schema[key], words) for key, fits, words in BOUNDS if key in schema]
    if all(fits(number, bound) for fits, bound, _ in limits):
        return []
    return [f"{place}: {value!r} is not allowed; must be " + " and ".join(w.format(b) for _, b, w in limits)]


def _check_array(place: str, value: Any, schema: Mapping[str, Any]) -> list[str]:
    low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if not low <= len(value) <= high:
        return [f"{place}: has {len(value)} values; allowed: {low} to {high}".replace(" to inf", " or more")]
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return []
    return [p for number, part in enumerate(value) for p in _check(f"{place}[{number}]", part, items)]


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether the kind of ``value`` is the schema's. YAML reads 1e-3 as a text, so a text may be a number."""
    kind = schema.get("type")
    if kind == "boolean" or isinstance(value, bool):
        return isinstance(value, bool) and kind in ("boolean", None)
    if kind in NUMBER_TEXTS:
        if isinstance(value, str):
            return NUMBER_TEXTS[kind].fullmatch(value) is not None
        return isinstance(value, int) or (isinstance(value, float) and (kind == "number" or value.is_integer()))
    if kind == "array":
        return isinstance(value, list | tuple)
    if kind == "object":
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if kind == "null":
        return value is None
    return isinstance(value, str) if kind == "string" else True


def _one_of(value: Any, choices: list[Any]) -> str:
    hint = nearest(str(value), [str(c) for c in choices])
    return f"allowed: {', '.join(map(str, choices))}. {hint}".rstrip(". ")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence};"
