"""Moving average of a network's weights: the end of a noisy training without its noise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sapling.errors import RunError

WARMUP_STEPS = 10


class Average:
    """Exponential moving average of all weights and batch-norm statistics of a network, kept beside it.

    After step t (from 0): ``average += (1 - d_t) (weights - average)`` with ``d_t = min(decay, (1 + t) / (10 + t))``,
    so that a young average forgets the initial weights (the warm-up of TensorFlow's ``ExponentialMovingAverage``,
    which timm's ``ModelEmaV3`` offers too). Whole numbers (counters) are copied.

    Args:
        network: what is averaged; its parameters keep their places in memory.
        decay: in [0,1); 0.999 looks back about 1,000 steps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.first_step = 0
        self._network = network
        self.state: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Start from the network's weights as they are, on their device and in their memory format."""
        self.state = {k: v.detach().clone() for k, v in self._network.state_dict().items()}

    def update(self, step: int) -> None:
        """Take the weights after ``step`` (from 0) into the average, which begins anew with ``first_step``.

        After ten steps its warm-up has left a hundred-thousandth of what was before.
        """
        step -= self.first_step
        decay = min(self.decay, (1 + step) / (WARMUP_STEPS + step))
        now = {k: v.detach() for k, v in self._network.state_dict().items()}
        floats = [k for k, v in now.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.state[k] for k in floats], [now[k] for k in floats], 1 - decay)
        for key, value in now.items():
            if not value.is_floating_point():
                self.state[key].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the network for a while; afterwards its own weights are back to the bit."""
        own = {k: v.detach().clone() for k, v in self._network.state_dict().items()}
        self._copy(self.state)
        try:
            yield
        finally:
            self._copy(own)

    def settle(self) -> None:
        """Put the average into the network for good."""
        self._copy(self.state)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a saved average.

        Raises:
            RunError: it is of another network.
        """
        if state.keys() != self.state.keys() or any(state[k].shape != v.shape for k, v in self.state.items()):
            raise RunError("the saved average of weights does not fit the network")
        for key, value in self.state.items():
            value.copy_(state[key])

    @torch.no_grad()
    def _copy(self, state: Mapping[str, Tensor]) -> None:
        for key, value in self._network.state_dict().items():
            value.copy_(state[key])
