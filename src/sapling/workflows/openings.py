"""The one place where a test split is opened: counted, said, and remembered by what proposes the next run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sapling.config import RunConfig
from sapling.data.loader import Dataset
from sapling.data.openings import Opening, fingerprint_of_test, record_opening
from sapling.record import Run, now
from sapling.report.details import looks_at_test
from sapling.workflows.remedies import Remedy, from_elsewhere, teacher_anew


def open_test(run: Run, data: Dataset, seeds: Sequence[int]) -> dict[str, Any]:
    """Log that the test split is opened, and record it beside the stores.

    Returns:
        ``results.json["test_opened"]``: ``this_run`` (more than 1 where it was killed while it judged and went on) and
        ``before`` (other runs, and calls of ``sapling evaluate``, that looked at the same test images on this machine);
        both None where that is unknown.
    """
    run.log("test: opening the test split")
    method = run.config.method.name if run.task == "distill" else "none"
    opening = Opening(now(), run.task, run.folder.resolve().name, run.started(), method, seeds)
    looks = record_opening(fingerprint_of_test(data.source, data.split.test), opening)
    opened = {"this_run": looks and looks.this_run, "before": looks and looks.before}
    run.note(f"test: {looks_at_test(opened)}")
    return opened


def caution(
    opened: Mapping[str, Any], data: Dataset, config: RunConfig, card: Mapping[str, Any], remedy: Remedy
) -> str:
    """What stands beside a proposed run where the same test images were looked at before; else empty.

    Args:
        opened: of this run, see :func:`open_test`.
        data: of this run.
        config: of this run.
        card: of its teacher.
        remedy: what is proposed.
    """
    before = opened["before"]
    if not before:
        return ""
    others = "another run" if before == 1 else f"{before} other runs"
    fresh = "a claim needs fresh test images, or at least 5 fresh seeds"
    if is_cut(config, data):
        teacher = _with_teacher(config, data.img_size, card, remedy)
        fresh = f"--set data.split_seed={config.data.split_seed + 1} draws others{teacher}"
    images = "some of the same test images" if "data.test_share" in remedy.changes else "the same test images"
    return f"Caution: it looks at {images} again, after this run and {others}; {fresh}."


def is_cut(config: RunConfig, data: Dataset) -> bool:
    """Whether the settings cut the test images: what came with the data stays the test, whatever they say."""
    return config.data.split_file is None and all(item.split in (None, "train") for item in data.source.items)


def _with_teacher(config: RunConfig, img_size: int, card: Mapping[str, Any], remedy: Remedy) -> str:
    """What another split asks of the teacher: one that is trained already may know the images that are drawn."""
    if not remedy.keeps_teacher:
        return ""
    if from_elsewhere(card):
        return ", which must not be training images of the teacher"
    anew = shlex.join(teacher_anew(config, img_size, card.get("architecture")))
    return f"; this teacher was trained on some of them, so train it anew: {anew} in place of the --teacher proposed"
