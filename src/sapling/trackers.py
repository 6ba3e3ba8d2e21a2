"""Programs that can follow a run: their names, and whether they are installed. No torch; nothing is imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from sapling.errors import UsageError, nearest

TRACKERS = ("tensorboard", "wandb", "mlflow")
"""Named as accelerate, and as the package of each, names them."""
EXTRA = "sapling-kd[track]"


def parse_trackers(given: Any) -> tuple[str, ...]:
    """Read the setting ``output.trackers``: ``"tensorboard"``, ``["tensorboard", "wandb"]`` or None; each once.

    Raises:
        ValueError: one is unknown.
    """
    words = given.split(",") if isinstance(given, str) else [] if given is None else given
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{given!r} is not allowed; a list of {', '.join(TRACKERS)}")
    names = tuple(dict.fromkeys(word.strip() for word in words))
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"{name!r} is unknown; allowed: {', '.join(TRACKERS)}. {nearest(name, TRACKERS)}".strip())
    return names


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers whose packages are missing, before anything is trained.

    Raises:
        UsageError: names the packages and the command that installs them.
    """
    wanted = list(names)
    missing = [name for name in ["accelerate", *wanted] if wanted and not _is_there(name)]
    if not missing:
        return
    # accelerate and tensorboard are in the extra; the other two are large, and installed by name
    more = [name for name in missing if name in ("wandb", "mlflow")]
    raise UsageError(
        f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} needed to follow the run with "
        f"{', '.join(wanted)}, and not installed",
        where="output.trackers (--track)",
        remedy=" ".join(["pip install", f"'{EXTRA}'", *more]),
    )


def _is_there(package: str) -> bool:
    if package in sys.modules:
        return True
    spec = importlib.util.find_spec(package)
    # without an origin it is a mere folder of that name, such as the wandb/ that wandb leaves behind
    return spec is not None and spec.origin is not None
