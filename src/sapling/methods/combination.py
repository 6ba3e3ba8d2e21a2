"""Several methods at once, as settings: their names joined with ``+``, a block for each. Imports no torch.

``kd+at`` is a name like any other. Beside ``alpha`` and ``weights`` of the whole its settings hold a block per part,
with that method's own settings and the ``weight`` of its terms::

    method: {name: kd + at, kd: {temperature: 2}, at: {weight: 0.5}}

A list is the same, written the other way round: ``method: [{name: kd, temperature: 2}, {name: at, weight: 0.5}]``. How
terms, weights and phases are joined stands in ``combined.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sapling.errors import ConfigError, MethodError
from sapling.methods.weights import LABEL_TERM

SIGN = "+"
WEIGHT = "weight"
WEIGHT_SCHEMA: dict[str, Any] = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 1e6,
    "default": 1.0,
    "description": "factor of its terms, those apart that only train parts of its own",
}
OF_THE_WHOLE = ("weights", "alpha")
TEACHERS_ANSWERS = ("kd", "tckd", "nckd")
"""Names of terms that are the KL divergence to the teacher's softened answers, whole or taken apart."""
CONTROL = "none"
DEFAULT_METHOD = "dist"
"""What a run takes that names no method: better than its control on test images of three sets (README, Limits)."""


def split_name(name: str) -> tuple[str, ...]:
    """The methods that a name joins; itself where it is one. A file whose path holds a + is one, if it is there."""
    if SIGN not in name or (name.endswith(".py") and Path(name).is_file()):
        return (name,)
    return tuple(part.strip() for part in name.split(SIGN))


def key_of(part: str) -> str:
    """What a part is called in settings, terms and arms: its name, or that of its file without ``.py``."""
    return Path(part).stem if part.endswith(".py") else part


def arm_of(name: str) -> str:
    """What a run calls the students of a method: ``kd``, ``kd+at``, ``mine`` of ``own/mine.py``."""
    return SIGN.join(Path(part).stem for part in split_name(name))


def wrong_parts(parts: Sequence[str]) -> list[str]:
    """Say why these cannot stand together whatever they are, one sentence each; empty if nothing is wrong."""
    keys = [key_of(part) for part in parts]
    problems = []
    if "" in keys:
        problems.append(f"{SIGN.join(parts)!r} lacks a name beside a {SIGN}; methods are joined as in kd{SIGN}at")
    if CONTROL in keys:
        problems.append(f"{CONTROL!r} is the control, which adds no term; leave it away")
    problems += [
        f"{key!r} stands there {count} times; a method can be a part once"
        for key, count in Counter(keys).items()
        if count > 1 and key
    ]
    reserved = [key for key in keys if key in ("name", "info", *OF_THE_WHOLE) or "." in key]
    problems += [
        f"{key!r} cannot be the name of a part: rename its file, or, of a weight, set method.NAME.{WEIGHT}=0.5"
        for key in reserved
    ]
    return problems


def check_parts(parts: Sequence[str]) -> None:
    """Refuse what :func:`wrong_parts` names.

    Raises:
        MethodError: with all that is wrong.
    """
    if problems := wrong_parts(parts):
        raise MethodError(f"method {SIGN.join(parts)!r}: " + "; ".join(problems))


def check_ships_nothing(name: str, *, ships: bool) -> None:
    """Refuse a part whose student is not the plain one.

    Raises:
        MethodError: it ``ships`` parts of its own.
    """
    if ships:
        raise MethodError(
            f"method {name!r} trains the labels through parts of its own and ships them, so it cannot be a part of a "
            "combination, whose labels train the plain student",
            remedy=f"--method {name} alone",
        )


def opened(block: Any) -> Any:
    """The ``method`` block as a mapping with a name, from any of its short forms.

    Args:
        block: a name, a list of names and mappings, or a mapping whose ``name`` is one of these.

    Raises:
        ConfigError: a list that is empty, or holds something else.
    """
    if isinstance(block, str | Path):
        block = {"name": str(block)}
    elif isinstance(block, list | tuple):
        block = {"name": block}
    if not isinstance(block, Mapping):
        return block
    found = dict(block)
    name = found.get("name")
    if isinstance(name, list | tuple):
        found = _joined(name, found)
    elif isinstance(name, str) and len(parts := split_name(name)) > 1:
        found["name"] = SIGN.join(parts)
    if isinstance(found.get("name"), str) and len(parts := split_name(found["name"])) > 1:
        nothing = [key for part in parts if (key := key_of(part)) in found and found[key] in (None, {})]
        found = {k: v for k, v in found.items() if k not in nothing}
    return found


def term_names(terms: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """What the terms of each part are called in the whole.

    The label term is one for all. A term that several parts have takes the name of its part in front, except in the
    part that it is named after: of ``kd+ctkd`` they are ``kd`` and ``ctkd_kd``.

    Args:
        terms: part to its terms.

    Returns:
        Part to own name to name in the whole.
    """
    counts = Counter(term for own in terms.values() for term in own)
    return {
        part: {term: term if term in (LABEL_TERM, part) or counts[term] == 1 else f"{part}_{term}" for term in own}
        for part, own in terms.items()
    }


def joined_terms(terms: Mapping[str, Sequence[str]]) -> list[str]:
    """All terms of the whole, the label term first."""
    called = [name for names in term_names(terms).values() for name in names.values()]
    return sorted(dict.fromkeys(called), key=lambda name: name != LABEL_TERM)


def heard_twice(weights: Mapping[str, Mapping[str, float]], whole: Mapping[str, float]) -> str | None:
    """Say that several parts copy the teacher's answers, which then count as often; None where at most one does.

    Args:
        weights: part to its terms with their weights; 0 for all terms of one that does not hear the teacher.
        whole: weights that were given for the whole, by their names there; they stand above those of the parts.
    """
    called = term_names({part: list(own) for part, own in weights.items()})
    found: dict[str, dict[str, float]] = {}
    for part, own in weights.items():
        for term in TEACHERS_ANSWERS:
            name = called[part].get(term, "")
            if weight := own.get(term) and whole.get(name, own[term]):
                found.setdefault(part, {})[name] = weight
    if len(found) < 2:
        return None
    terms = " + ".join(f"{weight:g} {term}" for own in found.values() for term, weight in own.items())
    off = ", ".join(f"{term}: 0" for term in found[next(reversed(found))])
    return (
        f"{' and '.join(found)} each copy the teacher's softened answers, which count {len(found)} times over "
        f"({terms}). Where that is not meant, leave one of them away, or set method.weights: {{{off}}}."
    )


def joined_requires(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the whole requires, from what its parts do: whatever one of them needs; several labels only if all can."""
    wanted: dict[str, list[Any]] = {}
    for part in parts:
        for key, value in part.items():
            wanted.setdefault(key, []).append(value)
    return {
        key: all(values) if key == "multi_label" else any(values) if isinstance(values[0], bool) else max(values)
        for key, values in wanted.items()
    }


def describe_combination(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describe a combination as ``describe`` does a method, from the descriptions of its ``parts``."""
    first = next(iter(parts.values()))
    fields = {key: first["fields"][key] for key in OF_THE_WHOLE}
    for part, described in parts.items():
        fields |= {f"{part}.{key}": schema for key, schema in described["fields"].items()}
        fields[f"{part}.{WEIGHT}"] = WEIGHT_SCHEMA
    sides = ("student", "teacher")
    counts = [described["own_parameters"] for described in parts.values()]
    return {
        "name": SIGN.join(parts),
        "family": "combination",
        "title": f"{', '.join(parts)} at once",
        "summary": "The terms of all of them are added; the labels count once. "
        + " ".join(f"{part}: {described['title']}." for part, described in parts.items()),
        "paper": "none of its own",
        "year": None,
        "formula": "L = " + " + ".join(f"w_{name} {name}" for name in joined_terms(_terms(parts))),
        "defaults": "Terms keep the weights that they have in their method, times the part's weight; the label term "
        "has the smallest weight that a part gives it. --dry-run shows them.",
        "departures": "",
        "reference": "",
        "terms": joined_terms(_terms(parts)),
        "default_weights": {},
        "taps": {side: list(dict.fromkeys(t for d in parts.values() for t in d["taps"][side])) for side in sides},
        "requires": joined_requires(described["requires"] for described in parts.values()),
        "fields": fields,
        "own_parameters": None if None in counts else sum(counts),
        "ships_own_parts": False,
        "step_cost": None,
        "parts": dict(parts),
    }


def _terms(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    return {part: list(described["terms"]) for part, described in parts.items()}


def _joined(entries: Sequence[Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """A list of methods as one block; what stands beside the list is kept."""
    rest = {k: v for k, v in block.items() if k != "name"}
    settings: list[tuple[str, dict[str, Any]]] = []
    for number, entry in enumerate(entries, 1):
        given = {"name": entry} if isinstance(entry, str | Path) else entry
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str | Path):
            raise ConfigError(
                f"method: entry {number} of the list is {entry!r}",
                allowed="a name, or a mapping with name, weight and settings: [kd, {name: at, weight: 0.5}]",
            )
        name = str(given["name"]).strip()
        if len(several := split_name(name)) > 1 and all(several):
            raise ConfigError(
                f"method: entry {number} of the list is {name!r}, which is several methods",
                allowed=f"one method in each entry: [{', '.join(several)}]",
            )
        settings.append((name, {str(k): v for k, v in given.items() if k != "name"}))
    if not settings:
        raise ConfigError("method: the list is empty", allowed="one name or more, such as [kd, at]")
    if len(settings) == 1:
        name, own = settings[0]
        _refuse_twice("", own, rest)
        return {"name": name, **rest, **own}
    result = {"name": SIGN.join(name for name, _ in settings), **rest}
    for name, own in settings:
        beside, before = rest.get(key_of(name)), result.get(key_of(name))
        if isinstance(beside, Mapping):
            _refuse_twice(f"{key_of(name)}.", own, beside)
        if before is None or isinstance(before, Mapping):
            result[key_of(name)] = {**(before or {}), **own}
    return result


def _refuse_twice(place: str, listed: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
    """Refuse a setting that has one value in the list of methods and another one beside it."""
    for key in listed:
        if key in beside and listed[key] != beside[key]:
            raise ConfigError(
                f"method: {place}{key} is {listed[key]} in the list and {beside[key]} beside it",
                remedy="give it in one of the two places",
            )
