"""Claim: with kept answers an epoch costs hardly more than without a teacher, and a further student nothing else.

    python benchmarks/cached_epoch.py --folder PLACE [--images 1500] [--epochs 2] [--repeats 9] ..

ResNet-34 to ResNet-18 in our own loop, store packed and answers kept before; arms in turn in one process, seconds of an
epoch against those of the same epoch without a teacher in the same repeat. ``further`` is what another student costs
that comes later to a known teacher: loading the teacher, opening and checking the answers, building the student, and
the same epochs; against building a student and the same epochs without a teacher. ``fdbd`` is timed in its students'
epochs: the phase before them (autoencoder) is not in here, and ``fdbd, latents`` has the kept latents of an autoencoder
that has learned nothing: another result in the same time. So few steps would measure the pull of each term far more
often than a whole run does (4 times at least): ``--as-of-epochs`` says of how long a run these epochs are a part. Then
it is hardly ever due here; a whole run has up to 1 % more in every arm of two terms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peers
from peers import Clock

from sapling.types import LATENT
from sapling.workflows.latents import LatentTeacher
from sapling.workflows.passes import prepare_machine

TEACHER, STUDENT = "resnet34", "resnet18"
LATENTS = 2
# arm: method, whether answers are kept (or latents), whether opening and building count
ARMS: dict[str, tuple[str, int, bool]] = {
    "alone": ("none", False, False),
    "kd, live": ("kd", False, False),
    "kd, cached": ("kd", True, False),
    "fdbd, live": ("fdbd", False, False),
    "fdbd, cached": ("fdbd", True, False),
    "fdbd, latents": ("fdbd", LATENTS, False),
    "further, alone": ("none", False, True),
    "further": ("kd", True, True),
}


def main() -> None:
    """Measure what is missing, collect."""
    o = peers.options_of(__doc__, epochs=2, repeats=9, as_of_epochs=30)
    peers.set_threads(o.threads)
    place = peers.teacher_of(o, TEACHER)
    data = peers.opened(peers.images_of(o), o.img_size, o.views)
    machine = prepare_machine(peers.settings(data, o.threads))
    taps = {method: peers.teacher_taps(method) for method in ("kd", "fdbd")}

    def hear(method: str, cached: int) -> Any:
        live = peers.live_teacher(place, machine, taps[method])
        if not cached:
            return live
        answers = Path(o.folder) / f"answers-{place.name}-{o.views}"
        if cached != LATENTS:
            return peers.cached_teacher(live, data, answers, machine, taps=taps[method], known=method)
        one = peers.member(data, o, student=STUDENT, seed=0, method=method, teacher=live).method
        one.begin_phase(one.phases()[-1])
        latents: Any = LatentTeacher(live, one, LATENT)
        return peers.cached_teacher(latents, data, answers, machine, taps=(LATENT,), known="latents")

    ready = {(method, cached): hear(method, cached) for method, cached, _ in ARMS.values() if method != "none"}

    warm: list[bool] = []

    def run(arm: str, repeat: int) -> dict[str, Any]:
        if not warm:
            warm.append(True)
            run("alone", 0)  # the first pass of a process is slower
        method, cached, whole = ARMS[arm]
        clock = Clock()
        with clock.of("open"):
            teacher = None if method == "none" else hear(method, cached) if whole else ready[method, cached]
            options = peers.kd_options() if method == "kd" else {}
            shown = ready[method, False] if method != "none" else None
            one = peers.member(data, o, student=STUDENT, seed=repeat, method=method, options=options, teacher=shown)
        with clock.of("train"):
            peers.train([one], data, o, machine, teacher)
        counted = ("open", "train") if whole else ("train",)
        return {k: sum(clock.seconds[part][k] for part in counted) / o.epochs for k in ("cpu", "wall")}

    found = peers.repeated(o, list(ARMS), run)
    seconds = {k: {arm: [row[k] for row in rows] for arm, rows in found.items()} for k in ("cpu", "wall")}
    content = {
        "claim": "epoch / the same epoch without a teacher",
        "targets": {"kd, cached": 1.03, "fdbd, cached": 1.25, "fdbd, latents": 1.25, "further": 1.03},
        "epoch_seconds": {k: {arm: peers.spread(v) for arm, v in arms.items()} for k, arms in seconds.items()},
        "ratios": {
            arm: {
                k: peers.ratios(seconds[k][arm], seconds[k]["further, alone" if arm == "further" else "alone"])
                for k in ("cpu", "wall")
            }
            for arm in ARMS
            if not arm.endswith("alone")
        },
    }
    peers.record("cached_epoch", o, content)


if __name__ == "__main__":
    main()
