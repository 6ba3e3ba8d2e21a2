"""What a reader must know before the figures of a run, on its page and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapling.config import RunConfig
from sapling.data.layout import many
from sapling.data.loader import Dataset
from sapling.evaluation.diagnosis import is_too_short
from sapling.evaluation.verdict import Verdict, layout_of
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
        *short_training(
            fitted,
            int(terms["epochs"]),
            int(terms["epochs"]) * int(terms["steps_per_epoch"]),
            multi_label=data.multi_label,
        ),
        *unequal_tuning(config),
        *warnings_about(card, config, data.spec),
        *data_warnings(data),
        *phase_warnings(phases),
    ]


def never_recognised(members: Sequence[Mapping[str, Any]], data: Dataset) -> list[str]:
    """Classes of which no student, of any seed, names a single test image."""
    recalls = [member["test"].get("per_class_recall") for member in members]
    if not recalls or not all(recalls):
        return []
    missed = [k for k in range(data.num_classes) if all(recall[k] == 0 for recall in recalls)]
    train, test = (data.source.count_labels(data.split.part(part)) for part in ("train", "test"))
    named = [f"{data.classes[k]!r} ({int(train[k])} training and {int(test[k])} test images)" for k in missed]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return [f"No student recognises a single test image of {', '.join(named[:5])}{more}."] if named else []


def uneven_groups(
    verdict: Verdict, members: Sequence[Mapping[str, Any]], truth: NDArray[np.int64], groups: list[str] | None
) -> list[str]:
    """How levels and verdict differ where groups of test images are of unequal sizes.

    Args:
        verdict: of the run.
        members: entries of ``results.json``.
        truth: of the test images.
        groups: of the test images, or None.
    """
    measure = verdict.measure
    if groups is None or measure == "map" or not layout_of(len(truth), measure, truth, groups).is_uneven:
        return []
    levels = [[float(m["test"][measure]) for m in members if (m["arm"] == "control") == c] for c in (True, False)]
    by_image = float(np.mean(levels[1]) - np.mean(levels[0]))
    text = (
        "Test images come in groups of unequal sizes. The verdict and the gains of classes count every group alike "
        f"({100 * verdict.difference:+.1f} points); the levels of single networks count every image, and control and "
        f"student differ by {100 * by_image:+.1f} points in them."
    )
    return [text]


def short_training(fitted: float, epochs: int, steps: int, *, multi_label: bool = False) -> list[str]:
    """A difference between students that have not learned the labels yet is a difference of speed."""
    if not is_too_short(fitted, epochs, steps):
        return []
    reached = "a mean average precision of only " if multi_label else "only "
    text = (
        f"Training was too short ({many(epochs, 'epoch')}, {many(steps, 'step')}): the control reaches {reached}"
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
