"""Memory that is used again from batch to batch, and the way to a device on which nobody waits.

Fresh pages cost more than the arithmetic done in them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor


class Workspace(threading.local):
    """Named int32 tensors; each thread has its own.

    A tensor is valid until its name is asked for again, so nothing of it may leave the function that makes a batch.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._held: dict[tuple[str, torch.device], Tensor] = {}
        self.device = torch.device("cpu")

    def get(self, name: str, shape: Sequence[int]) -> Tensor:
        """Give uninitialised int32 memory of ``shape`` on ``self.device``."""
        size, key = math.prod(shape), (name, self.device)
        held = self._held.get(key)
        if held is None or held.numel() < size:
            held = self._held[key] = torch.empty(size, dtype=torch.int32, device=self.device)
        return held[:size].view(shape)


def moved(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on the device; to a GPU through pinned memory, so that nobody waits for the copy."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
