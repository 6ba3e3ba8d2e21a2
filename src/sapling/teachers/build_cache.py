"""Ask a teacher once for its answers to every view of the training images, and look whether kept ones still hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sapling.data.answers import (
    LOGITS,
    TOP,
    AnswerStore,
    part_name,
    unwritable,
)
from sapling.data.dataset import Dataset
from sapling.data.packing import lock_file
from sapling.data.partwriter import PartWriter, sweep_parts
from sapling.data.storefile import locked
from sapling.errors import RunError
from sapling.teachers.cached import CachedTeacher, kept_logits, logit_parts
from sapling.types import Outputs, Teacher

Shapes = Mapping[str, tuple[int, ...]]
MOST_VIEWS, MOST_ASKED = 64, 256
"""Views that a verification looks at, and images in all."""


def shapes_of(data: Dataset, taps: Shapes) -> dict[str, tuple[int, ...]]:
    """Part to the shape of one image's row: logits, and each tap."""
    logits = logit_parts(data.num_classes, multi_label=data.multi_label)
    return {**logits, **{part_name(tap): shape for tap, shape in taps.items()}}


def bytes_per_view(data: Dataset, taps: Shapes) -> int:
    """What the answers to one view of every training image take."""
    each = (int(np.prod(shape)) * (4 if part == TOP else 2) for part, shape in shapes_of(data, taps).items())
    return len(data.split.train) * sum(each)


def build_answers(
    store: AnswerStore,
    teacher: Teacher,
    data: Dataset,
    *,
    taps: Sequence[str],
    batch_size: int,
    device: str,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Add what is missing: every view of the logits, and of each tap.

    Of several processes one builds and the others wait and take what it made. A build that was killed goes on with
    the view at which it was. Where nothing is missing nothing is written or locked.

    Args:
        store: where they go.
        teacher: in the precision of the run, with these taps.
        data: its training images are asked about.
        taps: the features that are kept.
        batch_size: images per forward pass.
        device: where the teacher is.
        progress: is called with the number of images just done.

    Returns:
        Seconds that it took, 0 where nothing was missing.

    Raises:
        RunError: values that float16 cannot hold, or images that are not those of the store.
        DataError: something is missing, and the disk is full or closed.
    """
    shapes = shapes_of(data, {tap: teacher.shapes[tap] for tap in taps})
    if not np.array_equal(store.rows, np.sort(data.split.train)):
        raise RunError("the kept answers are to other images than these", where=str(store.place))
    if store.is_whole(tuple(shapes)):
        return 0.0
    started = time.perf_counter()
    try:
        with locked(lock_file(store.place.parent, store.mark), wait=True) as is_alone:
            if is_alone:  # where nothing can be locked, somebody else may be writing
                sweep_parts(store.place)
            store.drop_damaged(tuple(shapes))
            lacking = store.missing(tuple(shapes))
            for view, parts in lacking.items():
                wanted = {part: shapes[part] for part in parts}
                with PartWriter(store, view, wanted, {TOP: np.int32}) as writer:
                    for batch in data.view_batches(view, batch_size=batch_size, device=device):
                        for part, values in _arrays(teacher.outputs(batch), taps, data.multi_label).items():
                            if part in wanted:
                                writer.append(part, values)
                        if progress is not None:
                            progress(len(batch.indices))
                    writer.finish()
    except OSError as error:
        raise unwritable(store.place, error) from error
    return time.perf_counter() - started if lacking else 0.0


def _arrays(outputs: Outputs, taps: Sequence[str], multi_label: bool) -> dict[str, np.ndarray]:
    logits = kept_logits(outputs.logits, multi_label=multi_label)
    return {**logits, **{part_name(tap): outputs.features[tap].cpu().numpy() for tap in taps}}


@dataclass(frozen=True, slots=True)
class Verification:
    """How kept answers compare with what the teacher says now.

    Attributes:
        num_answers: views of images that were asked about again.
        largest: largest difference by part, as a share of the spread (standard deviation) of the answers.
        tolerance: what float16 and another order of sums explain.
    """

    num_answers: int
    largest: Mapping[str, float]
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether nothing differs by more."""
        return all(share <= self.tolerance for share in self.largest.values())


def verify_answers(
    store: AnswerStore,
    teacher: Teacher,
    data: Dataset,
    *,
    taps: Sequence[str],
    batch_size: int,
    device: str,
    seed: int | None = None,
    tolerance: float = 0.02,
) -> Verification:
    """Ask the teacher again about a random sample of images and views, and compare tensors.

    Args:
        store: the kept answers.
        teacher: the teacher itself.
        data: the images.
        taps: the features that are kept.
        batch_size: images per forward pass.
        device: where the teacher is.
        seed: of the sample; None draws another one each time.
        tolerance: see :class:`Verification`; bf16 differs by up to 0.01.
    """
    generator = np.random.default_rng(seed)
    cached = CachedTeacher(_Refuses(teacher), store, num_classes=data.num_classes, taps=taps)
    views = np.sort(generator.permutation(store.num_views)[:MOST_VIEWS])
    num_images = max(4, MOST_ASKED // len(views))
    largest: dict[str, float] = {}
    count = 0
    for view in views.tolist():
        rows = np.sort(generator.permutation(store.rows)[:num_images])
        for batch in data.view_batches(view, batch_size=batch_size, device=device, indices=rows):
            now, kept = teacher.outputs(batch), cached.outputs(batch)
            pairs = {LOGITS: (now.logits, kept.logits), **{t: (now.features[t], kept.features[t]) for t in taps}}
            if TOP in (parts := logit_parts(data.num_classes, multi_label=data.multi_label)):
                # the rest is spread evenly, so only the classes that are kept can be compared
                top = now.logits.topk(parts[TOP][0] // 2, 1).indices
                logs = now.logits.log_softmax(1)
                pairs[LOGITS] = logs.gather(1, top), kept.logits.gather(1, top)
            for part, (one, two) in pairs.items():
                spread = float(one.std(correction=0)) or 1.0
                largest[part] = max(largest.get(part, 0.0), float((one - two).abs().max()) / spread)
            count += len(batch.indices)
    return Verification(count, largest, tolerance)


class _Refuses:
    """A teacher whose own answers must not stand in for kept ones."""

    def __init__(self, teacher: Teacher) -> None:
        self.shapes = teacher.shapes
        self.taps_without_activation = teacher.taps_without_activation
        self.card: Mapping[str, torch.Tensor] | None = None

    def outputs(self, batch: object) -> Outputs:
        raise RunError("the answer to a training image is not kept")
