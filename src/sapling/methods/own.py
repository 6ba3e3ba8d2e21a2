"""Methods in files of a user's own: where they are imported into, and how an error in one is told. Imports no torch."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from sapling.errors import MethodError, SaplingError

OWN_FILES = "sapling_method_files"
"""Package that such files are imported into."""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """An error inside a method of one's own file becomes one that names file and line; all others are left alone."""
    try:
        yield
    except SaplingError:
        raise
    except Exception as error:  # whatever somebody's own code raises
        steps = traceback.walk_tb(error.__traceback__)
        own = [(f.f_code, line) for f, line in steps if str(f.f_globals.get("__name__")).startswith(f"{OWN_FILES}.")]
        if not own:
            raise
        code, line = own[-1]
        raise MethodError(
            f"the method {Path(code.co_filename).name} failed in {code.co_name}: {type(error).__name__}: {error}",
            where=f"{code.co_filename}, line {line}",
        ) from error


def place_of(error: Exception, path: Path) -> str:
    """The file, and the line that an import of it failed at, where that is known."""
    at = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else at[-1] if at else None
    return str(path) if line is None else f"{path}, line {line}"
