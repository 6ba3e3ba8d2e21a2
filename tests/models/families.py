"""The families of networks whose taps are tested: how to build a small one, and what its taps must be."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from timm.models.vgg import VGG
from torch import nn
from torch.nn import functional as F

from sapling.models import Preprocess
from sapling.models.build import build_network, resolve_name

STAGES = ("stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class Family:
    """What the taps of a network must be, written down by hand."""

    size: int
    modules: tuple[str, ...]
    """Paths of the stages, the last one is stage4."""
    shapes: tuple[tuple[int, ...], ...]
    embedding: int
    inner: tuple[str, tuple[int, ...]]
    """A module in the middle, and what it must give."""
    activation: dict[str, object] | None = None
    """What makes a stage from its ``.pre``; a stage that is not here has none."""
    arguments: dict[str, object] | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        return STAGES[-len(self.modules) :]


def every(function, stages=STAGES):
    return dict.fromkeys(stages, function)


VIT = ("blocks.2", "blocks.5", "blocks.8", "blocks.11")
FAMILIES = {
    "cnn3": Family(
        16,
        ("blocks.0", "blocks.1", "blocks.2"),
        ((32, 8, 8), (64, 4, 4), (128, 4, 4)),
        128,
        ("blocks.1.conv", (64, 8, 8)),
        every(F.relu, STAGES[1:]),
    ),
    "cnn4": Family(
        16,
        ("blocks.0", "blocks.1", "blocks.2", "blocks.3"),
        ((32, 8, 8), (64, 4, 4), (128, 2, 2), (256, 2, 2)),
        256,
        ("blocks.1.norm", (64, 4, 4)),
        every(F.relu),
    ),
    "resnet18": Family(
        32,
        ("layer1", "layer2", "layer3", "layer4"),
        ((64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1)),
        512,
        ("layer2.0.bn1", (128, 4, 4)),
        every(F.relu),
    ),
    "densenet121": Family(
        32,
        ("features.denseblock1", "features.denseblock2", "features.denseblock3", "features.norm5"),
        ((256, 8, 8), (512, 4, 4), (1024, 2, 2), (1024, 1, 1)),
        1024,
        ("features.transition1.conv", (128, 8, 8)),
        {"stage4": F.relu},
    ),
    "inception_v3": Family(
        75,
        ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
        ((192, 15, 15), (288, 7, 7), (768, 3, 3), (2048, 1, 1)),
        2048,
        ("Mixed_5b.branch1x1.conv", (64, 7, 7)),
        {"stage1": F.relu},
    ),
    "legacy_xception": Family(
        32,
        ("block2.rep.0", "block3.rep.0", "block12.rep.0", "act4"),
        ((128, 7, 7), (256, 4, 4), (728, 2, 2), (2048, 1, 1)),
        2048,
        ("block3", (728, 2, 2)),
        every(F.relu),
    ),
    "mobilenetv2_035": Family(
        32,
        ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
        ((8, 8, 8), (16, 4, 4), (32, 2, 2), (112, 1, 1)),
        1280,
        ("blocks.1.0.conv_pw", (48, 16, 16)),
        {},
    ),
    "mobilenetv3_small_050": Family(
        32,
        ("blocks.0", "blocks.1", "blocks.3", "blocks.5"),
        ((8, 8, 8), (16, 4, 4), (24, 2, 2), (288, 1, 1)),
        1024,
        ("blocks.1.0.conv_pw", (40, 8, 8)),
        {"stage4": F.hardswish, "embedding": F.hardswish},
    ),
    "efficientnet_b0": Family(
        32,
        ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
        ((24, 8, 8), (40, 4, 4), (112, 2, 2), (320, 1, 1)),
        1280,
        ("blocks.1.0.conv_pw", (96, 16, 16)),
        {},
    ),
    "convnext_tiny": Family(
        32,
        ("stages.0", "stages.1", "stages.2", "stages.3"),
        ((16, 8, 8), (24, 4, 4), (32, 2, 2), (40, 1, 1)),
        40,
        ("stages.0.blocks.0.norm", (16, 8, 8)),
        {},
        {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)},
    ),
    "vit_tiny_patch16_224": Family(32, VIT, ((4, 192),) * 4, 192, ("blocks.3.mlp.fc1", (4, 768)), {}, {"img_size": 32}),
    "deit_tiny_distilled_patch16_224": Family(
        32, VIT, ((4, 192),) * 4, 192, ("blocks.3.mlp.fc1", (4, 768)), {}, {"img_size": 32}
    ),
    "swin_tiny_patch4_window7_224": Family(
        64,
        ("layers.0", "layers.1", "layers.2", "layers.3"),
        ((24, 16, 16), (48, 8, 8), (96, 4, 4), (192, 2, 2)),
        192,
        ("layers.1.blocks.0", (48, 8, 8)),
        {},
        {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)},
    ),
    "vgg11": Family(  # timm's smallest has 129 million parameters, nearly all in its head: the same class, narrow
        32,
        ("features.9", "features.14", "features.19", "features.20"),
        ((16, 8, 8), (24, 4, 4), (32, 2, 2), (32, 1, 1)),
        4096,
        ("features.8", (16, 8, 8)),
        every(F.relu, STAGES[:3]),
    ),
}


@functools.cache
def network(name):
    """The network, its batch norms used to pictures; never changed, always copied."""
    family = FAMILIES[name]
    if name == "vgg11":
        cfg = [8, "M", 8, "M", 16, 16, "M", 24, 24, "M", 32, 32, "M"]
        model = VGG(cfg=cfg, num_classes=5, mlp_ratio=0.05)
    else:
        model = build_network(resolve_name(name), num_classes=5, arguments=family.arguments or {}, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the average over all that it sees
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) * 0.6 + 0.7)
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) * 0.6 - 0.3)
        model.train()(torch.rand(32, 3, family.size, family.size, generator=generator) * 4 - 2)
    return model.eval()


def settings(name):
    return Preprocess(FAMILIES[name].size, FAMILIES[name].size, (0.5,) * 3, (0.25,) * 3)
