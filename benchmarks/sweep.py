"""Claim: eleven students that differ in ``alpha`` cost a fraction of eleven runs of torchdistill.

    python benchmarks/sweep.py --folder PLACE [--images 1500] [--epochs 10] [--repeats 3] [--separate 11] ..

cnn3 students of a ResNet-34, alpha 0.05, 0.1, 0.2 .. 0.9, 0.95. Ours is one pass with all of them on the same batches:
one store, one teacher, with kept answers (``cached``) or asked once a batch (``live``). Theirs are separate runs, one
after another; ``--separate N`` runs N of the alphas and multiplies (said in the record). All is counted.
"""

from __future__ import annotations

import sys
from typing import Any

import peers

TEACHER, STUDENT = "resnet34", "sapling_cnn3"
ALPHAS = [0.05, *(k / 10 for k in range(1, 10)), 0.95]  # at 0 torchdistill leaves the temperature away


def main() -> None:
    """Measure what is missing, collect."""
    o = peers.options_of(__doc__, repeats=3, separate=len(ALPHAS))
    peers.images_of(o)
    peers.teacher_of(o, TEACHER)
    other = peers.peer_python(o)
    peer = "torchdistill" if other else "timm"

    def run(arm: str, repeat: int) -> dict[str, Any]:
        python = other if arm == "torchdistill" and other else sys.executable
        alphas = sorted(ALPHAS, key=lambda a: abs(a - 0.5))[: o.separate] if arm == peer else ALPHAS
        return peers.in_process(python, o, arm, repeat, teacher=TEACHER, student=STUDENT, alphas=alphas)

    found = peers.repeated(o, [peer, "live", "cached"], run)
    factor = {peer: len(ALPHAS) / o.separate, "live": 1.0, "cached": 1.0}
    seconds = {
        kind: {
            arm: [factor[arm] * sum(v[kind] for v in r["seconds"].values()) for r in rows]
            for arm, rows in found.items()
        }
        for kind in ("cpu", "wall")
    }
    content = {
        "claim": f"{len(ALPHAS)} cnn3 students: {len(ALPHAS)} runs of {peer} / one pass",
        "separate_runs_measured": o.separate,
        "arms": {
            arm: {
                "top1": peers.spread([x for row in rows for x in row["top1"]]),
                **{f"{k}_seconds": peers.spread(seconds[k][arm]) for k in ("cpu", "wall")},
            }
            for arm, rows in found.items()
        },
        "ratios": {
            f"{peer} / {ours}": {k: peers.ratios(seconds[k][peer], seconds[k][ours]) for k in ("cpu", "wall")}
            for ours in ("live", "cached")
        },
    }
    peers.record("sweep", o, content)


if __name__ == "__main__":
    main()
