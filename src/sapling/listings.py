"""Lists of what there is: named public sets, networks. No torch unless sizes are asked for."""

from __future__ import annotations

import json
import sys

from sapling.errors import UsageError, nearest
from sapling.screen import Screen
from sapling.tables import new_table, open_console

FEW_MODELS, MOST_MODELS = 20, 100


def show_datasets(*, as_json: bool) -> None:
    """The named public data sets: a table, or JSON with licence, citation and where each lies."""
    from sapling.data.named import named_sets

    sets = named_sets().values()
    if as_json:
        keys = ("name", "title", "images", "classes", "mb", "licence", "citation", "note", "address", "extra")
        found = [{**{k: getattr(s, k) for k in keys}, "folder": str(s.home), "is_here": s.is_here} for s in sets]
        print(json.dumps(found, ensure_ascii=False))
        return
    columns = (("name", "left"), ("images", "right"), ("classes", "right"), ("MB", "right"), ("licence", "left"))
    table = new_table(*columns, ("needs", "left"), ("what it shows", "left"))
    for s in sets:
        needs = "" if s.is_here else "by hand" if s.loader == "hand" else f"extra {s.extra}" if s.extra else "network"
        table.add_row(s.name, f"{s.images:,}", str(s.classes), f"{s.mb:,}", s.licence, needs or "is here", s.title)
    open_console().print(table)
    print("and digits, which needs no download. Licence and citation of each: sapling datasets --json")


def show_models(pattern: str, *, sizes: bool, as_json: bool) -> None:
    """Names that fit a pattern, one per line; with their costs for few of them on a terminal, or where asked for."""
    from sapling.models.create import list_models

    found = list_models(pattern)
    if not found:
        stems = {name.rstrip("0123456789").partition("_")[0] for name in list_models()}
        bare = pattern.strip("*?")
        hint = f"sapling models '{bare}*'" if bare in stems else nearest(bare, stems, count=3)
        raise UsageError(f"no model fits {pattern!r}", remedy=hint or "sapling models")
    sizes = sizes or (sys.stdout.isatty() and len(found) <= FEW_MODELS)
    if not sizes:
        print(json.dumps(found) if as_json else "\n".join(found))
        return
    if len(found) > MOST_MODELS:
        raise UsageError(
            f"{len(found)} models fit {pattern!r}: their sizes are counted one by one",
            allowed=f"a pattern that fits {MOST_MODELS} or fewer",
            remedy="sapling models 'resnet18*' --sizes",
        )
    from sapling.models.catalogue import describe_model

    cards = []
    with Screen().bar("counting", len(found)) as bar:
        for name in found:
            bar.advance(0, name)
            cards.append(describe_model(name))
            bar.advance(1, name)
    if as_json:
        print(json.dumps([card.as_dict() for card in cards]))
        return
    from rich.text import Text

    table = new_table(("", "left"), ("parameters", "right"), ("MACs", "right"), ("at px", "right"))
    for title in ("published weights", "licence"):
        table.add_column(title)
    for column in table.columns:
        column.overflow = "fold"  # nothing is cut off: names are there to be copied
    for card in cards:
        cost = [f"{value:,}" if value is not None else "?" for value in (card.parameters, card.macs)]
        shown = ", ".join(card.weights[:3]) + (f" +{len(card.weights) - 3}" if len(card.weights) > 3 else "")
        licence = card.licence or "not stated" if card.weights else ""
        table.add_row(Text(card.name), *cost, str(card.img_size), Text(shown or "none"), Text(licence))
    open_console().print(table)
    open_console().print("Counted with 1,000 classes; --dry-run counts networks for the classes of your images.")
