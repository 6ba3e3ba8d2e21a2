"""A teacher that is run on every batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sapling.models.tapped import TappedModel
from sapling.types import Batch, Outputs


class LiveTeacher:
    """A frozen network in eval mode.

    Args:
        model: the teacher; its parameters lose their gradient here, and its batch norm stands still.
        device: where it runs.
        bf16: run the forward under bf16 autocast.
        channels_last: memory format of the weights.
    """

    def __init__(self, model: TappedModel, *, device: str, bf16: bool, channels_last: bool) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._kind, self._bf16 = device.partition(":")[0], bf16

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
            outputs: Outputs = self.model(batch.images)
            return outputs
