"""The page of a dataset card: what is wrong with the images, and what they look like. One file, no script, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sapling.report import wording
from sapling.report.folder import block, inner, listing, number
from sapling.report.page import page_environment, write_page

SHOWN_PAIRS = 60
_OPEN_PAIRS, _OPEN_CLASSES, _LISTED = 12, 40, 200
_SIGNS = {"leak": "✕", "error": "✕", "warning": "!", "note": "·"}
_PARTS = (("train", "training"), ("val", "validation"), ("test", "test"), ("none", "in no part"))
_KINDS = {"folder": "a folder", "zip": "a zip file", "csv": "a CSV file", "digits": "built in"}


def write_inspection(
    path: Path, card: Mapping[str, Any], *, sheet: Sequence[Sequence[str]], pictures: Mapping[str, str]
) -> Path:
    """Write the page of a dataset card.

    Args:
        path: of the page.
        card: the content of ``inspect.json``.
        sheet: keys of the images to show of each class, in the order of the classes.
        pictures: ``data:`` addresses of small pictures by key.

    Returns:
        ``path``.
    """
    classes = [wording.clean(name) for name in listing(card, "classes")]
    content = {
        "name": wording.clean(card.get("name") or "data"),
        "created": str(card.get("created") or "")[:10],
        "version": str(card.get("sapling_version") or ""),
        "headline": _headline(card),
        "facts": _facts(card),
        "findings": [_finding(f) for f in listing(card, "findings")],
        "duplicates": _duplicates(card, pictures),
        "classes": _classes(card, classes),
        "sheet": _sheet(classes, sheet, pictures),
        "files": _files(card),
        "channels": _channels(card),
        "lists": _lists(card),
        "notes": [wording.sentence(note) for note in listing(card, "notes")],
        "commands": [{"what": wording.clean(w), "command": wording.clean(c)} for w, c in listing(card, "commands")],
    }
    return write_page(path, page_environment().get_template("inspection.html.j2").render(content))


def _headline(card: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong, in one sentence, or that nothing was found."""
    found = listing(card, "findings")
    worst = next((s for s in ("leak", "error", "warning") if any(f.get("severity") == s for f in found)), "")
    first: dict[str, Any] = next((f for f in found if f.get("severity") == worst), {})
    num_images, num_classes = number(card.get("num_images")), len(listing(card, "classes"))
    what = f"{wording.count(num_images)} images of {wording.plural(num_classes, 'class', 'classes')}"
    others = sum(f.get("severity") in ("leak", "error", "warning") for f in found) - 1
    more = f"{wording.plural(others, 'more finding')} below." if others > 0 else ""
    if worst:
        tone = "fair" if worst == "warning" else "bad"
        badge = {"leak": "A run would stop: leak", "error": "A run would stop", "warning": "Worth a look"}[worst]
        text = wording.sentence(first.get("text", ""))
        return {"tone": tone, "sign": _SIGNS[worst], "badge": badge, "text": text, "lead": f"In {what}. {more}".strip()}
    looked = "broken files, wrong endings, copies (also mirrored and turned), leaks between splits, groups, imbalance"
    lead = f"Looked for: {looked}."
    return {"tone": "good", "sign": "✓", "badge": "Ready", "text": f"Nothing wrong was found in {what}.", "lead": lead}


def _facts(card: Mapping[str, Any]) -> list[dict[str, str]]:
    counts = block(card, "counts")
    totals = [(title, sum(map(int, counts[part]))) for part, title in _PARTS if counts.get(part)]
    split = ", ".join(f"{wording.count(total)} {title}" for title, total in totals)
    facts = [
        {"value": wording.count(number(card.get("num_images"))), "label": "images", "note": split},
        {"value": wording.count(len(listing(card, "classes"))), "label": "classes", "note": ""},
    ]
    ratio = number(card.get("imbalance"))
    if ratio is not None:
        facts.append({"value": f"{ratio:.3g} : 1", "label": "largest to smallest class", "note": "training images"})
    if groups := number(card.get("num_groups")):
        facts.append({"value": wording.count(groups), "label": "groups of images", "note": "kept together in splits"})
    middle = number(inner(card, "sizes", "short_side", "median"))
    if middle is not None:
        low, high = (number(inner(card, "sizes", "short_side", key)) for key in ("smallest", "largest"))
        note = "all of them" if low == high else f"{wording.count(low)} to {wording.count(high)}"
        facts.append({"value": f"{wording.count(middle)} px", "label": "short side, median", "note": note})
    same = number(inner(card, "duplicates", "num_images"))
    if same is not None:
        facts.append({"value": wording.count(same), "label": "images that show what another one shows", "note": ""})
    return facts


def _finding(entry: Mapping[str, Any]) -> dict[str, Any]:
    severity = str(entry.get("severity"))
    severity = severity if severity in _SIGNS else "note"
    examples = [wording.clean(name) for name in listing(entry, "examples")]
    return {
        "severity": severity,
        "sign": _SIGNS[severity],
        "text": wording.sentence(entry.get("text", "")),
        "remedy": wording.clean(entry["remedy"]) if entry.get("remedy") else "",
        "examples": examples,
        "shown": wording.plural(len(examples), "example"),
        "open": severity in ("leak", "error"),
    }


def _duplicates(card: Mapping[str, Any], pictures: Mapping[str, str]) -> dict[str, Any] | None:
    found = block(card, "duplicates")
    pairs = [pair for pair in listing(found, "pairs") if isinstance(pair, Mapping)]
    if not pairs:
        return None
    counts = {key: int(number(found.get(key)) or 0) for key in found if key.startswith("num_")}
    total = counts.get("num_exact", 0) + counts.get("num_near", 0)
    parts = [
        f"{wording.count(counts[key])} {title}"
        for key, title in (
            ("num_exact", "exact"),
            ("num_near", "nearly the same"),
            ("num_transformed", "mirrored or turned"),
            ("num_crossing", "across splits"),
            ("num_conflicting", "with two labels"),
        )
        if counts.get(key)
    ]
    sentence = f"{wording.plural(total, 'pair')} of images: {', '.join(parts)}."
    shown = [_pair(pair, pictures) for pair in pairs[:SHOWN_PAIRS]]
    rest = total - len(shown)
    first = _OPEN_PAIRS if len(shown) > _OPEN_PAIRS + 3 else len(shown)
    more = f"{wording.plural(rest, 'more pair')}; inspect.json lists them." if rest > 0 else ""
    note = "Pairs of images that show the same picture: those across splits first, then those with two labels."
    return {"sentence": sentence, "pairs": shown[:first], "folded": shown[first:], "more": more, "note": note}


def _pair(pair: Mapping[str, Any], pictures: Mapping[str, str]) -> dict[str, Any]:
    keys, classes, parts = ([str(v) for v in listing(pair, name)] for name in ("images", "classes", "parts"))
    titles = dict(_PARTS)
    images = [
        {
            "name": wording.clean(key),
            "src": pictures.get(key, ""),
            "where": ", ".join(filter(None, (wording.clean(name), titles.get(part, "")))),
        }
        for key, name, part in zip(keys, classes, parts, strict=True)
    ]
    transform = str(pair.get("transform", "none"))
    how = "exact copy" if pair.get("kind") == "exact" else "nearly the same"
    if transform != "none":
        how += f", {wording.clean(transform)}" + ("°" if transform.startswith("rotated") else "")
    crosses = len(set(parts)) == 2 and all(parts)
    disagrees = len(set(classes)) == 2
    how += " · across splits" * crosses + " · two labels" * disagrees
    return {"images": images, "how": how[0].upper() + how[1:], "crosses": crosses, "disagrees": disagrees}


def _classes(card: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    counts = block(card, "counts")
    there = [(part, title) for part, title in _PARTS if any(listing(counts, part))]
    totals = [sum(int(counts[part][k]) for part, _ in there) for k in range(len(classes))]
    largest = max([*totals, 1])
    rows = []
    for k in sorted(range(len(classes)), key=lambda k: (-totals[k], k)):
        shares = [(part, round(100 * int(counts[part][k]) / largest, 2)) for part, _ in there if counts[part][k]]
        spoken = ", ".join(f"{counts[part][k]} {title}" for part, title in there)
        rows.append({"name": classes[k], "bars": shares, "total": wording.count(totals[k]), "spoken": spoken})
    ratio = number(card.get("imbalance"))
    how = {
        "made here": "The split is made by Sapling, stratified by class (or by all labels of an image).",
        "given": "The split was given.",
        "partly given": "A part of the split was given; the rest is cut by Sapling.",
        "none": "No split can be made of these images.",
    }.get(str(card.get("split")), "")
    low, high = min(totals, default=0), max(totals, default=0)
    sentence = f"Every class has {wording.plural(low, 'image')}." if low == high else ""
    if low != high and ratio is not None:
        sentence = f"The largest class has {wording.count(high)} images, the smallest {wording.count(low)}."
    rest = rows[_OPEN_CLASSES:] if len(rows) > _OPEN_CLASSES + 5 else []
    return {
        "sentence": f"{sentence} {how}".strip(),
        "note": "Images that can be used, the largest class first.",
        "legend": there if len(there) > 1 else [],
        "rows": rows[: len(rows) - len(rest)],
        "hidden": rest,
    }


def _sheet(classes: Sequence[str], sheet: Sequence[Sequence[str]], pictures: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for name, keys in zip(classes, sheet, strict=True):
        images = [{"name": wording.clean(key), "src": pictures[key]} for key in keys if key in pictures]
        if images:
            rows.append({"name": name, "images": images})
    return rows


def _files(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = block(card, "sizes")
    rows = [("Source", f"{wording.clean(card.get('source', ''))} ({_KINDS.get(str(card.get('kind')), 'data')})")]
    if sizes:
        for key, title in (("short_side", "Short side"), ("long_side", "Long side")):
            low, middle, high = (number(inner(sizes, key, k)) for k in ("smallest", "median", "largest"))
            same = f"{wording.count(middle)} pixels, all images"
            span = f"{wording.count(low)} to {wording.count(high)} pixels, median {wording.count(middle)}"
            rows.append((title, same if low == high else span))
        common = ", ".join(f"{w} × {h} ({wording.count(n)})" for w, h, n in listing(sizes, "common"))
        different = int(number(sizes.get("num_different")) or 0)
        if different > 1:
            rows.append(("Sizes met most often", common + (f" of {different:,} different" if different > 5 else "")))
    for key, title in (("formats", "Formats"), ("modes", "Pixel modes")):
        if found := block(card, key):
            rows.append((title, ", ".join(f"{wording.clean(k)} {wording.count(number(v))}" for k, v in found.items())))
    for key, title in (("num_rotated", "Turned by an EXIF tag"), ("img_size", "Size that networks would see")):
        if value := number(card.get(key)):
            rows.append((title, wording.count(value) + (" pixels" if key == "img_size" else " images")))
    if card.get("seconds") is not None:
        rows.append(("Time of this look", wording.duration(number(card.get("seconds")))))
    if card.get("fingerprint"):
        rows.append(("Fingerprint", wording.clean(card["fingerprint"])[:16] + "…"))
    return rows


def _channels(card: Mapping[str, Any]) -> dict[str, Any] | None:
    found = block(card, "channels")
    if not found:
        return None
    means, spreads = listing(found, "mean"), listing(found, "std")
    names = ("Red", "Green", "Blue") if len(means) == 3 else tuple(f"Channel {k}" for k in range(1, len(means) + 1))
    rows = [
        (n, wording.plain(number(m)), wording.plain(number(s))) for n, m, s in zip(names, means, spreads, strict=True)
    ]
    images = wording.count(number(found.get("num_images")))
    note = f"Of {images} training images, in [0, 1], as they lie in the store."
    if number(found.get("grey_share")) == 1:
        note += " All images are grey."
    return {"rows": rows, "note": note}


def _lists(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Names that are too many for a sentence."""
    broken = [(b.get("key"), b.get("reason")) for b in listing(card, "broken")]
    wrong = [(w.get("key"), f"is {w.get('format')}") for w in listing(card, "wrong_suffixes")]
    torn = [(name, "images in more than one part") for name in listing(card, "torn_groups")]
    small = [(key, f"{w} × {h}") for key, w, h in listing(card, "sizes", "smallest")]
    found = []
    for title, rows in (
        ("Files that cannot be used", broken),
        ("Files with a wrong ending", wrong),
        ("Groups that the split parts", torn),
        ("The smallest images", small),
    ):
        if rows:
            rest = len(rows) - _LISTED
            found.append(
                {
                    "title": f"{title} ({len(rows):,})" if rows is not small else title,
                    "rows": [(wording.clean(name), wording.clean(what)) for name, what in rows[:_LISTED]],
                    "more": f"{rest:,} more stand in inspect.json." if rest > 0 else "",
                    "open": rows is broken,
                }
            )
    return found
