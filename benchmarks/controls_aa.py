"""Claim: between real controls of disjoint seeds the verdict hardly ever sees a difference.

    python benchmarks/controls_aa.py FOLDER SET NUM_CONTROLS EPOCHS

Trains cnn3 alone under NUM_CONTROLS seeds and keeps its answers on dev images in FOLDER, so that a later call goes on.
Then draws pairs of disjoint sets of seeds, 3 and 5 at a time, and asks the verdict: there is nothing to find, as both
sides are the same method. The draws share controls, so they are not independent: the share is an estimate from this
pool, and ``verdict_aa.py`` has the simulation with 2,000 independent comparisons. Test images are never opened.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from sets import open_dev

from methods import CONTROL, alone, answers, settings, train
from sapling.evaluation.verdict import compare
from sapling.record import environment, write_json
from sapling.workflows.passes import groups_of, prepare_machine

HERE = Path(__file__).parent
NUM_DRAWS = 400


def main() -> None:
    """Go on where the last call stopped."""
    folder, name, wanted, epochs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    data = open_dev(name)
    config = settings(data)
    machine = prepare_machine(config)
    place = folder / f"{name}-{epochs}"
    place.mkdir(parents=True, exist_ok=True)
    for seed in range(wanted):
        kept = place / f"{seed}.npy"
        if kept.exists():
            continue
        member = alone(data, config, CONTROL, seed, epochs)
        train([member], data, machine, epochs)
        np.save(kept, answers(member.student, data, config, machine).argmax(1))
        print(f"{name} seed {seed}: {100 * float((np.load(kept) == data.labels('val')).mean()):.2f}", flush=True)
    labels, groups = data.labels("val"), groups_of(data, "val")
    found = [place / f"{seed}.npy" for seed in range(wanted)]
    correct = np.stack([np.load(p) == labels for p in found])
    rng, rows = np.random.default_rng(0), {}
    for size in (3, 5):
        verdicts = []
        for _ in range(NUM_DRAWS):
            seeds = rng.permutation(len(correct))[: 2 * size]
            verdicts.append(compare(correct[seeds[:size]], correct[seeds[size:]], labels=labels, groups=groups))
        wrong = float(np.mean([v.outcome != "no difference shown" for v in verdicts]))
        rows[str(size)] = {"wrong": wrong, "width": float(np.median([v.high - v.low for v in verdicts])) / 2}
        width = 100 * rows[str(size)]["width"]
        print(f"{name}, {size} seeds against {size}: wrong {100 * wrong:.1f} %, half width {width:.1f}")
    target = HERE / "results" / "controls_aa.json"
    kept_rows = json.loads(target.read_text(encoding="utf-8"))["sets"] if target.exists() else {}
    top1 = correct.mean(1)
    kept_rows[place.name] = {
        "controls": wanted,
        "epochs": epochs,
        "dev_images": len(labels),
        "top1_mean": float(top1.mean()),
        "top1_sd": float(top1.std(ddof=1)),
        "draws": NUM_DRAWS,
        "seeds": rows,
    }
    write_json(target, {"sets": kept_rows, "environment": environment()})


if __name__ == "__main__":
    main()
