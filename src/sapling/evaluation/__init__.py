"""Measures of a classifier, and the verdict on a pair of them. Imports no torch by itself."""

from __future__ import annotations

from sapling.evaluation.bootstrap import Interval, bootstrap_interval, metric_intervals
from sapling.evaluation.metrics import classification_metrics, collect_logits
from sapling.evaluation.verdict import Verdict, compare, holm, primary_measure

__all__ = [
    "Interval",
    "Verdict",
    "bootstrap_interval",
    "classification_metrics",
    "collect_logits",
    "compare",
    "holm",
    "metric_intervals",
    "primary_measure",
]
