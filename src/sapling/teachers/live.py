"""A teacher that is run on every batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sapling.errors import ModelError
from sapling.models.tapped import TappedModel
from sapling.teachers.ensemble import Ensemble, Symmetrised
from sapling.teachers.folding import folded
from sapling.types import Batch, Outputs


class LiveTeacher:
    """A frozen network, or several that answer as one, in eval mode.

    In float32 on the CPU it answers with its batch norms folded into the convolutions (see
    :mod:`sapling.teachers.folding`). ``model`` keeps its layers.

    Args:
        model: the teacher; its parameters lose their gradient here, and its batch norm stands still.
        device: where it runs.
        bf16: run the forward under bf16 autocast.
        channels_last: memory format of the weights.
        folds: ``[images in the store]`` int64, of a cross-fitted ensemble: number of the member that answers this
            image alone, or -1. It must have no taps: members that trained on the image would speak through them.
    """

    def __init__(
        self,
        model: TappedModel | Symmetrised | Ensemble,
        *,
        device: str,
        bf16: bool,
        channels_last: bool,
        folds: Tensor | None = None,
    ) -> None:
        if folds is not None and (not isinstance(model, Ensemble) or model.shapes):
            raise ModelError("folds are for an ensemble without taps", remedy="a method on logits, such as dist")
        self._folds = folds
        self.model = model.to(device).eval().requires_grad_(False)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._kind, self._bf16 = device.partition(":")[0], bf16
        if self._kind == "cpu" and not bf16:  # in bf16 it gains 1 %, on GPUs nobody has measured
            self.model = folded(self.model, _some_images(self.model))

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name to shape without B."""
        return self.model.shapes

    @property
    def taps_without_activation(self) -> tuple[str, ...]:
        """Taps with ``.pre`` that are the stage's output itself, because no activation makes it."""
        return self.model.taps_without_activation

    @property
    def card(self) -> Mapping[str, Tensor] | None:
        """Classifier weight and bias, or None where the head is not linear."""
        return self.model.classifier_card

    def outputs(self, batch: Batch) -> Outputs:
        """The teacher's answer to the very pixels that the students see; float32, no gradient."""
        self.model.eval()
        # no_grad, not inference_mode: losses save these tensors for the student's backward
        with torch.no_grad(), torch.autocast(self._kind, torch.bfloat16, enabled=self._bf16):
            if self._folds is not None and isinstance(self.model, Ensemble):
                return self.model.out_of_fold(batch.images, self._folds[batch.on_cpu()[0]])
            outputs: Outputs = self.model(batch.images)
            return outputs


def _some_images(model: nn.Module) -> Tensor:
    """Two random images as the network reads them, always the same; nobody else's random numbers are drawn."""
    tapped = next(m for m in model.modules() if isinstance(m, TappedModel))
    side = tapped.preprocess.img_size
    return torch.rand((2, tapped.num_channels, side, side), generator=torch.Generator().manual_seed(0))
