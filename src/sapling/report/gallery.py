"""Test images to look at, from ``gallery.json``: small pictures inside the page, and what everyone answered."""

from __future__ import annotations

import re
from typing import Any

from sapling.report import wording
from sapling.report.folder import block, inner, listing, number
from sapling.report.summary import Summary
from sapling.report.svg import MOST_LETTERS

MOST = 24  # of a kind, whatever the file holds
MOST_BYTES = 64_000  # of a picture as text
_PICTURE = re.compile(r"data:image/(?:jpeg|png);base64,[A-Za-z0-9+/]+={0,2}")
_ARMS = (("teacher", "Teacher"), ("control", "Control"), ("student", "Distilled"))
_KINDS = {
    "gained": ("Gained", "The student is right more often than the control, over the seeds; the most telling first."),
    "lost": ("Lost", "The student is right less often than the control."),
    "mistakes": (
        "Its surest mistakes",
        (
            "The wrong answers that the student is surest of, the surest first{range}. Where the label of the data is "
            "wrong, it shows up here, too."
        ),
    ),
    "disagreements": (
        "Other answers than the teacher's",
        "Where the two differ, in the order of the certainty of the less sure one{range}. Either may be right.",
    ),
}
_SIGNS = {"yes": ("✓", "right"), "some": ("~", "right under some seeds"), "no": ("✕", "wrong")}


def gallery_section(summary: Summary) -> dict[str, Any] | None:
    """Groups of pictures; None where a run has none (older runs, or ``output.pictures: 0``)."""
    content = summary.record.gallery
    pictures = block(content, "pictures")
    seeds = int(number(content.get("num_seeds")) or 1)
    groups = []
    for kind, (title, note) in _KINDS.items():
        entries = [e for e in listing(content, "kinds", kind) if isinstance(e, dict)][:MOST]
        shown = [s for e in entries if (s := _shot(e, pictures, kind, seeds, summary)) is not None]
        if shown:
            sure = [s["sure"] for s in shown if s["sure"] is not None]
            span = f", here from {wording.share(max(sure), 0)} to {wording.share(min(sure), 0)}" if sure else ""
            note = note.format(range=span)
            if kind in ("gained", "lost") and seeds > 1:
                note += " ✓ right under every seed, ~ under some, ✕ under none; the answer is that of their mean."
            groups.append({"kind": kind, "title": title, "note": note, "shots": shown})
    return {"groups": groups} if groups else None


def _shot(
    entry: dict[str, Any], pictures: dict[str, Any], kind: str, seeds: int, summary: Summary
) -> dict[str, Any] | None:
    picture = pictures.get(str(entry.get("image")))
    if not isinstance(picture, str) or len(picture) > MOST_BYTES or not _PICTURE.fullmatch(picture):
        return None
    truth = _names(entry.get("truth"))
    lines, certain = [], []
    for key, name in _ARMS:
        answer = block(entry, "answers", key)
        if not answer or (kind in ("gained", "lost") and key == "teacher"):
            continue
        sure = number(answer.get("certainty"))
        said = _names(answer.get("names"))
        state = "yes" if inner(answer, "right") is True else "no"
        if kind in ("gained", "lost") and seeds > 1:
            known = int(number(answer.get("seeds_right")) or 0)
            detail = f"right in {known}\u00a0of\u00a0{seeds}"
            state = "yes" if known >= seeds else "some" if known > 0 else "no"
        else:
            detail = wording.share(sure, 0) if sure is not None and not summary.multi_label else ""
        name = "Answer" if key == "student" and not summary.is_comparison else name
        sign, meaning = _SIGNS[state]
        lines.append({"arm": name, "said": said, "detail": detail, "state": state, "sign": sign, "meaning": meaning})
        if sure is not None and key in (("student",) if kind == "mistakes" else ("student", "teacher")):
            certain.append(sure)
    if not lines:
        return None
    image = wording.clean(entry.get("image") or "")
    return {
        "picture": picture,
        "alt": f"Test image {image}, in truth {truth}",
        "image": wording.shorten(image.rpartition("/")[2] or image, MOST_LETTERS),
        "truth": truth,
        "lines": lines,
        "sure": None if summary.multi_label else min(certain, default=None),
    }


def _names(values: Any) -> str:
    """``a, b``; images without a label have ``none``."""
    names = [wording.shorten(v, MOST_LETTERS) for v in values[:6]] if isinstance(values, list) else []
    return ", ".join(names) or "none"
