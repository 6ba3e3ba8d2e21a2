"""Claim: forward passes in bf16 cost no accuracy.

    python benchmarks/precision.py FOLDER [--images 1500] [--epochs 48] [--img-size 32] [--seeds 5] [--threads 2]

EuroSAT, dev images only; cnn3 alone and with ``kd`` from a sapling_resnet20 that is trained from scratch in float32.
For each seed both are trained side by side in float32 and once more in bf16, teacher and students alike, with the same
first weights, batches and views; dev is answered in float32, as test is in a run. ``results/precision.json`` holds bf16
minus float32 with the verdict's interval. What is done lies in FOLDER, so that a later call goes on. On a processor
without bf16 it is emulated: the same rounding at a tenth of the speed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sets import open_dev

from methods import answers, open_teacher, settings, train
from sapling.data.loader import Dataset
from sapling.evaluation.verdict import compare
from sapling.models.load import load_model
from sapling.models.tapped import TappedModel
from sapling.record import Run, environment, read_json, write_json
from sapling.teachers.live import LiveTeacher
from sapling.workflows.passes import Machine, make_member, optim_settings, prepare_machine

PRECISIONS = ("fp32", "bf16")
ARMS = {"control": "none", "kd": "kd"}


def one(folder: Path, teacher: Path, data: Dataset, precision: str, seed: int, epochs: int, machine: Machine) -> None:
    """Train both students of a seed; their answers on dev go to ``folder``."""
    config, how = settings(data), replace(machine, precision=precision)
    loaded = load_model(teacher)
    network = TappedModel(loaded.model, loaded.preprocess)
    live = LiveTeacher(network, device=how.device, bf16=how.bf16, channels_last=True)
    members = [
        make_member(
            data,
            name=arm,
            arm=arm,
            seed=seed,
            architecture="sapling_cnn3",
            pretrained=False,
            method=method,
            options={},
            optim=optim_settings(config, data, epochs=epochs, pretrained=False),
            teacher=live,
            imbalance=("none", 1.0),
        )
        for arm, method in ARMS.items()
    ]
    train(members, data, how, epochs, live)
    for member in members:
        np.save(folder / f"{member.name}-{precision}-s{seed}.npy", answers(member.student, data, config, machine))


def main() -> None:
    """Train what is missing, collect."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, usual in (("images", 1500), ("epochs", 48), ("img-size", 32), ("seeds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = open_dev("eurosat", most=(options.images, None), img_size=options.img_size)
    config = settings(data)
    train_settings = config.train.model_copy(update={"threads": options.threads, "precision": "fp32"})
    config = config.model_copy(update={"train": train_settings})
    folder: Path = options.folder / f"precision-{options.images}-{options.epochs}-{options.img_size}"
    folder.mkdir(parents=True, exist_ok=True)
    with Run(folder / "run", config, task="distill") as run:
        machine, labels = prepare_machine(config, run), data.labels("val")
        teacher = open_teacher(folder, "eurosat", data, config, machine, "sapling_resnet20")
        for seed in range(options.seeds):
            for precision in PRECISIONS:
                if all((folder / f"{arm}-{precision}-s{seed}.npy").exists() for arm in ARMS):
                    continue
                started = time.perf_counter()
                one(folder, teacher, data, precision, seed, options.epochs, machine)
                seconds = round(time.perf_counter() - started)
                write_json(folder / f"seconds-{precision}-s{seed}.json", {"seconds": seconds})
                print(f"seed {seed} {precision}: {seconds} s", flush=True)
            collect(folder, list(range(seed + 1)), labels, options)


def collect(folder: Path, seeds: list[int], labels: np.ndarray, options: argparse.Namespace) -> None:
    """``results/precision.json`` of all seeds that are whole."""
    rows = {}
    for arm in ARMS:
        hits = {
            p: np.stack([np.load(folder / f"{arm}-{p}-s{s}.npy").argmax(1) == labels for s in seeds]).astype(float)
            for p in PRECISIONS
        }
        rows[arm] = {
            **{f"{p}_accuracy": [round(float(x), 4) for x in hits[p].mean(1)] for p in PRECISIONS},
            "bf16_minus_fp32": compare(hits["fp32"], hits["bf16"]).as_dict() if len(seeds) > 1 else {},
        }
        print(arm, rows[arm], flush=True)
    write_json(
        Path(__file__).parent / "results" / "precision.json",
        {
            "claim": "bf16 minus float32, EuroSAT dev",
            "settings": {k: v for k, v in vars(options).items() if k != "folder"},
            "seeds": seeds,
            "dev_images": len(labels),
            "seconds_of_both_students": {
                p: [read_json(folder / f"seconds-{p}-s{s}.json")["seconds"] for s in seeds] for p in PRECISIONS
            },
            "arms": rows,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
