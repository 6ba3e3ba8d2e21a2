"""What is wrong with settings, in words. No torch."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from sapling.errors import nearest

LIMITS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


def explain(error: Any, root: type[BaseModel]) -> str:
    """One of pydantic's errors in plain words, with the nearest setting or what is allowed.

    Args:
        error: an entry of ``ValidationError.errors()``.
        root: the model that was validated.
    """
    place = ".".join(str(p) for p in error["loc"] if not isinstance(p, int))
    kind = error["type"]
    if kind == "extra_forbidden":
        parent = _model_at(root, error["loc"][:-1])
        allowed = list(parent.model_fields) if parent else []
        hint = nearest(str(error["loc"][-1]), allowed) or f"allowed: {', '.join(allowed)}"
        return f"{place}: unknown setting; {hint}"
    if kind == "missing":
        return (
            f"{place}: missing; give a folder, a zip file, a CSV file, 'digits' or a public set"
            if "data" in place
            else f"{place}: missing"
        )
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{place}: {message}"
    field = _field_at(root, error["loc"])
    choices = f" ({', '.join(map(str, get_args(field)))})" if field and kind == "literal_error" else ""
    limits = error.get("ctx") or {}
    if kind in LIMITS:
        message = f"must be {LIMITS[kind]} {limits.get(next(iter(limits), ''))}"
    elif kind == "string_pattern_mismatch":
        message = f"allowed: {_description_at(root, error['loc'])}"
    message = "" if choices else message
    return f"{place}: {error['input']!r} is not allowed{choices}; {message}".rstrip("; ")


def _model_at(root: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    model: Any = root
    for part in path:
        model = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _description_at(root: type[BaseModel], path: tuple[Any, ...]) -> str:
    parent = _model_at(root, path[:-1])
    field = parent.model_fields.get(str(path[-1])) if parent else None
    return (field.description if field else None) or "see the guide"


def _field_at(root: type[BaseModel], path: tuple[Any, ...]) -> Any:
    parent = _model_at(root, path[:-1])
    field = parent.model_fields.get(str(path[-1])) if parent else None
    return field.annotation if field else None
