"""Claim: the student alone was tuned as often as fdbd: 30 settings of its training, on dev.

    python benchmarks/control_trials.py FOLDER [SET ..] [--seed 10] [--img-size 32] [--threads 1]
    python benchmarks/control_trials.py FOLDER aid --epochs 100 --settings "lr 0.05, weight decay 0.0005;.."

Trials of fdbd are those of ``methods.py`` (30 settings, seed 10). Here the control alone is trained with 30 settings of
rate, weight decay, optimiser, warm-up, clipping and average of weights, all in one pass on the same batches, as long
as the students of the table. What is done is kept in FOLDER. ``results/control_trials.json`` holds the accuracy of
each on each set, and the setting with the best mean; ``methods.py .. --set train.lr=..`` then compares methods under
it. With ``--epochs`` the trainings are longer, and stand beside the others under ``longer``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sets import open_dev

from methods import STUDENT_EPOCHS, alone, answers, settings, train
from sapling.config import RunConfig
from sapling.record import environment, write_json
from sapling.workflows.passes import prepare_machine

USUAL = "lr 0.05, weight decay 0.0005"
SETTINGS: dict[str, dict[str, Any]] = {
    **{
        f"lr {lr:g}, weight decay {decay:g}": {"lr": lr, "weight_decay": decay}
        for lr in (0.0125, 0.025, 0.05, 0.1, 0.2)
        for decay in (1e-4, 5e-4, 2e-3, 5e-3)
    },
    **{
        f"adamw, lr {lr:g}, weight decay {decay:g}": {"optimizer": "adamw", "lr": lr, "weight_decay": decay}
        for lr in (0.001, 0.002, 0.004)
        for decay in (0.01, 0.1)
    },
    **{f"lr {lr:g}, average of weights": {"lr": lr, "ema_decay": 0.99} for lr in (0.05, 0.1)},
    "lr 0.1, no warm-up": {"lr": 0.1, "warmup_epochs": 0},
    "lr 0.05, gradients clipped at 1": {"clip_norm": 1.0},
}


def tried(name: str, seed: int, img_size: int, threads: int | None, epochs: int, labels: list[str]) -> dict[str, float]:
    """Accuracy on dev of the control with each setting."""
    data = open_dev(name, img_size=img_size)
    base = settings(data)
    if threads:
        base = with_train(base, {"threads": threads})
    machine = prepare_machine(base)
    members = []
    for label in labels:
        members.append(alone(data, with_train(base, SETTINGS[label]), label, seed, epochs))
    train(members, data, machine, epochs)
    truth = data.labels("val")
    return {m.name: float((answers(m.student, data, base, machine).argmax(1) == truth).mean()) for m in members}


def with_train(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """The settings with others of training."""
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def main() -> None:
    """Try what is missing, collect."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=list(STUDENT_EPOCHS))
    for name, usual in (("seed", 10), ("img-size", 32), ("threads", None)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--epochs", type=int, help="of all sets; by itself those of methods.py")
    parser.add_argument("--settings", help="labels with ';' between them; by itself all")
    given = parser.parse_args()
    labels = given.settings.split(";") if given.settings else list(SETTINGS)
    found = {}
    for name in given.sets:
        epochs = given.epochs or STUDENT_EPOCHS[name]
        place = given.folder / f"control-trials-{name}-{given.img_size}-{given.seed}-{epochs}.json"
        if not place.exists():
            write_json(place, tried(name, given.seed, given.img_size, given.threads, epochs, labels))
        found[name] = json.loads(place.read_text(encoding="utf-8"))
        order = sorted(found[name], key=lambda label: -found[name][label])
        print(name, ", ".join(f"{label}: {100 * found[name][label]:.1f}" for label in order), flush=True)
    target = Path(__file__).parent / "results" / "control_trials.json"
    if given.epochs:
        kept = json.loads(target.read_text(encoding="utf-8"))
        kept.setdefault("longer", {}).update({f"{name}, {given.epochs} epochs": rows for name, rows in found.items()})
        write_json(target, kept)
        return
    means = {label: float(np.mean([rows[label] for rows in found.values()])) for label in SETTINGS}
    write_json(
        target,
        {
            "claim": "30 settings of the control's training, one seed, dev images",
            "settings": {"seed": given.seed, "img_size": given.img_size, "epochs": STUDENT_EPOCHS},
            "sets": found,
            "means": means,
            "usual": USUAL,
            "best": max(means, key=lambda label: means[label]),
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
