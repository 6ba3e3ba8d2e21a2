"""Our own small networks, registered with timm as ``sapling_cnn3`` and ``sapling_cnn4``.

A block is ``conv 3x3 - max-pool 2 - batch norm - ReLU``; the last block has no pooling. Batch norm and ReLU
keep the order of values where the norm's scale is positive, so pooling first chooses the same pixels and
leaves a quarter of the work to the norm and the ReLU (a train step of cnn3, batch 64 at 64 pixels, bf16
channels-last on one CPU core: 110 ms instead of 133 ms; 78 ms are convolutions).

timm only knows these names after ``import sapling.models``.
"""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """``conv 3x3 - [max-pool 2] - batch norm - ReLU``: ``[B,in,H,W] -> [B,out,H or H/2,W or W/2]``."""

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool) -> None:
        super().__init__()
        # The norm that follows has its own shift, so the convolution needs no bias.
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        # ceil_mode: a map of one pixel stays one pixel, so that tiny images work as well.
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pool else nn.Identity()
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        out: Tensor = self.act(self.norm(self.pool(self.conv(x))))
        return out


class SmallCNN(nn.Module):
    """A plain stack of convolution blocks with global average pooling and a linear classifier.

    Args:
        widths: output channels of each block.
        num_classes: K; 0 gives the embedding instead of logits.
        in_chans: channels of the images.
        global_pool: ``avg``, or an empty string for no pooling (only with ``num_classes=0``).
        drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 128),
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = widths[-1]
        self.drop_rate = drop_rate
        channels = (in_chans, *widths)
        last = len(widths) - 1
        self.blocks = nn.Sequential(
            *(ConvBlock(channels[i], channels[i + 1], pool=i < last) for i in range(len(widths)))
        )
        self.feature_info = [
            {"num_chs": width, "reduction": 2 ** min(i + 1, last), "module": f"blocks.{i}"}
            for i, width in enumerate(widths)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Linear(widths[-1], num_classes) if num_classes > 0 else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Give the last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier for ``num_classes`` in place of the old one, with fresh weights."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        old = next(self.parameters())
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.fc.to(device=old.device, dtype=old.dtype)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which parameters belong to which layer, for layer-wise learning rates."""
        return {"blocks": r"^blocks\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]`` to the last map ``[B,D,h,w]``."""
        out: Tensor = self.blocks(x)
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map ``[B,D,h,w]`` to logits ``[B,K]``, or to the embedding ``[B,D]`` if ``pre_logits``."""
        if self.global_pool == "avg":
            x = x.mean(dim=(2, 3))
        x = self.head_drop(x)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """``[B,C,H,W]``, normalised, any size, to logits ``[B,K]``."""
        return self.forward_head(self.forward_features(x))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 64, 64),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "blocks.0.conv",
        "classifier": "fc",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs({"sapling_cnn3": _cfg(), "sapling_cnn4": _cfg()})


def _build(variant: str, pretrained: bool, widths: tuple[int, ...], kwargs: dict[str, Any]) -> nn.Module:
    feature_cfg = {"out_indices": tuple(range(len(widths))), "flatten_sequential": True}
    model = build_model_with_cfg(SmallCNN, variant, pretrained, feature_cfg=feature_cfg, widths=widths, **kwargs)
    assert isinstance(model, nn.Module)  # with features_only timm wraps it
    return model


@register_model  # type: ignore[untyped-decorator]
def sapling_cnn3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Three convolutions (32, 64, 128), about 95 thousand parameters; the remote-sensing student."""
    return _build("sapling_cnn3", pretrained, (32, 64, 128), kwargs)


@register_model  # type: ignore[untyped-decorator]
def sapling_cnn4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Four convolutions (32, 64, 128, 256), about 390 thousand parameters; the remote-sensing teacher."""
    return _build("sapling_cnn4", pretrained, (32, 64, 128, 256), kwargs)
