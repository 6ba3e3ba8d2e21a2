"""Groups: images that show the same thing (views of one tree, slices of one patient) and must not part ways.

Where they do, the test images have been seen in training, and every figure is too good. Groups are read off
the file names by a pattern; where nobody gave one, names that look like it are pointed out.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from sapling.data.layout import Item, many
from sapling.data.sources import Source
from sapling.errors import ConfigError

WORDS = ("view", "angle", "frame", "slice", "crop", "tile", "patch", "aug", "rot", "copy", "shot")
"""Words that number the pictures of one thing, as in oak_17_view120.png or patient3-slice-004.png."""
_NUMBERED = re.compile(rf"^(.+?)([-_ ]({'|'.join(WORDS)})[-_ ]?)\d+$", re.IGNORECASE)


def with_groups(source: Source, pattern: str) -> Source:
    """Copy a source, with groups read off the file names.

    Args:
        source: the images; groups that it has already are replaced.
        pattern: regular expression; see :func:`group_texts` for what is searched and what names the group. An
            image without a match stands alone.

    Raises:
        ConfigError: the pattern is no regular expression or matches no file name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the group pattern {pattern!r} is no regular expression: {error}") from error
    keys = [item.key for item in source.items]
    # One thing may have other labels in each of its pictures (a patient, from year to year): the text alone counts.
    classes = [""] * len(keys) if source.multi_label else [source.classes[item.label] for item in source.items]
    found = group_texts(keys, classes, compiled)
    sizes = Counter(group for group in found if group)
    if not sizes:
        where = "path" if _is_for_paths(pattern) else "file name"
        raise ConfigError(
            f"the group pattern {pattern!r} matches no {where}, for example not {source.items[0].key!r}",
            where=source.location,
        )
    items = tuple(replace(item, group=group) for item, group in zip(source.items, found, strict=True))
    note = (
        f"{many(len(sizes), 'group')} by the pattern {pattern!r}, {many(max(sizes.values()), 'image')} in the largest"
    )
    alone = sum(group is None for group in found)
    note += f"; {many(alone, 'image')} without a match." if alone else "."
    notes = (*source.notes, note)
    if not _is_for_paths(pattern) and (shared := _shared_texts(found)):
        shared_note = (
            f"{many(len(shared), 'group name')} such as {shared[0]!r} in more than one class: counted as different "
            "groups. If they are one thing (a patient), write the pattern with the / before the file name."
        )
        notes = (*notes, shared_note)
    return replace(source, items=items, notes=notes)


def group_texts(keys: Sequence[str], classes: Sequence[str], pattern: re.Pattern[str]) -> list[str | None]:
    r"""Name the group of each image; None where the pattern finds nothing.

    What the first parenthesis of the pattern finds, or else the whole match, names the group. A pattern without
    a ``/`` is searched in the file name, and groups of different classes are different groups:
    ``oak/7_view0.png`` and ``ash/7_view0.png`` show two trees. A pattern with a ``/`` (other than in brackets) is
    searched in the whole path below the folder that all images share, and the text alone counts: with
    ``/(patient\d+)_`` a patient whose images are in several classes is one group.

    Args:
        keys: ``[N]`` paths inside the source.
        classes: ``[N]`` class names, so that groups of one class in train and in val are the same.
        pattern: compiled.
    """
    in_path = _is_for_paths(pattern.pattern)
    found: list[str | None] = []
    for key, name in zip(keys, classes, strict=True):
        match = pattern.search(key if in_path else PurePosixPath(key).name)
        text = match.group(1 if pattern.groups else 0) if match else None
        found.append((text if in_path else f"{name}/{text}") if text else None)
    return found


def _is_for_paths(pattern: str) -> bool:
    """Whether a pattern asks for a slash; one in brackets, as in ``[^/]+_view``, does not."""
    return "/" in re.sub(r"\[\^?\]?[^\]]*\]", "", pattern)


def _shared_texts(groups: Sequence[str | None]) -> list[str]:
    """Names that groups of more than one class have."""
    count = Counter(group.partition("/")[2] for group in set(groups) if group)
    return sorted(text for text, classes in count.items() if classes > 1)


def propose_pattern(items: tuple[Item, ...]) -> str | None:
    """Find a group pattern that the file names seem to ask for; None where they do not.

    They do where most names end in a numbered word such as ``_view120`` and share what stands before it.
    """
    # Not PurePosixPath: of a million names it makes half of the time of a split.
    stems = (posixpath.splitext(posixpath.basename(item.key))[0] for item in items)
    matches = [match for stem in stems if (match := _NUMBERED.match(stem))]
    if len(matches) < 0.5 * len(items):
        return None
    groups = {match.group(1) for match in matches}
    if len(matches) < 1.5 * len(groups):
        return None
    word = Counter(match.group(2) for match in matches).most_common(1)[0][0]
    return f"(.+){word}"
