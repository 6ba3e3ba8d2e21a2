"""Networks of torchvision that timm lacks, registered with timm as ``sapling_torchvision_<name>``.

Called ``torchvision:alexnet`` wherever a network is named. The network itself is torchvision's, unchanged, under
``net``: its published weights fit, and it answers as torchvision's does. Around it: another number of classes or
bands, ``stage1``.. ``stage4`` (of which ``stage4`` is what the classifier pools) and ``embedding``.

GoogLeNet comes without its auxiliary classifiers, and reads images normalised with mean and std 0.5 as its published
weights want them (torchvision does that inside, with ``transform_input``). SqueezeNet's classifier is a convolution,
a ReLU and a pooling: it has no linear layer, so its card is None, and its embedding is the average of the map.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torchvision
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torchvision.models.mnasnet import MNASNet

PREFIX = "sapling_torchvision_"
PUBLIC = "torchvision:"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the parts of one of torchvision's networks are.

    Attributes:
        stages: module, channels and reduction of ``stage1``..``stage4``.
        first_conv: path of the first convolution.
        classifier: path of what `get_classifier` gives.
        last_layer: path of the layer that depends on the number of classes.
        num_features: width of what it reads.
        arguments: given to torchvision.
        half: mean and std are 0.5 (else those of ImageNet).
    """

    stages: tuple[tuple[str, int, int], ...]
    first_conv: str
    classifier: str
    last_layer: str
    num_features: int
    arguments: Mapping[str, Any]
    half: bool = False


class _MNASNet(MNASNet):  # type: ignore[misc]
    """torchvision's, but weights need no version number: safetensors keep none."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, {**local_metadata, "version": 2}, *args)


def _squeeze(stages: tuple[tuple[str, int, int], ...]) -> Plan:
    return Plan(stages, "features.0", "classifier", "classifier.1", 512, {})


def _shuffle(a: int, b: int, c: int, d: int) -> Plan:
    stages = (("stage2", a, 8), ("stage3", b, 16), ("stage4", c, 32), ("conv5", d, 32))
    return Plan(stages, "conv1.0", "fc", "fc", d, {})


def _mnas(alpha: float, a: int, b: int, c: int) -> Plan:
    stages = (("layers.8", a, 4), ("layers.9", b, 8), ("layers.11", c, 16), ("layers.16", 1280, 32))
    return Plan(stages, "layers.0", "classifier.1", "classifier.1", 1280, {"alpha": alpha})


PLANS: Mapping[str, Plan] = {
    "alexnet": Plan(
        (("features.1", 64, 4), ("features.4", 192, 8), ("features.7", 384, 16), ("features.11", 256, 16)),
        "features.0",
        "classifier.6",
        "classifier.6",
        4096,
        {},
    ),
    "googlenet": Plan(
        (("conv3", 192, 4), ("inception3b", 480, 8), ("inception4e", 832, 16), ("inception5b", 1024, 32)),
        "conv1.conv",
        "fc",
        "fc",
        1024,
        {"aux_logits": False, "init_weights": True},
        half=True,
    ),
    "mnasnet0_5": _mnas(0.5, 16, 24, 48),
    "mnasnet0_75": _mnas(0.75, 24, 32, 72),
    "mnasnet1_0": _mnas(1.0, 24, 40, 96),
    "mnasnet1_3": _mnas(1.3, 32, 56, 128),
    "shufflenet_v2_x0_5": _shuffle(48, 96, 192, 1024),
    "shufflenet_v2_x1_0": _shuffle(116, 232, 464, 1024),
    "shufflenet_v2_x1_5": _shuffle(176, 352, 704, 1024),
    "shufflenet_v2_x2_0": _shuffle(244, 488, 976, 2048),
    "squeezenet1_0": _squeeze(
        (("features.1", 96, 2), ("features.5", 256, 4), ("features.10", 512, 8), ("features.12", 512, 16))
    ),
    "squeezenet1_1": _squeeze(
        (("features.1", 64, 2), ("features.4", 128, 4), ("features.7", 256, 8), ("features.12", 512, 16))
    ),
}


class TorchvisionNet(nn.Module):
    """One of torchvision's networks with timm's interface.

    Args:
        name: torchvision's name, one of ``PLANS``.
        num_classes: K; 0 gives the embedding instead of logits.
        in_chans: channels of the images.
    """

    def __init__(self, name: str, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        plan = PLANS[name]
        self._last_layer, self._classifier = f"net.{plan.last_layer}", f"net.{plan.classifier}"
        self.num_features = self.head_hidden_size = plan.num_features
        self.num_classes, self.in_chans = 1000, in_chans
        maker = _MNASNet if name.startswith("mnasnet") else getattr(torchvision.models, name)
        with warnings.catch_warnings():  # GoogLeNet speaks of its own initialisation
            warnings.simplefilter("ignore", FutureWarning)
            self.net: nn.Module = maker(**plan.arguments)
        if in_chans != 3:
            path = f"net.{plan.first_conv}"
            old = cast("nn.Conv2d", self.get_submodule(path))
            self.set_submodule(path, _conv(old, in_chans=in_chans))
        if num_classes != 1000:
            self.reset_classifier(num_classes)
        self.feature_info = [
            {"module": f"net.{module}", "num_chs": channels, "reduction": reduction}
            for module, channels, reduction in plan.stages
        ]

    def get_classifier(self) -> nn.Module:
        """Give the classifier: a linear layer, or SqueezeNet's small network of a convolution and a pooling."""
        return self.get_submodule(self._classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier for ``num_classes`` in place of the old one, with fresh weights."""
        first = next(self.parameters())
        self.num_classes = num_classes
        layer: nn.Module = nn.Identity()
        if num_classes > 0 and self._classifier != self._last_layer:
            layer = nn.Conv2d(self.num_features, num_classes, 1)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(cast("Tensor", layer.bias))
        elif num_classes > 0:
            layer = nn.Linear(self.num_features, num_classes)
        self.set_submodule(self._last_layer, layer.to(device=first.device, dtype=first.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]``, normalised, to logits ``[B,K]``."""
        logits: Tensor = self.net(x)
        return logits


def to_wrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From torchvision's names to ours; auxiliary classifiers, which we do not build, are left out."""
    return {f"net.{name}": tensor for name, tensor in weights.items() if not name.startswith(("aux1.", "aux2."))}


def _conv(old: nn.Conv2d, *, in_chans: int) -> nn.Conv2d:
    """A first convolution like ``old`` for another number of channels."""
    has_bias, kernel = old.bias is not None, cast("tuple[int, int]", old.kernel_size)
    stride, padding = cast("tuple[int, int]", old.stride), cast("tuple[int, int]", old.padding)
    new = nn.Conv2d(in_chans, old.out_channels, kernel, stride, padding, bias=has_bias)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


def _cfg(name: str) -> dict[str, Any]:
    plan = PLANS[name]
    weights: Any = torchvision.models.get_model_weights(name)
    published = weights.DEFAULT.transforms()
    return {
        "url": weights.DEFAULT.url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5) if plan.half else tuple(published.mean),
        "std": (0.5, 0.5, 0.5) if plan.half else tuple(published.std),
        "first_conv": f"net.{plan.first_conv}",
        "classifier": f"net.{plan.last_layer}",
        "license": "bsd-3-clause",
    }


default_cfgs = generate_default_cfgs({PREFIX + name: _cfg(name) for name in PLANS})


def _register(name: str) -> None:
    def make(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if kwargs.pop("features_only", False):
            raise ValueError("networks of torchvision give features through taps only")
        build: Callable[..., Any] = build_model_with_cfg
        variant = PREFIX + name
        return cast(
            "nn.Module",
            build(TorchvisionNet, variant, pretrained, pretrained_filter_fn=_if_torchvision, name=name, **kwargs),
        )

    make.__name__ = make.__qualname__ = PREFIX + name
    make.__doc__ = f"torchvision's {name}."
    register_model(make)


def _if_torchvision(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Published weights have torchvision's names, a saved folder ours."""
    return weights if all(name.startswith("net.") for name in weights) else to_wrapped(weights)


for _name in PLANS:
    _register(_name)
