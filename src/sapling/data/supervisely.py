"""Reads classes off annotations in the layout of Supervisely, in which Dataset Ninja publishes; opens no image.

Layout: ``<data set>/img/<image>`` and ``<data set>/ann/<image>.json``, below any folders; a data set that is called
train, val or test is that split. An annotation is a JSON object with ``tags`` of the image and ``objects`` in it.
The class is the one tag without a value, else the value of the one tag that has a text, else the class title that all
objects share. Source: developer.supervisely.com, "Supervisely annotation format".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from sapling.data.layout import (
    SPLIT_NAMES,
    Item,
    Layout,
    check_class_names,
    is_image,
    is_visible,
    many,
    one_spelling,
    printable,
    shared_folder,
)
from sapling.data.listing import Read
from sapling.errors import DataError

MAX_JSON_BYTES = 8 * 2**20
"""Masks of many objects need some megabytes; more is no annotation of a picture to be classified."""
MAX_SEVERAL_PERCENT = 10
"""Where more images than this show several classes, the data are not made for one class per image."""

_SHOWN = 20


def arrange_annotated(paths: Collection[str], read: Read, *, where: str) -> Layout | None:
    """Find classes and given splits in annotations.

    Args:
        paths: posix paths of all files.
        read: reads a file.
        where: the source, for messages.

    Returns:
        None where the files do not lie in this layout.

    Raises:
        DataError: annotations that cannot be read, too many images of several classes, or not two classes.
    """
    known = {path for path in paths if is_visible(path)}
    images = sorted(path for path in known if is_image(path))
    pairs = [(path, ann) for path in images if (ann := _annotation_of(path, known)) is not None]
    if not pairs or 2 * len(pairs) < len(images):
        return None
    notes = ["Labels are those of the Supervisely annotations."]
    if bare := len(images) - len(pairs):
        notes.append(f"Ignored: {many(bare, 'image')} without an annotation.")
    found, none, several = _classes(pairs, read, _object_tags(known, read, where), where)
    if none:
        notes.append(f"Ignored: {many(len(none), 'image')} whose annotation names no class{_examples(none)}.")
    if several:
        told = f"{many(len(several), 'image')} of several classes{_examples(several)}"
        if 100 * len(several) > MAX_SEVERAL_PERCENT * (len(found) + len(several)):
            raise DataError(
                f"{told}: only one class per image is supported so far",
                where=where,
                allowed=f"up to {MAX_SEVERAL_PERCENT} % of such images, which are left out",
                remedy="tag each image with the one class that counts",
            )
        notes.append(f"Ignored: {told}.")
    names = sorted(set(found.values()))
    if not names:
        raise DataError(
            "no annotation names a class", where=where, allowed="one tag per image, or objects of one class"
        )
    check_class_names(names, where)
    number = {name: label for label, name in enumerate(names)}
    shared = shared_folder(_home(path).rpartition("/")[0] for path in found)
    prefix = f"{shared}/" if shared else ""
    items = tuple(
        Item(path[len(prefix) :], number[name], SPLIT_NAMES.get(_home(path).rpartition("/")[2].lower()))
        for path, name in sorted(found.items())
    )
    unplaced = sum(item.split is None for item in items)
    if 0 < unplaced < len(items):
        notes.append(f"Counted to train, from where missing splits are cut: {many(unplaced, 'image')} of no split.")
    return Layout(tuple(names), items, prefix, tuple(notes))


def _home(path: str) -> str:
    """The data set of an image: ``a/train/img/1.jpg`` -> ``a/train``."""
    return path.rpartition("/")[0].rpartition("/")[0]


def _annotation_of(path: str, known: Collection[str]) -> str | None:
    folder, _, name = path.rpartition("/")
    home, slash, last = folder.rpartition("/")
    if last != "img":
        return None
    # Older exports leave the ending of the image out.
    choices = (f"{home}{slash}ann/{stem}.json" for stem in (name, PurePosixPath(name).stem))
    return next((choice for choice in choices if choice in known), None)


def _classes(
    pairs: list[tuple[str, str]], read: Read, object_tags: Collection[str], where: str
) -> tuple[dict[str, str], list[str], list[str]]:
    """Class of every image that has one, images without any, and images of several."""
    found: dict[str, str] = {}
    none: list[str] = []
    several: list[str] = []
    wrong: list[str] = []
    for path, annotation in pairs:
        try:
            names = _names(_load(annotation, read), object_tags)
        except ValueError as error:
            wrong.append(f"{printable(annotation)}: {error}")
            continue
        if len(names) == 1:
            found[path] = names.pop()
        else:
            (several if names else none).append(path)
    if wrong:
        shown = "".join(f"\n    {line}" for line in wrong[:_SHOWN])
        more = f"\n    and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"{len(wrong)} of {many(len(pairs), 'annotation')} cannot be used:{shown}{more}",
            where=where,
            remedy="export the project anew, or remove these files and their images",
        )
    return found, none, several


def _load(path: str, read: Read) -> Mapping[str, Any]:
    """Read a JSON object, or raise ValueError with the reason in a user's words."""
    try:
        data = read(path, MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than the {MAX_JSON_BYTES:,} bytes that are read")
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:  # no JSON, no text, or a number of too many digits
        raise ValueError("it is no JSON") from None
    if not isinstance(content, Mapping):
        raise ValueError("it holds no JSON object")
    return content


def _names(annotation: Mapping[str, Any], object_tags: Collection[str]) -> set[str]:
    """Names of the classes that an annotation gives to its image."""
    tags = [
        (name, tag.get("value"))
        for tag in _list(annotation, "tags")
        if (name := _text(tag.get("name"))) and name not in object_tags
    ]
    plain = {name for name, value in tags if value is None}
    if plain:
        return plain
    if values := {text for _, value in tags if (text := _text(value))}:
        return values
    return {title for thing in _list(annotation, "objects") if (title := _text(thing.get("classTitle")))}


def _list(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = content.get(key)
    return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _text(value: object) -> str:
    return one_spelling(value.strip()) if isinstance(value, str) else ""


def _object_tags(known: Collection[str], read: Read, where: str) -> set[str]:
    """Tags that ``meta.json``, where there is one, keeps for objects: on an image they are no class of it."""
    metas = sorted((path for path in known if PurePosixPath(path).name == "meta.json"), key=lambda p: (p.count("/"), p))
    if not metas:
        return set()
    try:
        meta = _load(metas[0], read)
    except ValueError as error:
        raise DataError(f"meta.json cannot be used: {error}", where=f"{where}: {printable(metas[0])}") from error
    return {_text(tag.get("name")) for tag in _list(meta, "tags") if tag.get("applicable_type") == "objectsOnly"}


def _examples(paths: list[str]) -> str:
    return f" ({', '.join(printable(path) for path in paths[:3])}{', ..' if len(paths) > 3 else ''})"
