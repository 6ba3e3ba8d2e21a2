"""A student's body behind which another network's classifier stands: what SimKD ships (Chen et al. 2022).

The last map of the body, averaged down to the teacher's grid where it is larger, goes through a projector to the
teacher's width; its mean over the positions is what the teacher's classifier reads.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sapling.errors import MethodError


@dataclass(frozen=True, slots=True)
class MapPlace:
    """Where the last map of a network is found, and how it lies; see ``TappedModel.places``.

    Attributes:
        path: of the module whose output it is.
        call: number of the call that counts, from 0.
        channels_last: the map arrives as ``[B,H,W,C]``.
    """

    path: str
    call: int = 0
    channels_last: bool = False


@dataclass(frozen=True, slots=True)
class Behind:
    """Shapes of what stands behind the body.

    Attributes:
        in_channels: of the body's last map.
        hidden: channels inside the projector.
        out_channels: of the teacher's last map, D.
        height: of the grid to which a larger map is averaged.
        width: of that grid.
        rectified: whether the projector ends in a ReLU.
        num_rows: height of the grid that tokens ``[B,T,D]`` lie on; 0 for maps.
    """

    in_channels: int
    hidden: int
    out_channels: int
    height: int
    width: int
    rectified: bool = True
    num_rows: int = 0


def bottleneck(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolution, each with batch norm, a ReLU between them; the last ReLU is not in it."""
    layers: list[nn.Module] = []
    for number, (given, wanted, size) in enumerate(
        ((in_channels, hidden, 1), (hidden, hidden, 3), (hidden, out_channels, 1))
    ):
        layers += [nn.ReLU()] if number else []
        layers += [nn.Conv2d(given, wanted, size, padding=size // 2, bias=False), nn.BatchNorm2d(wanted)]
    return nn.Sequential(*layers)


def shrink(maps: Tensor, height: int, width: int) -> Tensor:
    """Average ``[B,C,H,W]`` down to a grid; along a side that is smaller already it stays as it is."""
    size = (min(maps.shape[2], height), min(maps.shape[3], width))
    return maps if tuple(maps.shape[2:]) == size else F.adaptive_avg_pool2d(maps, size)


class ReusedClassifier(nn.Module):
    """The network that SimKD ships, with timm's interface.

    Args:
        backbone: a network with a classifier, which is taken away: it is copied, not changed.
        place: of its last map.
        shapes: of what stands behind it.
        num_classes: K of the classifier; 0 gives the embedding instead of logits.
    """

    def __init__(self, backbone: nn.Module, place: MapPlace, shapes: Behind, num_classes: int) -> None:
        super().__init__()
        self.place, self.shapes_behind, self.num_classes = place, shapes, num_classes
        self.num_features = self.head_hidden_size = shapes.out_channels
        self.backbone = without_classifier(backbone)
        self.projector = bottleneck(shapes.in_channels, shapes.hidden, shapes.out_channels)
        self.act = nn.ReLU() if shapes.rectified else nn.Identity()
        self.classifier: nn.Module = _linear(shapes.out_channels, num_classes)
        self._catch = _Catch(place.call)
        self.backbone.get_submodule(place.path).register_forward_hook(self._catch)
        info = getattr(backbone, "feature_info", None)
        entries = list(getattr(info, "info", info) or [])
        self.feature_info = [
            {**entry, "module": f"backbone.{entry['module']}"} for entry in entries if entry.get("module")
        ]

    def get_classifier(self) -> nn.Module:
        """Give the classifier: the teacher's."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier for ``num_classes`` in place of the teacher's, with fresh weights."""
        first = next(self.parameters())
        self.num_classes = num_classes
        self.classifier = _linear(self.num_features, num_classes).to(device=first.device, dtype=first.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]``, normalised, to the projected map ``[B,D,h,w]``, as the teacher's last map."""
        self._catch.start()
        self.backbone(x)
        value, shapes = self._catch.take(), self.shapes_behind
        if value.dim() == 3:
            value = value.transpose(1, 2).reshape(len(value), shapes.in_channels, shapes.num_rows, -1)
        elif self.place.channels_last:
            value = value.permute(0, 3, 1, 2)
        out: Tensor = self.act(self.projector(shrink(value, shapes.height, shapes.width)))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map ``[B,D,h,w]`` to logits ``[B,K]``, or to the embedding ``[B,D]`` if ``pre_logits``."""
        x = x.mean(dim=(2, 3))
        if pre_logits:
            return x
        logits: Tensor = self.classifier(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]``, normalised, to logits ``[B,K]``."""
        return self.forward_head(self.forward_features(x))


class _Catch:
    """A forward hook that keeps the output of one call until it is taken."""

    def __init__(self, call: int) -> None:
        self.call, self.seen = call, 0
        self.value: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.seen == self.call:
            self.value = output
        self.seen += 1

    def start(self) -> None:
        self.seen, self.value = 0, None

    def take(self) -> Tensor:
        value, self.value = self.value, None
        assert value is not None
        return value


def without_classifier(model: nn.Module) -> nn.Module:
    """A copy of a network whose classifier hands on what it gets.

    Raises:
        MethodError: it does not say which layer its classifier is.
    """
    head: Any = model.get_classifier()  # type: ignore[operator]
    for path, module in model.named_modules():
        if module is head and path:
            twin = copy.deepcopy(model)
            twin.set_submodule(path, nn.Identity())
            return twin
    raise MethodError(
        f"{type(model).__name__} does not say which layer its classifier is",
        remedy="another student, or a method that ships the student as it is, such as srrl",
    )


def _linear(channels: int, num_classes: int) -> nn.Module:
    return nn.Linear(channels, num_classes) if num_classes > 0 else nn.Identity()
