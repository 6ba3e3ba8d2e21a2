"""The names of a network's classes, in the order of its logits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sapling.errors import ModelError
from sapling.models.save import CLASSES, CONFIG


def class_names(folder: Path, config: dict[str, Any], num_classes: int) -> tuple[str, ...]:
    """Names from config.json and classes.txt, which must agree; numbers where there are none at all.

    Raises:
        ModelError: they do not agree, are more or fewer than K, or the file is no list of names in UTF-8.
    """
    listed = config["pretrained_cfg"].get("label_names")
    names = tuple(str(name) for name in listed) if isinstance(listed, list) else None
    file = folder / CLASSES
    if file.is_file():
        lines = _lines(file)
        if names is not None and names != lines:
            raise ModelError(f"{CLASSES} and {CONFIG} name different classes", where=str(folder))
        names = lines
    if names is None:
        return tuple(str(number) for number in range(num_classes))
    if len(names) != num_classes:
        raise ModelError(f"{len(names)} class names for a network of {num_classes} classes", where=str(folder))
    return names


def _lines(file: Path) -> tuple[str, ...]:
    try:
        names = tuple(file.read_text(encoding="utf-8-sig").splitlines())
    except (UnicodeDecodeError, OSError) as error:
        raise ModelError(
            f"{CLASSES} cannot be read: {getattr(error, 'strerror', None) or 'it is not in UTF-8'}",
            where=str(file),
            remedy="save it anew as UTF-8, one class a line in the order of the network",
        ) from None
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ModelError(f"{CLASSES} names the class {twice[0]!r} more than once", where=str(file))
    return names
