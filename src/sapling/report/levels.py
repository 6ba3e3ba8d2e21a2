"""Every measure of every arm with its interval, for those who want more than means and ranges of seeds."""

from __future__ import annotations

from typing import Any

from sapling.report import wording
from sapling.report.folder import block, number
from sapling.report.summary import Summary


def level_table(summary: Summary) -> dict[str, Any] | None:
    """Columns and rows ``value, low to high`` (no interval where no draw differs); None for runs without them."""
    levels = block(summary.results, "comparison", "levels")
    arms = [a for a in summary.columns if block(levels, a.key)]
    if not arms:
        return None
    rows = []
    for key, name, _, kind, _ in wording.ROWS:
        show = wording.share if kind == "share" else wording.plain
        cells = []
        for arm in arms:
            found = block(levels, arm.key, key)
            value, low, high = (number(found.get(k)) for k in ("value", "low", "high"))
            span = f"{show(low)} to {show(high)}" if low is not None and high is not None and low != high else ""
            cells.append({"value": show(value), "span": span.replace("\u202f% to", " to")})
        if any(c["value"] != wording.MISSING for c in cells):
            rows.append({"name": name, "cells": cells})
    return {"columns": [a.name for a in arms], "rows": rows} if rows else None
