"""Errors that a user can act on: what was given, where, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SaplingError(Exception):
    """Base of all errors that Sapling raises on purpose.

    Args:
        what: one sentence on what is wrong, with the value that was given.
        where: file, config path or place that it concerns.
        allowed: what would have been accepted.
        remedy: what to do next, as a command where there is one.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.allowed, self.remedy = what, where, allowed, remedy
        lines = [what]
        if where:
            lines.append(f"  where:   {where}")
        if allowed:
            lines.append(f"  allowed: {allowed}")
        if remedy:
            lines.append(f"  try:     {remedy}")
        super().__init__("\n".join(lines))


class UsageError(SaplingError):
    """The call itself is wrong (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(UsageError):
    """The images, labels or splits that were given cannot be used."""


class ModelError(UsageError):
    """A model name, file or shape cannot be used."""


class MethodError(UsageError):
    """A distillation method is unknown or does not fit this pair of models."""


class GateError(SaplingError):
    """The teacher did not pass the gate."""


class TrainingError(SaplingError):
    """Training cannot go on (a loss is not finite, for example)."""


class RunError(SaplingError):
    """A run folder cannot be used: locked or damaged."""


class ExportError(SaplingError):
    """An exported file does not do what the trained network does."""


def nearest(name: str, choices: Iterable[str], *, count: int = 1) -> str:
    """Say which of ``choices`` is meant by ``name``: ``"did you mean 'kd'?"`` or an empty string."""
    spelt = {choice.lower(): choice for choice in reversed(list(choices))}
    close = [spelt[c] for c in difflib.get_close_matches(name.lower(), spelt, n=count, cutoff=0.5)]
    return f"did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
