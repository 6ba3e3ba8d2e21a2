"""What a reader must know before the figures of a run, on its page and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapling.config import RunConfig
from sapling.data.layout import many
from sapling.data.loader import Dataset
from sapling.evaluation.diagnosis import is_too_short
from sapling.workflows.dataset import data_warnings
from sapling.workflows.gate import remarks_without_teacher, warnings_about
from sapling.workflows.phases import phase_warnings


def warnings_of(
    card: Mapping[str, Any],
    data: Dataset,
    config: RunConfig,
    *,
    phases: Mapping[str, dict[str, Any]],
    fitted: float,
    terms: Mapping[str, Any],
) -> list[str]:
    """Warnings of a run, whatever its verdict is.

    Args:
        card: of the teacher.
        data: of the run.
        config: of the run.
        phases: their results.
        fitted: the measure of the control on its own training images.
        terms: the manifest.
    """
    return [
        *remarks_without_teacher(config),
        *short_training(fitted, int(terms["epochs"]), int(terms["epochs"]) * int(terms["steps_per_epoch"])),
        *unequal_tuning(config),
        *warnings_about(card, config, data.spec),
        *data_warnings(data),
        *phase_warnings(phases),
    ]


def short_training(fitted: float, epochs: int, steps: int) -> list[str]:
    """A difference between students that have not learned the labels yet is a difference of speed."""
    if not is_too_short(fitted, epochs, steps):
        return []
    text = (
        f"Training was too short ({many(epochs, 'epoch')}, {many(steps, 'step')}): the control reaches only "
        f"{100 * fitted:.1f} % on its own training images. Whatever the verdict, it is on unfinished students; a full "
        "training may turn it round."
    )
    return [text]


def unequal_tuning(config: RunConfig) -> list[str]:
    """Who tries more settings finds a better one, by luck too."""
    trials = config.evaluate.tuning_trials
    if trials.control == trials.method:
        return []
    more, less = ("method", "control") if trials.method > trials.control else ("control", "method")
    counts = f"{trials.control:,} for the control, {trials.method:,} for the method"
    return [f"Not the same tuning ({counts}): the {more} had more chances to come out well by luck than the {less}."]
