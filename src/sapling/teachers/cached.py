"""A teacher whose answers to V views of the training images are read from disk instead of asked for again.

The answers are exact for the view that a student sees: the view is a pure function of (view seed, image, view number),
and an epoch shows view ``(epoch + offset) mod V``. Beside torchdistill, whose cache is keyed by the image alone (so
it answers for the first view that was ever drawn), nothing is stale here; beside FKD (Shen and Xing 2022) and TinyViT
(Wu et al. 2022), which keep parameters of crops or seeds with the answers, nothing but the number of the view is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sapling.data.answers import LOGITS, TOP, AnswerStore, part_name
from sapling.data.mixing import Mix, mix_probabilities
from sapling.data.workspace import moved
from sapling.errors import RunError
from sapling.types import Batch, Outputs, Teacher

ALL_LOGITS = 1000
"""Of so many classes all logits are kept; of more the largest `TOP_LOGITS`."""
TOP_LOGITS = 100
SMALLEST_REST = 1e-6
"""Least probability of all classes together that are not kept: their share must have a logarithm."""


class CachedTeacher:
    """The kept answers of a teacher; images and views that are not kept are answered by the teacher itself.

    Args:
        live: the teacher whose answers these are.
        store: the answers.
        num_classes: K.
        taps: the features that are kept beside the logits.
        multi_label: whether each logit answers for itself (it matters for mixed images).

    **Mixed images.** The teacher never saw them; its soft target is the mix of what it said of the two views, with
    the shares that the labels have: ``p = share p_i + (1 - share) p_j`` of probabilities at temperature 1, as the
    labels are mixed. A method gets ``log p`` as logits. Features have no such mix and are refused.

    **Many classes.** Where only the largest logits are kept (as log probabilities), what is left of the probability is
    spread evenly over the other classes (marginal smoothing, FKD). That is exact in sum at temperature 1 only: at 4 the
    soft target of 1,100 classes differs by 0.14 in total variation. So it is done only where it is asked for.

    Raises:
        RunError: a part is missing or damaged.
    """

    def __init__(
        self,
        live: Teacher,
        store: AnswerStore,
        *,
        num_classes: int,
        taps: Sequence[str] = (),
        multi_label: bool = False,
    ) -> None:
        self._live, self.store, self._num_classes = live, store, num_classes
        self._taps, self._multi_label = tuple(taps), multi_label
        self._rows = np.full(int(store.rows.max()) + 1 if len(store.rows) else 0, -1, dtype=np.int64)
        self._rows[store.rows] = np.arange(len(store.rows))

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name to shape without B."""
        return self._live.shapes

    @property
    def taps_without_activation(self) -> tuple[str, ...]:
        """As of the teacher itself."""
        return self._live.taps_without_activation

    @property
    def card(self) -> Mapping[str, Tensor] | None:
        """As of the teacher itself."""
        return self._live.card

    def outputs(self, batch: Batch) -> Outputs:
        """What the teacher said of these very views, float32; of images that are not kept, what it says now."""
        indices, views = (numbers.numpy() for numbers in batch.on_cpu())
        inside = (indices < len(self._rows)) & (views >= 0) & (views < self.store.num_views)
        rows = np.where(inside, self._rows[np.where(inside, indices, 0)], -1) if len(self._rows) else indices * 0 - 1
        if (rows < 0).any():
            return self._live.outputs(batch)
        if batch.shares is not None and self._taps:
            raise RunError(
                "features of mixed images are not kept: they are of no image that the teacher saw",
                remedy="ask the teacher for each batch: --teacher-cache off",
            )
        device = batch.images.device
        logits = self._logits(rows, views, device)
        if batch.shares is not None:
            logits = self._mixed(logits, batch.shares)
        features = {tap: moved(self._part(part_name(tap), rows, views), device).float() for tap in self._taps}
        return Outputs(logits, features)

    def _part(self, part: str, rows: np.ndarray, views: np.ndarray) -> Tensor:
        numbers = np.unique(views)
        if len(numbers) == 1:
            return torch.from_numpy(self.store.read(part, int(numbers[0]))[rows])
        found: Tensor | None = None
        for view in numbers:
            chosen = views == view
            values = torch.from_numpy(self.store.read(part, int(view))[rows[chosen]])
            if found is None:
                found = values.new_empty((len(rows), *values.shape[1:]))
            found[torch.from_numpy(chosen)] = values
        assert found is not None
        return found

    def _logits(self, rows: np.ndarray, views: np.ndarray, device: torch.device) -> Tensor:
        kept = moved(self._part(LOGITS, rows, views), device).float()
        if kept.shape[1] == self._num_classes:
            return kept
        classes = moved(self._part(TOP, rows, views), device).long()
        rest = (1 - kept.exp().sum(1, keepdim=True)).clamp_min(SMALLEST_REST)
        spread = (rest / (self._num_classes - kept.shape[1])).log()
        return spread.expand(-1, self._num_classes).scatter(1, classes, kept)

    def _mixed(self, logits: Tensor, shares: Tensor) -> Tensor:
        mix = Mix(shares, shares, shares)
        if self._multi_label:
            chances = mix_probabilities(logits.sigmoid(), mix)
            against = mix_probabilities((-logits).sigmoid(), mix)
            return chances.clamp_min(1e-12).log() - against.clamp_min(1e-12).log()
        return mix_probabilities(F.softmax(logits, 1), mix).clamp_min(1e-12).log()


def kept_logits(logits: Tensor, *, multi_label: bool = False) -> dict[str, np.ndarray]:
    """The arrays that are kept of logits ``[B,K]``: all, or log probabilities and classes of the largest."""
    if keeps_all(logits.shape[1], multi_label=multi_label):
        return {LOGITS: logits.cpu().numpy()}
    values, classes = F.log_softmax(logits.float(), 1).topk(TOP_LOGITS, 1)
    return {LOGITS: values.cpu().numpy(), TOP: classes.int().cpu().numpy()}


def keeps_all(num_classes: int, *, multi_label: bool) -> bool:
    """Whether all logits are kept: of several labels each answers for itself, and nothing can stand in for it."""
    return multi_label or num_classes <= ALL_LOGITS


def logit_parts(num_classes: int, *, multi_label: bool = False) -> dict[str, tuple[int, ...]]:
    """The parts that hold logits, and the shape of one image's row."""
    if keeps_all(num_classes, multi_label=multi_label):
        return {LOGITS: (num_classes,)}
    return {LOGITS: (TOP_LOGITS,), TOP: (TOP_LOGITS,)}
