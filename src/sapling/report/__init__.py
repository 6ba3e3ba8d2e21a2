"""One page per run: what was found, how sure it is, and what it cost. No torch.

``write_report(run_folder)`` reads what a run left behind and writes ``report.html`` (one file, no network, no
script) and ``figures/*.svg``.
"""

from __future__ import annotations

from sapling.report.page import write_report

__all__ = ["write_report"]
