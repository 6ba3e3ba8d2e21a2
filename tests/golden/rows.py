"""Our number for each golden value that a loss or method of today can give.

``golden.json`` holds what the reference implementations gave (mdistiller, RepDistiller, hunto, LSKD and
others); it is never written by us. ``python -m tests.golden.rows`` prints ours beside theirs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from sapling import methods
from sapling.losses import decoupled, inter_class, intra_class, kl_divergence, spatial_kl, standardize_logits
from sapling.types import Batch, Outputs, PairInfo, Step

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def draw(seed, shape, scale=1.0):
    """The fixed inputs of the reference runs."""
    values = (np.random.RandomState(seed).randn(*shape) * scale).astype(np.float32)
    return torch.from_numpy(values)


ZS, ZT = draw(1, (8, 10), 2), draw(2, (8, 10), 2)
Y = torch.from_numpy(np.random.RandomState(3).randint(0, 10, 8))
FS2, FT2 = draw(9, (8, 64, 4, 4)), draw(12, (8, 64, 4, 4))


def total(name, **config):
    """Weighted sum of the terms beside ``ce``, through the method itself."""
    method = methods.build(name, PairInfo(num_classes=10, num_samples=8), **config)
    batch = Batch(torch.zeros(8, 3, 2, 2), Y, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    terms = method(Outputs(ZS), Outputs(ZT), batch, Step(progress=0.99))
    return sum(method.weights[k] * v for k, v in terms.items() if k != "ce")


def kd(**config):
    return total("kd", weights={"kd": 1}, **config)


def dkd(target, non_target, **config):
    return total("dkd", weights={"tckd": target, "nckd": non_target}, **config)


def dist(inter, intra, temperature):
    return total("dist", weights={"inter": inter, "intra": intra}, temperature=temperature)


ROWS = {
    "KD T=4 (mdistiller kd_loss)": lambda: kd(temperature=4),
    "KD T=1": lambda: kd(temperature=1),
    "DKD a=1 b=8 T=4": lambda: dkd(1, 8, temperature=4),
    "DKD TCKD only (a=1,b=0)": lambda: dkd(1, 0, temperature=4),
    "DKD NCKD only (a=0,b=1)": lambda: dkd(0, 1, temperature=4),
    "RepDistiller DistillKL T=4": lambda: kl_divergence(ZS, ZT, 4.0),
    "DIST b=1 g=1 tau=1": lambda: dist(1, 1, 1),
    "DIST b=1 g=1 tau=4": lambda: dist(1, 1, 4),
    "DIST inter only tau=4": lambda: inter_class(ZS, ZT, 4.0),
    "DIST intra only tau=4": lambda: intra_class(ZS, ZT, 4.0),
    "hunto KLDivergence tau=4 2-D": lambda: kl_divergence(ZS, ZT, 4.0),
    "hunto KLDivergence tau=4 on (8,10,1,1)": lambda: kl_divergence(ZS[:, :, None, None], ZT[:, :, None, None], 4.0),
    "hunto KLDivergence tau=1 on feature map stage3": lambda: kl_divergence(FS2, FT2, 1.0),
    "LSKD KD z-score T=2": lambda: kd(temperature=2, standardize=True),
    "LSKD KD no z-score T=2": lambda: kd(temperature=2),
    "LSKD DKD z-score a=1 b=8 T=2": lambda: dkd(1, 8, temperature=2, standardize=True),
    "TAKD KL (reduction mean) *T^2, T=4": lambda: kl_divergence(ZS, ZT, 4.0, "mean"),
    "CompRess KLD on logits": lambda: kl_divergence(ZS, ZT, 1.0),
    "DML KL": lambda: kl_divergence(ZS, ZT, 1.0),
    "FDBD default: channel axis, mean over B,H,W (FS2,FT2)": lambda: kl_divergence(FS2, FT2, 1.0, "positionmean"),
    "CWD spatial tau=1 (FS2,FT2)": lambda: spatial_kl(FS2, FT2, 1.0),
    "CWD spatial tau=4 (FS2,FT2)": lambda: spatial_kl(FS2, FT2, 4.0),
}
# the same functions once more, free of the methods around them
PURE = {
    "DKD a=1 b=8 T=4": lambda: sum(w * v for w, v in zip((1, 8), decoupled(ZS, ZT, Y, 4.0), strict=True)),
    "LSKD KD z-score T=2": lambda: kl_divergence(standardize_logits(ZS), standardize_logits(ZT), 2.0),
}


def main():
    print(f"{'golden value':56} {'ours':>12} {'reference':>12} {'relative':>9}")
    for name, row in ROWS.items():
        ours, theirs = float(row()), GOLDEN[name]
        print(f"{name:56} {ours:12.8g} {theirs:12.8g} {abs(ours - theirs) / abs(theirs):9.1e}")


if __name__ == "__main__":
    main()
