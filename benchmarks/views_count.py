"""Claim: a student that hears kept answers to V views learns as well as one that sees a fresh view every epoch.

    python benchmarks/views_count.py FOLDER [--images 1500] [--epochs 48] [--img-size 32] [--seeds 5] [--threads 2]

EuroSAT, dev images only. One teacher (``--network``, by itself sapling_resnet20, from scratch); cnn3 with ``kd``. For
each seed and each V of 1, 4, 8 and 16 the student is trained on kept answers, and once with the live teacher and a
fresh view every epoch. What is done lies in FOLDER, so that a later call goes on. ``results/views_count.json`` holds
V minus fresh with the verdict's interval. Seeds never share a pass; the arms cannot either: they see other pictures.
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
from sapling.data.answers import open_answers
from sapling.data.loader import Dataset
from sapling.evaluation.verdict import compare
from sapling.models.load import load_model
from sapling.models.tapped import TappedModel
from sapling.record import Run, environment, write_json
from sapling.teachers.build_cache import build_answers
from sapling.teachers.cached import CachedTeacher
from sapling.teachers.live import LiveTeacher
from sapling.types import Teacher
from sapling.workflows.passes import Machine, make_member, optim_settings, prepare_machine

FRESH, VIEWS = 0, (1, 4, 8, 16)


def one(
    place: Path, data: Dataset, live: LiveTeacher, views: int, seed: int, epochs: int, machine: Machine
) -> dict[str, float]:
    """Train one student; its answers on dev go to ``place``."""
    config, data = settings(data), replace(data, num_views=views)
    teacher: Teacher = live
    if views:
        name = f"views-count-{data.img_size}-{len(data.split.train)}"
        store = open_answers({"of": str(place.parent)}, data.split.train, num_views=views, name=name)
        build_answers(store, live, data, taps=(), batch_size=256, device=machine.device)
        teacher = CachedTeacher(live, store, num_classes=data.num_classes)
    member = make_member(
        data,
        name="kd",
        arm="kd",
        seed=seed,
        architecture="sapling_cnn3",
        pretrained=False,
        method="kd",
        options={"alpha": 0.1},
        optim=optim_settings(config, data, epochs=epochs, pretrained=False),
        teacher=teacher,
        imbalance=("none", 1.0),
    )
    clock = train([member], data, machine, epochs, teacher)
    np.save(place, answers(member.student, data, config, machine))
    return clock


def main() -> None:
    """Train what is missing, collect."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, usual in (("images", 1500), ("epochs", 48), ("img-size", 32), ("seeds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--network", default="sapling_resnet20", help="the teacher's architecture")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = open_dev("eurosat", most=(options.images, None), img_size=options.img_size)
    config = settings(data)
    config = config.model_copy(update={"train": config.train.model_copy(update={"threads": options.threads})})
    folder: Path = options.folder / f"views-{options.network}-{options.images}-{options.epochs}-{options.img_size}"
    folder.mkdir(parents=True, exist_ok=True)
    with Run(folder / "run", config, task="distill") as run:
        machine = prepare_machine(config, run)
        loaded = load_model(open_teacher(folder, "eurosat", data, config, machine, options.network))
        network = TappedModel(loaded.model, loaded.preprocess)
        live = LiveTeacher(network, device=machine.device, bf16=machine.bf16, channels_last=True)
        arms, labels = (FRESH, *reversed(VIEWS)), data.labels("val")
        for seed in range(options.seeds):
            for views in arms:
                place = folder / f"v{views}-s{seed}.npy"
                if not place.exists():
                    started = time.perf_counter()
                    one(place, data, live, views, seed, options.epochs, machine)
                    right = float((np.load(place).argmax(1) == labels).mean())
                    print(f"seed {seed} views {views}: {right:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
            collect(folder, list(range(seed + 1)), labels, options, machine)


def collect(folder: Path, seeds: list[int], labels: np.ndarray, options: argparse.Namespace, machine: Machine) -> None:
    """``results/views_count.json`` of all seeds that are whole."""
    hits = {
        views: np.stack([np.load(folder / f"v{views}-s{s}.npy").argmax(1) == labels for s in seeds]).astype(float)
        for views in (FRESH, *VIEWS)
    }
    rows = {}
    for views in VIEWS:
        verdict = compare(hits[FRESH], hits[views]).as_dict() if len(seeds) > 1 else {}
        rows[str(views)] = {"accuracy": float(hits[views].mean()), "minus_fresh": verdict}
    write_json(
        Path(__file__).parent / "results" / "views_count.json",
        {
            "claim": "kept answers to V views against a live teacher and a fresh view every epoch, EuroSAT dev",
            "settings": {k: v for k, v in vars(options).items() if k != "folder"},
            "precision": machine.precision,
            "seeds": seeds,
            "dev_images": len(labels),
            "fresh_accuracy": float(hits[FRESH].mean()),
            "views": rows,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
