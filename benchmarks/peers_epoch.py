"""Claim: distilling ResNet-34 into ResNet-18 on a folder of JPEG files takes a fraction of what the peers take.

    python benchmarks/peers_epoch.py --folder PLACE [--images 1500] [--epochs 10] [--repeats 5] [--views 4] ..

Arms: torchdistill 1.1.5 (its distillation box), timm (``timm.task``), ours with a live teacher, ours with kept answers,
and ours without a teacher. Each repeat trains every arm in a new process with empty caches, in turn. Everything that
training needs is counted: decoding and packing once, asking the teacher about V views once. ``images a second``
and ratios of wall and processor seconds; ``ready`` is with store and answers there already; 100 epochs are
extrapolated: what is paid once, and 100 times the epoch (with V views still). See ``peers.py`` for what is equal.
"""

from __future__ import annotations

import sys
from typing import Any

import peers

OURS = ("live", "cached", "alone")
TEACHER, STUDENT = "resnet34", "resnet18"


def main() -> None:
    """Measure what is missing, collect."""
    o = peers.options_of(__doc__)
    peers.images_of(o)
    peers.teacher_of(o, TEACHER)
    other = peers.peer_python(o)
    arms = [*(["torchdistill"] if other else []), "timm", *OURS]

    def run(arm: str, repeat: int) -> dict[str, Any]:
        python = other if arm == "torchdistill" and other else sys.executable
        return peers.in_process(python, o, arm, repeat, teacher=TEACHER, student=STUDENT)

    found = peers.repeated(o, arms, run)
    seconds = {
        kind: {
            arm: {
                "epoch": [row["seconds"]["train"][kind] / o.epochs for row in rows],
                "once": [sum(v[kind] for k, v in row["seconds"].items() if k != "train") for row in rows],
            }
            for arm, rows in found.items()
        }
        for kind in ("cpu", "wall")
    }

    def total(kind: str, arm: str, epochs: int) -> list[float]:
        s = seconds[kind][arm]
        return [once + epochs * epoch for once, epoch in zip(s["once"], s["epoch"], strict=True)]

    content: dict[str, Any] = {
        "claim": "R34 -> R18 on a folder of JPEG files, peers' seconds / ours",
        "arms": {
            arm: {
                "top1": peers.spread([row["top1"][0] for row in rows]),
                **{f"epoch_{k}_seconds": peers.spread(seconds[k][arm]["epoch"]) for k in ("cpu", "wall")},
                **{f"once_{k}_seconds": peers.spread(seconds[k][arm]["once"]) for k in ("cpu", "wall")},
            }
            for arm, rows in found.items()
        },
        "ratios": {
            f"{peer} / {ours}": {
                kind: {
                    f"{o.epochs} epochs, all counted": peers.ratios(
                        total(kind, peer, o.epochs), total(kind, ours, o.epochs)
                    ),
                    "ready": peers.ratios(seconds[kind][peer]["epoch"], seconds[kind][ours]["epoch"]),
                    "100 epochs, extrapolated": peers.ratios(total(kind, peer, 100), total(kind, ours, 100)),
                }
                for kind in ("cpu", "wall")
            }
            for peer in arms
            if peer not in OURS
            for ours in ("live", "cached")
        },
    }
    peers.record("peers_epoch", o, content)


if __name__ == "__main__":
    main()
