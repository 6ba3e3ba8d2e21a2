"""The model card: the README.md that travels with a student. Reads results.json's dictionary, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sapling.data.layout import many

_SHOWN_CLASSES = 50


def write_model_card(folder: str | Path, results: Mapping[str, Any]) -> None:
    """Write ``folder/README.md``: what the model is, what it is worth, how to load it, what it is not for.

    Args:
        folder: the ``student/`` folder.
        results: the contents of results.json; parts that are missing are left out.
    """
    folder = Path(folder)
    text = "\n".join(_lines(results)) + "\n"
    temporary = folder / f".README.md.{os.getpid()}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / "README.md")
    finally:
        temporary.unlink(missing_ok=True)


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    manifest = _part(results, "manifest")
    shipped = _part(results, "shipped")
    members = [member for member in results.get("members") or [] if isinstance(member, Mapping)]
    member = next((m for m in members if m.get("name") == shipped.get("member")), members[0] if members else {})
    student = str(manifest.get("student") or "unknown network")
    classes = [str(name) for name in results.get("classes") or []]

    yield f"# {_plain(results.get('name') or 'student')}"
    yield ""
    several = results.get("multi_label") is True
    what = f"{len(classes)} labels, of which an image may have several" if several else f"{len(classes)} classes"
    yield f"An image classifier ({_plain(student)}) for {what}, made by Sapling."
    verdict = _part(_part(results, "comparison"), "verdict")
    if verdict.get("statement"):
        yield ""
        yield f"> {_plain(verdict['statement'])}"
        if verdict.get("scope"):
            yield f"> {_plain(verdict['scope'])}"
    if shipped.get("reason"):
        yield ""
        yield f"Shipped is the member `{_code(shipped.get('member'))}`: {_plain(shipped['reason'])}"
    for warning in results.get("warnings") or []:
        yield ""
        yield f"**Warning:** {_plain(warning)}"

    yield from ["", "## How good it is", ""]
    yield from _quality(results, member)

    yield from ["", "## How it was trained", ""]
    yield from _training(results, manifest)

    yield from ["", "## How to use it", ""]
    yield from _usage(student, folder_has_onnx="onnx" in _part(results, "deploy"), has_bands="bands" in manifest)
    if several:
        yield ""
        yield "**Each logit answers for itself:** its sigmoid is the probability of that label, and a label is given"
        yield "from 0.5 on. A softmax over the logits would be wrong."

    yield from ["", "## What it is for, and what not", ""]
    if several:
        yield "It tells which of the labels below images like those it was trained on have. Of anything else it"
        yield "knows nothing and says so to nobody. The figures above hold for the test images of this data set;"
    else:
        yield "It tells the classes below apart in images like those it was trained on. An image of anything else is"
        yield "put into one of these classes all the same. The figures above hold for the test images of this data set;"
    yield "for another camera, place or season measure again: `sapling evaluate MODEL DATA`. The licences of the data,"
    yield "of the teacher's weights and of published weights that training started from apply; those that Sapling found"
    yield "stated stand above, and it cannot know the others."

    yield from ["", "## Classes", ""]
    shown = ", ".join(_plain(name) for name in classes[:_SHOWN_CLASSES])
    more = len(classes) - _SHOWN_CLASSES
    yield shown + (f" and {more} more (all are in classes.txt)" if more > 0 else "")


def _quality(results: Mapping[str, Any], member: Mapping[str, Any]) -> Iterator[str]:
    teacher = _part(results, "teacher")
    rows: list[tuple[str, Any, Any]] = []
    for label, key in (
        ("mean average precision", "map"),
        ("area under the ROC curve", "auc"),
        ("top-1 accuracy", "top1"),
        ("top-5 accuracy", "top5"),
        ("macro F1", "macro_f1"),
        ("calibration error (ECE)", "ece"),
    ):
        mine, theirs = _part(member, "test").get(key), _part(teacher, "test").get(key)
        if mine is not None:
            rows.append((label, _percent(mine), _percent(theirs)))
    for label, key in (("parameters", "parameters"), ("multiply-accumulates per image", "macs")):
        if member.get(key) is not None:
            rows.append((label, _count(member[key]), _count(teacher.get(key))))
    if not rows:
        yield "It was not measured on test images."
        return
    images = _part(member, "test").get("num_images")
    yield f"On {images:,} test images:" if isinstance(images, int) else "On the test images:"
    yield ""
    yield "| | this model | its teacher |" if teacher else "| | this model |"
    yield "|---|---|---|" if teacher else "|---|---|"
    for label, mine, theirs in rows:
        yield f"| {label} | {mine} | {theirs} |" if teacher else f"| {label} | {mine} |"
    verdict = _part(_part(results, "comparison"), "verdict")
    if all(isinstance(verdict.get(key), (int, float)) for key in ("difference", "low", "high")):
        level = verdict.get("confidence")
        name = f"{100 * level:.0f} % interval" if isinstance(level, (int, float)) else "interval"
        yield ""
        yield (
            f"Distilled minus control ({_plain(verdict.get('measure', 'top1'))}, over "
            f"{_counted(verdict.get('num_seeds'), 'seed')}): {100 * verdict['difference']:+.2f} percentage points, "
            f"{name} {100 * verdict['low']:+.2f} to {100 * verdict['high']:+.2f}."
        )
    onnx = _part(_part(results, "deploy"), "onnx")
    single = _part(_part(onnx, "latency_ms"), "1")
    if isinstance(onnx.get("bytes"), int) and isinstance(single.get("p50"), (int, float)):
        yield ""
        yield (
            f"As ONNX: {onnx['bytes'] / 1e6:.2f} MB, {single['p50']:.2f} ms per image (median) with "
            f"{_counted(onnx.get('threads'), 'thread')} on the machine that made it."
        )


def _counted(number: object, noun: str) -> str:
    return many(number, noun) if isinstance(number, int) else f"? {noun}s"


def _training(results: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    teacher, data, split = _part(results, "teacher"), _part(manifest, "data"), _part(manifest, "split")
    student = _part(results, "student")
    alone = _part(results, "shipped").get("arm") == "control"
    facts: list[tuple[str, Any]] = [
        ("data", data.get("source")),
        ("images (train, val, test)", [split.get(key) for key in ("train", "val", "test")] if split else None),
        ("teacher", teacher.get("model")),
        ("the teacher's answers", teacher.get("answers")),
        ("where the teacher is from", teacher.get("origin")),
        ("the teacher started from", teacher.get("started_from")),
        ("licence of the teacher's weights", teacher.get("licence")),
        ("this network started from", student.get("started_from")),
        ("licence of the weights it started from", student.get("licence") if student.get("started_from") else None),
        ("method", "none: it learned from the labels alone" if alone else manifest.get("method")),
        ("seeds", manifest.get("seeds")),
        ("epochs", manifest.get("epochs")),
        ("image size", manifest.get("img_size")),
        ("bands", manifest.get("bands")),
        ("data fingerprint", data.get("fingerprint")),
        ("Sapling", results.get("sapling_version")),
    ]
    for label, value in facts:
        if value is not None and value != "":
            listed = isinstance(value, Sequence) and not isinstance(value, str)
            yield f"* {label}: {_plain(', '.join(map(str, value)) if listed else value)}"


def _usage(student: str, *, folder_has_onnx: bool, has_bands: bool) -> Iterator[str]:
    yield "```"
    yield f"sapling predict FOLDER {'image.tif' if has_bands else 'photo.jpg'}"
    yield "```"
    yield ""
    own = "sapling_" in student or student.startswith("cnn")
    yield "```python"
    yield "import timm"
    yield "import sapling.models" + (
        "  # registers this network with timm" if own else "  # for Sapling's own networks"
    )
    yield ""
    yield 'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()'
    yield "```"
    yield ""
    images = "have the bands and the range of values" if has_bands else "are RGB in [0,1], resized and normalised as"
    yield f"**Without `pretrained=True` timm silently gives random weights.** Images {images}"
    yield "config.json says; the classes stand in classes.txt, in the order of the logits."
    if folder_has_onnx:
        yield "`model.onnx` needs neither torch nor timm; there the normalisation is inside the file."


def _part(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> str:
    """One line of text that Markdown and HTML leave alone: names come from folders of strangers."""
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for mark in "`*_[]|#>":
        text = text.replace(mark, "\\" + mark)
    return text


def _code(value: Any) -> str:
    return " ".join(str(value).split()).replace("`", "'")


def _percent(value: Any) -> str:
    return f"{100 * value:.2f} %" if isinstance(value, (int, float)) else "-"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"
