"""Claim: how long until a student is as good as torchdistill's is after 30 epochs.

    python benchmarks/time_to_accuracy.py --folder PLACE [--images 640] [--batch 32] [--peer 12,30] [--ours 12,20,30] ..

ResNet-34 to ResNet-18 on a folder of JPEG files. torchdistill 1.1.5 trains so many epochs (``--peer``) with a cosine
schedule and its KD loss; the longest is what is to be reached. Ours is our loop with one student and no control:
``dist`` with its defaults, kept answers (V views), a cosine after an epoch of warm-up, and ``--share`` of the epochs at
half the image side (``train.half_size_share``): whole schedules of several lengths (``--ours``), each from the start.
``whole`` is ours without the small images, ``alone`` ours without a teacher (``--beside``, their epochs). So toolkit,
method and size of images change at once; the arms tell them apart in part. All is counted but imports, loading the
teacher and evaluation. Accuracy is that on dev images: test images are not opened for a benchmark.

A schedule has reached the peer's accuracy where its mean over the repeats (a seed each) is no less, and that of each
longer one too; ``minus_wanted`` holds the difference in each repeat, for with few seeds that is a point estimate.
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
        share=0.5,
        repeats=3,
        teacher_epochs=30,
        method="dist",
        peer="12,30",
        ours="12,20,30",
        beside="12",
    )
    o.cosine = True
    root, place = peers.images_of(o), peers.teacher_of(o, TEACHER)
    python = peers.peer_python(o)
    if python is None:
        sys.exit("there is nothing to compare with")
    lengths = {
        kind: sorted(map(int, filter(None, text.split(",")))) for kind, text in vars(o).items() if kind in peers.LISTS
    }
    small = {"half_size_share": o.share, "method": o.method}
    arms: dict[str, dict[str, Any]] = {
        **{f"torchdistill {n}": {"kind": "torchdistill", "epochs": n} for n in lengths["peer"]},
        **{f"ours {n}": {"kind": "cached", "epochs": n, **small} for n in lengths["ours"]},
        **{f"whole {n}": {"kind": "cached", "epochs": n, "method": o.method} for n in lengths["beside"]},
        **{f"alone {n}": {"kind": "alone", "epochs": n, **small} for n in lengths["beside"]},
    }
    peer = f"torchdistill {lengths['peer'][-1]}"

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
    reached = [n for n in lengths["ours"] if all(mean[f"ours {m}"] >= mean[peer] for m in lengths["ours"] if m >= n)]
    content = {
        "claim": f"seconds of {peer} epochs / ours until its accuracy",
        "teacher_top1": round(peers.accuracy(load_model(place).model, peers.opened(root, o.img_size), o), 4),
        "reached_after_epochs": reached[0] if reached else None,
        "arms": {
            arm: {
                **about,
                "top1": {"mean": round(mean[arm], 4), **peers.spread(top1[arm])},
                "minus_wanted": [round(a - b, 4) for a, b in zip(top1[arm], top1[peer], strict=True)],
                **{f"{k}_seconds": peers.spread(seconds[k][arm]) for k in ("cpu", "wall")},
            }
            for arm, about in arms.items()
        },
        "ratios": {
            arm: {k: peers.ratios(seconds[k][peer], seconds[k][arm]) for k in ("cpu", "wall")}
            for arm in arms
            if arm != peer
        },
    }
    peers.record("time_to_accuracy", o, content)


if __name__ == "__main__":
    main()
