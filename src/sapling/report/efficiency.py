"""What it takes to run: teacher and student in torch, and the exported file, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sapling.report import wording
from sapling.report.folder import block, inner, listing, number
from sapling.report.summary import Summary

_ROWS: tuple[tuple[str, str, tuple[str, ...], Callable[[float | None], str]], ...] = (
    ("Parameters", "numbers that were learned", ("parameters",), wording.amount),
    ("MACs", "for one image; one multiply-add is one", ("macs",), wording.amount),
    ("File", "weights, or the whole ONNX file", ("bytes",), wording.size),
    ("Peak memory, 1 image", "weights and live tensors, counted", ("peak_memory_bytes", "1"), wording.size),
    ("Peak memory, 32 images", "weights and live tensors, counted", ("peak_memory_bytes", "32"), wording.size),
)


def efficiency_section(summary: Summary) -> dict[str, Any] | None:
    """Columns, rows and a note on how it was measured; None for runs without it."""
    content = block(summary.results, "efficiency")
    networks = [n for n in listing(content, "networks") if isinstance(n, dict)]
    if not networks:
        return None
    names = {
        ("teacher", "torch"): "Teacher",
        ("control", "torch"): "Control",
        ("distilled", "torch"): "Distilled",
        ("student", "torch"): "Student",
        ("student", "onnx"): "Student, ONNX",
    }
    columns = [names.get((str(n.get("role")), str(n.get("format"))), wording.clean(n.get("role"))) for n in networks]
    rows = []
    for name, note, path, show in _ROWS:
        values = [number(inner(n, *path)) for n in networks]
        if any(v is not None for v in values):
            rows.append({"name": name, "note": note, "cells": [{"value": show(v), "more": ""} for v in values]})
    for batch, what in (("1", "one image"), ("32", "32 images")):
        times = [[number(inner(n, "latency_ms", batch, key)) for key in ("p50", "p95")] for n in networks]
        if not any(p50 is not None for p50, _ in times):
            continue
        cells = [
            {"value": wording.milliseconds(p50), "more": f"95\u202f%: {wording.milliseconds(p95)}" if p95 else ""}
            for p50, p95 in times
        ]
        rows.append({"name": f"Time for {what}", "note": "half of the calls are within it", "cells": cells})
    threads = number(content.get("threads"))
    timed = f"with {wording.plural(int(threads), 'thread')}" if threads else ""
    note = f"Measured on the processor of this machine {timed}, in float32, after warm-up.".replace("  ", " ")
    sizes = {(m.get("parameters"), m.get("macs")) for m in listing(summary.results, "members") if isinstance(m, dict)}
    if summary.is_comparison and len(sizes) == 1:
        columns = ["Control and student" if name == "Student" else name for name in columns]
        note += " Control and distilled student are the same network, measured once: they cost the same to run."
    elif summary.is_comparison:
        shipped = block(summary.results, "shipped").get("arm") == "control"
        columns = [f"{'Control' if shipped else 'Distilled'}, shipped" if n == "Student" else n for n in columns]
        note += " Control and distilled student are not of one size here"
        apart = any(n.get("role") in ("control", "distilled") for n in networks)
        note += ": each was measured." if apart else "; only the shipped one was measured."
    return {"columns": columns, "rows": rows, "note": note}
