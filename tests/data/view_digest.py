"""Prints what a fixed set of views looks like: run in another process, it must say the same."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import torch

from sapling.data.views import make_views, preset


def digest_of_views(name: str = "aerial", *, channels: int = 3, shuffled: bool = False) -> str:
    """sha256 of 64 views, made in order or shuffled and put back."""
    indices, views = np.arange(64), np.arange(64) * 7919
    order = np.random.default_rng(1).permutation(64) if shuffled else np.arange(64)
    images = np.random.default_rng(8).integers(0, 256, (64, 20, 20, channels), dtype=np.uint8)
    found = make_views(
        torch.from_numpy(images[order]),
        torch.from_numpy(indices[order]),
        torch.from_numpy(views[order]),
        spec=preset(name),
        view_seed=11,
        img_size=16,
    )
    back = found[torch.from_numpy(np.argsort(order))]
    return hashlib.sha256(back.contiguous().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    print("\n".join(digest_of_views(name, shuffled=True) for name in sys.argv[1:]))
