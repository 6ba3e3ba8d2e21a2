"""Claim: how long until a student is as good as torchdistill's is after 30 epochs.

    python benchmarks/time_to_accuracy.py --folder PLACE [--images 640] [--batch 32] [--epochs 30] [--repeats 3] ..

ResNet-34 to ResNet-18 on a folder of JPEG files. torchdistill 1.1.5 trains ``--epochs`` epochs with a cosine schedule
and its KD loss. Ours is what a user of Sapling may ask for: ``dist`` with its defaults, kept answers (V views), a
cosine of its own length, half of the epochs at half the image side (``train.half_size_share``): whole schedules of
several lengths, each from the start, so that none is broken off at its luckiest epoch. ``whole`` is the longest of them
without the small images. All is counted but imports, loading the teacher and evaluation. Accuracy is that on dev
images: test images are not opened for a benchmark. The answer is the shortest schedule whose mean accuracy over the
repeats (a seed each) is no less than torchdistill's; where none is, it is null.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import peers

TEACHER, STUDENT = "resnet34", "resnet18"
LENGTHS = (6, 10, 15)
SHARE = 0.5


def main() -> None:
    """Measure what is missing, collect."""
    o = peers.options_of(
        __doc__, images=640, dev=2000, batch=32, epochs=30, repeats=3, teacher_epochs=30, method="dist"
    )
    o.cosine = True
    peers.images_of(o)
    peers.teacher_of(o, TEACHER)
    python = peers.peer_python(o)
    if python is None:
        sys.exit("there is nothing to compare with")
    ours: dict[str, dict[str, Any]] = {f"ours {n}": {"epochs": n, "half_size_share": SHARE} for n in LENGTHS}
    ours[f"whole {LENGTHS[-1]}"] = {"epochs": LENGTHS[-1]}

    def run(arm: str, repeat: int) -> dict[str, Any]:
        about = {"teacher": TEACHER, "student": STUDENT, "cosine": True}
        if arm == "torchdistill":
            return peers.in_process(python, o, arm, repeat, **about)
        return peers.in_process(sys.executable, o, "cached", repeat, method=o.method, **about, **ours[arm])

    found = peers.repeated(o, ["torchdistill", *ours], run)
    seconds = {
        k: {arm: [sum(v[k] for v in row["seconds"].values()) for row in rows] for arm, rows in found.items()}
        for k in ("cpu", "wall")
    }
    top1 = {arm: [row["top1"][0] for row in rows] for arm, rows in found.items()}
    wanted = statistics.fmean(top1["torchdistill"])
    enough = [arm for arm in ours if not arm.startswith("whole") and statistics.fmean(top1[arm]) >= wanted]
    content = {
        "claim": f"seconds of torchdistill's {o.epochs} epochs / ours until its accuracy",
        "wanted_top1": round(wanted, 4),
        "reached_by": enough[0] if enough else None,
        "arms": {
            arm: {
                "top1": {"mean": round(statistics.fmean(top1[arm]), 4), **peers.spread(top1[arm])},
                **{f"{k}_seconds": peers.spread(seconds[k][arm]) for k in ("cpu", "wall")},
            }
            for arm in found
        },
        "ratios": {
            arm: {k: peers.ratios(seconds[k]["torchdistill"], seconds[k][arm]) for k in ("cpu", "wall")} for arm in ours
        },
    }
    peers.record("time_to_accuracy", o, content)


if __name__ == "__main__":
    main()
