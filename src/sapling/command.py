"""The command that was typed, for those who write it down. Known only where ``sapling`` itself was called."""

from __future__ import annotations

import contextlib
import contextvars
import shlex
from collections.abc import Iterator, Sequence

_typed: contextvars.ContextVar[Sequence[str] | None] = contextvars.ContextVar("_typed", default=None)


@contextlib.contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """While the block runs, ``sapling`` and these arguments are the command that was typed."""
    token = _typed.set(tuple(arguments))
    try:
        yield
    finally:
        _typed.reset(token)


def command_line() -> str:
    """The command that makes this run, for the report; empty where Python called: no command would do that again."""
    arguments = _typed.get()
    return "" if arguments is None else shlex.join(["sapling", *arguments])
