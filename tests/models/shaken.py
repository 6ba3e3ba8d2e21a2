"""Networks whose weights look trained: fresh ones answer nearly the same for every image and hide mistakes."""

from __future__ import annotations

import torch
from torch import nn

from sapling.models import LoadedModel, Preprocess, create_model, resolve_name

CLASSES = ("Acer", "Betula", "Carpinus", "水杉", "Fagus", "Tilia", "Ulmus")


def shake(model: nn.Module, images: torch.Tensor, seed: int = 3) -> nn.Module:
    """Let batch norms see ``images``, give them affine weights of their own, and spread the logits."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the average over all that it sees
                draw(module.weight, 0.7, 1.3)
                draw(module.bias, -0.3, 0.3)
        head = model.get_classifier()
        draw(head.weight, -0.5, 0.5)
        model.train()(images)
        logits = model.eval()(images)
        head.weight.div_(logits.std(dim=0).mean())
        head.bias.sub_(model(images).mean(dim=0))
        head.bias.add_(torch.linspace(-0.5, 0.5, len(head.bias)))
    return model


def preprocess(img_size: int = 64, store_size: int = 74, channels: int = 3) -> Preprocess:
    mean = tuple(0.3 + 0.05 * i for i in range(channels))
    std = tuple(0.15 + 0.02 * i for i in range(channels))
    return Preprocess(img_size, store_size, mean, std)


def loaded(name: str = "cnn3", *, img_size: int = 64, store_size: int = 74, channels: int = 3) -> LoadedModel:
    model = create_model(name, num_classes=len(CLASSES), img_size=img_size, in_chans=channels, seed=1)
    settings = preprocess(img_size, store_size, channels)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (settings.mean, settings.std))
    shake(model, (pictures(16, channels=channels, side=img_size) - mean) / std)
    return LoadedModel(model, resolve_name(name), CLASSES, settings)


def pictures(count: int = 4, *, channels: int = 3, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth coloured images in [0,1] that differ from each other; after pooling, noise all looks the same."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator) * torch.rand(
        count, channels, 1, 1, generator=generator
    )
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0.0, 1.0)
