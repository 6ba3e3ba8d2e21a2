"""Networks as other projects write and name them, written down once more: the reference for foreign weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A basic block with the names of parameters of one of the projects.

    Args:
        inputs, outputs, stride: its shape.
        names: ``repdistiller`` (also chenyaofo, torchvision), ``kuangliu``, ``akamaster`` (no parameters in shortcuts),
            ``weiaicunzai``.
    """

    def __init__(self, inputs, outputs, stride, names):
        super().__init__()
        self.names, self.stride, self.added = names, stride, outputs - inputs
        first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        norms = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        if names == "weiaicunzai":
            self.residual_function = nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1])
        else:
            self.conv1, self.bn1, self.conv2, self.bn2 = first, norms[0], second, norms[1]
        if stride != 1 or inputs != outputs:
            short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if names == "repdistiller":
                self.downsample = short
            elif names != "akamaster":
                self.shortcut = short

    def forward(self, x):
        if self.names == "weiaicunzai":
            out = self.residual_function(x)
        else:
            out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added == 0 and self.stride == 1:
            short = x
        elif self.names == "akamaster":
            short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))
        else:
            short = (self.downsample if self.names == "repdistiller" else self.shortcut)(x)
        return F.relu(out + short)


class ResNet(nn.Module):
    """Any number of stages of basic blocks behind a 3x3 stem."""

    def __init__(self, blocks, widths, names="repdistiller", num_classes=7):
        super().__init__()
        self.names = names
        stem, norm = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        if names == "weiaicunzai":
            self.conv1 = nn.Sequential(stem, norm, nn.ReLU())
        else:
            self.conv1, self.bn1 = stem, norm
        self.stages = []
        for number, count in enumerate(blocks):
            inputs, outputs = widths[number], widths[number + 1]
            strides = [1 if number == 0 else 2] + [1] * (count - 1)
            stage = nn.Sequential(
                *(Residual(inputs if i == 0 else outputs, outputs, s, names) for i, s in enumerate(strides))
            )
            name = f"conv{number + 2}_x" if names == "weiaicunzai" else f"layer{number + 1}"
            self.stages.append(name)
            self.add_module(name, stage)
        self.last = "linear" if names in ("kuangliu", "akamaster") else "fc"
        self.add_module(self.last, nn.Linear(widths[-1], num_classes))

    def forward(self, x):
        x = self.conv1(x) if self.names == "weiaicunzai" else F.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return getattr(self, self.last)(F.adaptive_avg_pool2d(x, 1).flatten(1))


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class Layer(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """RepDistiller's names: ``block1.layer.0.convShortcut``."""

    def __init__(self, depth, width, num_classes=7):
        super().__init__()
        n, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for k in (1, 2, 3):
            first = WideBlock(widths[k - 1], widths[k], 1 if k == 1 else 2)
            self.add_module(f"block{k}", Layer(first, *(WideBlock(widths[k], widths[k], 1) for _ in range(n - 1))))
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], num_classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


def trained(network, side=32, seed=0):
    """In eval mode, with statistics and affine weights of its own; without them every order of layers looks alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                for tensor, low in ((module.weight, 0.7), (module.bias, -0.3)):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.6 + low)
        network.train()(torch.randn(8, 3, side, side, generator=generator))
    return network.eval()


NETWORKS = {
    "resnet20": lambda: ResNet((3, 3, 3), (16, 16, 32, 64)),
    "resnet8x4": lambda: ResNet((1, 1, 1), (32, 64, 128, 256)),
    "resnet32x4": lambda: ResNet((5, 5, 5), (32, 64, 128, 256)),
    "wrn_16_2": lambda: WideResNet(16, 2),
    "wrn_40_1": lambda: WideResNet(40, 1),
    "resnet18_cifar": lambda: ResNet((2, 2, 2, 2), (64, 64, 128, 256, 512), "kuangliu"),
    "resnet56": lambda: ResNet((9, 9, 9), (16, 16, 32, 64), "akamaster"),
    "resnet34_cifar": lambda: ResNet((3, 4, 6, 3), (64, 64, 128, 256, 512), "weiaicunzai"),
}
