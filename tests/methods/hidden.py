"""Pairs of networks of any shapes, as numbers without the networks: for tests of methods on features."""

from __future__ import annotations

import torch

from sapling.types import Outputs, PairInfo

K, B = 5, 6
CNN = {"stage2": (6, 6, 6), "stage3": (8, 3, 3), "stage4": (10, 2, 2), "embedding": (10,)}
WIDE = {"stage2": (8, 12, 12), "stage3": (12, 6, 6), "stage4": (16, 3, 3), "embedding": (20,)}
VIT = {"stage2": (16, 12), "stage3": (16, 12), "stage4": (16, 12), "embedding": (12,)}
PAIRS = {
    "cnn-cnn": (CNN, WIDE),
    "wide-cnn": (WIDE, CNN),
    "cnn-vit": (CNN, VIT),
    "vit-cnn": (VIT, WIDE),
    "vit": (VIT, VIT),
}


def every_tap(shapes):
    return {**shapes, **{f"{k}.pre": v for k, v in shapes.items() if k.startswith("stage")}}


def info_of(student, teacher, **more) -> PairInfo:
    generator = torch.Generator().manual_seed(8)
    width = teacher["embedding"][0]
    head = torch.randn(K, width, generator=generator), torch.randn(K, generator=generator)
    given = {"teacher_card": {"classifier.weight": head[0], "classifier.bias": head[1]}, **more}
    return PairInfo(K, 30, every_tap(student), every_tap(teacher), **given)


def outputs_of(shapes, seed, size=B, dtype=torch.float64) -> Outputs:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype)

    features = {name: draw(*shape) for name, shape in every_tap(shapes).items()}
    return Outputs(draw(K), features)


def with_gradient(given: Outputs) -> Outputs:
    return Outputs(
        given.logits.clone().requires_grad_(), {k: v.clone().requires_grad_() for k, v in given.features.items()}
    )
