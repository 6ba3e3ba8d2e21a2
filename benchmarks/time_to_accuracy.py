"""Claim: how long until a student is as good as torchdistill's is after 30 epochs.

    python benchmarks/time_to_accuracy.py --folder PLACE [--images 640] [--batch 32] [--epochs 30] [--short 12] ..

ResNet-34 to ResNet-18 on a folder of JPEG files. torchdistill 1.1.5 trains ``--epochs`` epochs, and ``--short`` epochs
as well, with a cosine schedule and its KD loss. Ours is our loop with one student and no control: ``dist`` with its
defaults, kept answers (V views), a cosine after an epoch of warm-up, and ``--share`` of the epochs at half the image
side (``train.half_size_share``), for two whole schedules, ``--least`` and ``--short`` epochs, each from the start.
``whole`` is the longer one without the small images, ``alone`` the same as ours without a teacher. So toolkit, method
and size of images change at once; the arms tell them apart in part. All is counted but imports, loading the teacher and
evaluation. Accuracy is that on dev images: test images are not opened for a benchmark.

An arm has reached torchdistill's accuracy where its mean over the repeats (a seed each) is no less, and that of the
longer schedule too; ``minus_wanted`` holds the difference in each repeat, for with few seeds that is a point estimate.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import peers

from sapling.models.load import load_model

TEACHER, STUDENT = "resnet34", "resnet18"


def main() -> None:
    """Measure what is missing, collect."""
    o = peers.options_of(
        __doc__,
        images=640,
        dev=1500,
        batch=32,
        epochs=30,
        short=12,
        least=8,
        share=0.5,
        repeats=3,
        teacher_epochs=30,
        method="dist",
    )
    o.cosine = True
    root, place = peers.images_of(o), peers.teacher_of(o, TEACHER)
    python = peers.peer_python(o)
    if python is None:
        sys.exit("there is nothing to compare with")
    small = {"half_size_share": o.share, "method": o.method}
    arms: dict[str, dict[str, Any]] = {
        "torchdistill": {"kind": "torchdistill", "epochs": o.epochs},
        "torchdistill, short": {"kind": "torchdistill", "epochs": o.short},
        "ours, least": {"kind": "cached", "epochs": o.least, **small},
        "ours": {"kind": "cached", "epochs": o.short, **small},
        "ours, whole": {"kind": "cached", "epochs": o.short, "method": o.method},
        "ours, alone": {"kind": "alone", "epochs": o.short, **small},
    }

    def run(arm: str, repeat: int) -> dict[str, Any]:
        about = dict(arms[arm])
        kind = about.pop("kind")
        own = python if kind == "torchdistill" else sys.executable
        return peers.in_process(own, o, kind, repeat, teacher=TEACHER, student=STUDENT, cosine=True, **about)

    found = peers.repeated(o, list(arms), run)
    seconds = {
        k: {arm: [sum(v[k] for v in row["seconds"].values()) for row in rows] for arm, rows in found.items()}
        for k in ("cpu", "wall")
    }
    top1 = {arm: [row["top1"][0] for row in rows] for arm, rows in found.items()}
    mean = {arm: statistics.fmean(values) for arm, values in top1.items()}
    reached = {arm: mean[arm] >= mean["torchdistill"] for arm in arms}
    reached["ours, least"] &= reached["ours"]
    content = {
        "claim": f"seconds of torchdistill's {o.epochs} epochs / ours until its accuracy",
        "teacher_top1": round(peers.accuracy(load_model(place).model, peers.opened(root, o.img_size), o), 4),
        "arms": {
            arm: {
                **about,
                "top1": {"mean": round(mean[arm], 4), **peers.spread(top1[arm])},
                "minus_wanted": [round(a - b, 4) for a, b in zip(top1[arm], top1["torchdistill"], strict=True)],
                "reached": reached[arm],
                **{f"{k}_seconds": peers.spread(seconds[k][arm]) for k in ("cpu", "wall")},
            }
            for arm, about in arms.items()
        },
        "ratios": {
            arm: {k: peers.ratios(seconds[k]["torchdistill"], seconds[k][arm]) for k in ("cpu", "wall")}
            for arm in arms
            if arm != "torchdistill"
        },
    }
    peers.record("time_to_accuracy", o, content)


if __name__ == "__main__":
    main()
