"""Residual networks for small images, registered with timm as ``sapling_resnet20``, ``sapling_wrn_16_2``, ..

Three families, none of which shrinks an image before its first residual block (names that end in ``_s2`` halve it):

* ResNet-20/32/44/56/110 (He et al., 2016, section 4.2) with 16, 32, 64 channels, and ResNet-8x4/32x4 with 64, 128, 256
  (the pairs of the distillation literature, from RepDistiller). Shortcuts that change the width are 1x1 convolutions,
  as in RepDistiller, mdistiller and chenyaofo; ``shortcut="pad"`` is the paper's option A without parameters.
* Wide ResNets (Zagoruyko and Komodakis, 2016), pre-activation: ``wrn_<depth>_<width>``.
* ``resnet18_cifar``, ``34``, ``50``: timm's ResNets with a 3x3 stem without stride and without max-pooling
  (kuangliu, weiaicunzai).

``resnet20_s2``, ``resnet56_s2``, ``resnet8x4_s2``, ``wrn_16_2_s2`` and ``wrn_40_2_s2`` have a stem of stride 2 and are
otherwise those: ours, for images of 64 to 128 pixels, which cost then what those of half the side would.

Taps: the first two families have three stages; ``stage1`` is their stem, ``stage2``..``stage4`` are the stages (of a
Wide ResNet ``stage4`` is the activation after the last stage, which is what its classifier pools).
Names of parameters are those of RepDistiller and of timm, so that foreign weights fit (`sapling.models.foreign`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resnet
from torch import Tensor, nn
from torch.nn import functional as F

Shortcut = Literal["conv", "pad"]

DEPTHS = (20, 32, 44, 56, 110)
WIDE = ((16, 1), (16, 2), (40, 1), (40, 2))
STEMMED: Mapping[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "resnet18_cifar": (resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34_cifar": (resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50_cifar": (resnet.Bottleneck, (3, 4, 6, 3)),
}
STRIDED = ("resnet20", "resnet56", "resnet8x4", "wrn_16_2", "wrn_40_2")
"""Of these there is one with a stem of stride 2, too: ``_s2``."""
PLAIN = {
    **{f"resnet{depth}": (depth, (16, 16, 32, 64)) for depth in DEPTHS},
    "resnet8x4": (8, (32, 64, 128, 256)),
    "resnet32x4": (32, (32, 64, 128, 256)),
}


class PadShortcut(nn.Module):
    """Option A: every second pixel, new channels filled with zeros on both sides; no parameters."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B,C,H,W] -> [B,C+added,H/stride,W/stride]``."""
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.added // 2
        return F.pad(x, (0, 0, 0, 0, before, self.added - before))


class BasicBlock(nn.Module):
    """``conv - norm - ReLU - conv - norm``, plus the shortcut, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = (
                PadShortcut(outputs - inputs, stride)
                if shortcut == "pad"
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            )
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        result: Tensor = self.act2(out + self.downsample(x))
        return result


class PreActBlock(nn.Module):
    """``norm - ReLU - conv - norm - ReLU - conv``, plus the shortcut; nothing after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """One block; where the width changes, the shortcut too starts from the activated input."""
        active = self.act1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        out: Tensor = self.conv2(self.act2(self.bn2(self.conv1(active)))) + shortcut
        return out


class SmallResNet(nn.Module):
    """What the two families share: stem, three stages, global average pooling, linear classifier.

    Args:
        depth: layers with weights.
        widths: channels of the stem and of the three stages.
        wide: pre-activation blocks and a last norm (Wide ResNet) instead of basic blocks.
        shortcut: ``conv`` or ``pad``; of basic blocks.
        stem_stride: of the first convolution.
        num_classes: K; 0 gives the embedding instead of logits.
        in_chans: channels of the images.
        drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int],
        wide: bool = False,
        shortcut: Shortcut = "conv",
        stem_stride: int = 1,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if shortcut not in ("conv", "pad"):
            raise ValueError(f"shortcut {shortcut!r}: allowed are conv, pad")
        self.num_classes, self.in_chans, self.wide = num_classes, in_chans, wide
        self.num_features = self.head_hidden_size = widths[3]
        blocks = (depth - (4 if wide else 2)) // 6
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, stem_stride, 1, bias=False)
        if not wide:
            self.bn1: nn.Module = nn.BatchNorm2d(widths[0])
            self.act1: nn.Module = nn.ReLU(inplace=True)
        for number in (1, 2, 3):
            inputs, outputs, stride = widths[number - 1], widths[number], 1 if number == 1 else 2
            stage = [
                PreActBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1)
                if wide
                else BasicBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1, shortcut)
                for i in range(blocks)
            ]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        if wide:
            self.bn1 = nn.BatchNorm2d(widths[3])
            self.act1 = nn.ReLU(inplace=True)
        modules = ("conv1", "layer1", "layer2", "act1") if wide else ("act1", "layer1", "layer2", "layer3")
        self.feature_info = [
            {"num_chs": width, "reduction": stem_stride * reduction, "module": module}
            for width, reduction, module in zip(widths, (1, 1, 2, 4), modules, strict=True)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Linear(widths[3], num_classes) if num_classes > 0 else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Give the last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier for ``num_classes`` in place of the old one, with fresh weights."""
        self.num_classes = num_classes
        old = next(self.parameters())
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.fc.to(device=old.device, dtype=old.dtype)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which parameters belong to which layer, for layer-wise learning rates."""
        stem = r"^conv1\." if self.wide else r"^(?:conv1|bn1)\."
        return {"stem": stem, "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]`` to the last map ``[B,D,h,w]``."""
        x = self.conv1(x)
        if not self.wide:
            x = self.act1(self.bn1(x))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        return self.act1(self.bn1(x)) if self.wide else x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map ``[B,D,h,w]`` to logits ``[B,K]``, or to the embedding ``[B,D]`` if ``pre_logits``."""
        x = self.head_drop(x.mean(dim=(2, 3)))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]``, normalised, any size, to logits ``[B,K]``."""
        return self.forward_head(self.forward_features(x))


class StemmedResNet(resnet.ResNet):  # type: ignore[misc]
    """timm's ResNet with a stem for small images: 3x3, stride 1, no pooling."""

    def __init__(self, *args: Any, in_chans: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, in_chans=in_chans, **kwargs)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for entry in self.feature_info:
            entry["reduction"] = max(entry["reduction"] // 4, 1)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
        **kwargs,
    }


def _register(name: str, network: Callable[..., nn.Module], fixed: Mapping[str, Any], about: str) -> None:
    """Tell timm of one network: ``sapling_<name>``."""

    def make(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        feature_cfg = {"out_indices": tuple(range(5 if network is StemmedResNet else 4))}
        model = build_model_with_cfg(network, f"sapling_{name}", pretrained, feature_cfg=feature_cfg, **fixed, **kwargs)
        return cast("nn.Module", model)

    make.__name__ = make.__qualname__ = f"sapling_{name}"
    make.__doc__ = about
    register_model(make)


_small: dict[str, dict[str, Any]] = {
    name: {"depth": depth, "widths": widths} for name, (depth, widths) in PLAIN.items()
}
_small |= {f"wrn_{d}_{w}": {"depth": d, "widths": (16, 16 * w, 32 * w, 64 * w), "wide": True} for d, w in WIDE}
_small |= {f"{name}_s2": {**_small[name], "stem_stride": 2} for name in STRIDED}
default_cfgs = generate_default_cfgs(
    {f"sapling_{name}": _cfg(input_size=(3, 64, 64) if name.endswith("_s2") else (3, 32, 32)) for name in _small}
    | {f"sapling_{name}": _cfg() for name in STEMMED}
)
for _name, _settings in _small.items():
    _about = f"{'Wide ' if 'wide' in _settings else ''}ResNet for small images, {_settings['depth']} layers."
    _register(_name, SmallResNet, _settings, _about)
for _name, (_block, _layers) in STEMMED.items():
    _register(_name, StemmedResNet, {"block": _block, "layers": _layers}, "timm's ResNet with a 3x3 stem, no pooling.")
