"""Claim: a teacher recipe is judged by the student it teaches, on the dev split; test is never opened.

    python benchmarks/teacher_recipes.py FOLDER [IMG_SIZE] [RECIPE[:SEED] ..] [--set aid] [--threads 1]
        [--teachers-only] [--arms NAME;NAME ..] [--student-epochs 24]

AID (1,800 images of 30 classes to train, 600 for dev) or another set of ``sets.py``; test stays closed. For each recipe
and seed a teacher (ResNet-18 where the recipe names no network) is trained from scratch; then one pass trains cnn3
alone and with several methods (``--arms``: names of ``methods_arms.py``), on the same batches. ``NAME*3`` is the mean
of the logits of that recipe's three teachers. Results are kept in FOLDER after each step, so that a later call goes on;
``results/teacher_recipes.json`` collects them beside the rows of former folders and those of an older split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from methods_arms import ARMS
from sets import open_dev

from sapling.config import RunConfig, build
from sapling.data.loader import Dataset
from sapling.engine.trainer import Member, PassSettings, fit
from sapling.evaluation.metrics import classification_metrics
from sapling.evaluation.soft_targets import soft_targets
from sapling.models.load import load_model, save_model
from sapling.models.tapped import TappedModel
from sapling.record import environment, write_json
from sapling.teachers.live import LiveTeacher
from sapling.types import Batch, Outputs
from sapling.workflows.gate import NUM_TRAIN_IMAGES, some
from sapling.workflows.passes import (
    TEACHER_STREAM,
    Machine,
    logits_of,
    make_member,
    optim_settings,
    prepare_machine,
)

HERE = Path(__file__).parent
TEACHER, STUDENT = "resnet18", "sapling_cnn3"
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"epochs": 60},
    "small": {"network": "sapling_wrn_16_2_s2", "epochs": 120, "ema_decay": 0.999},
    "mixed": {"epochs": 100, "mixup": 0.8, "cutmix": 1.0, "ema_decay": 0.999},
    "resnet18": {"epochs": 100, "ema_decay": 0.999},
    "wide": {"network": "sapling_wrn_16_2_s2", "epochs": 100, "ema_decay": 0.999},
}


class Mean:
    """Several teachers whose answer is the mean of their logits."""

    def __init__(self, teachers: list[LiveTeacher]) -> None:
        self.teachers = teachers
        self.shapes, self.card, self.taps_without_activation = teachers[0].shapes, None, ()

    def outputs(self, batch: Batch) -> Outputs:
        """Logits ``[B,K]`` alone."""
        return Outputs(torch.stack([t.outputs(batch).logits for t in self.teachers]).mean(0))


def settings(name: str, img_size: int) -> RunConfig:
    """What teachers and students share; the data are opened by ``sets.py``."""
    return build({"data": {"source": name, "img_size": img_size}})


def train(
    members: list[Member], data: Dataset, machine: Machine, epochs: int, teacher: Any = None, **told: Any
) -> dict[str, float]:
    """One pass at batch size 64."""
    pass_settings = PassSettings("pass", epochs, 64, members[0].seed, machine.device, machine.bf16, True)
    return fit(members, data, pass_settings, teacher=teacher, **told)


def measured(model: TappedModel, data: Dataset, config: RunConfig, machine: Machine) -> dict[str, Any]:
    """Its figures on dev, and its answers on training images."""
    logits, labels = logits_of(model.eval(), data, "val", config, machine)
    known = soft_targets(*logits_of(model, some(data, "train", NUM_TRAIN_IMAGES), "train", config, machine))
    figures = classification_metrics(logits, labels, data.num_classes)
    return {
        **{k: figures[k] for k in ("top1", "macro_f1", "nll", "ece")},
        "entropy": soft_targets(logits, labels).entropy,
        "train": known.as_dict(),
    }


def train_teacher(
    folder: Path, recipe: Mapping[str, Any], seed: int, data: Dataset, config: RunConfig, machine: Machine
) -> dict[str, Any]:
    """A teacher of a recipe, kept in ``folder``."""
    seen = data.seen_as(views=recipe.get("views"), mixup=recipe.get("mixup"), cutmix=recipe.get("cutmix"))
    member = make_member(
        seen,
        name="teacher",
        arm="teacher",
        seed=TEACHER_STREAM + seed,
        architecture=recipe.get("network", TEACHER),
        pretrained=False,
        method="none",
        options={},
        optim=optim_settings(config, seen, epochs=recipe["epochs"], pretrained=False),
        ema_decay=recipe.get("ema_decay"),
        imbalance=("none", 1.0),
    )
    unaveraged = {}

    def last_weights(rows: list[dict[str, Any]]) -> None:
        # told after each epoch, before the average takes the weights' place
        if rows[0]["epoch"] + 1 == recipe["epochs"] and member.ema_decay is not None:
            logits, labels = logits_of(member.student.eval(), data, "val", config, machine)
            unaveraged["unaveraged_top1"] = float((logits.argmax(1) == labels).mean())

    clock = train([member], seen, machine, recipe["epochs"], report=last_weights)
    save_model(
        folder,
        member.student.model,
        architecture=recipe.get("network", TEACHER),
        classes=data.classes,
        preprocess=member.student.preprocess,
        multi_label=False,
    )
    return {**measured(member.student, data, config, machine), **unaveraged, "seconds": round(sum(clock.values()), 1)}


def teach(
    teacher: Any, seed: int, names: list[str], epochs: int, data: Dataset, config: RunConfig, machine: Machine
) -> dict[str, Any]:
    """Students of a teacher and their control, in one pass."""
    arms = {"control": ("none", {}), **{name: ARMS[name] for name in names}}
    members = [
        make_member(
            data,
            name=name,
            arm=name,
            seed=seed,
            architecture=STUDENT,
            pretrained=False,
            method=method,
            options=dict(options),
            optim=optim_settings(config, data, epochs=epochs, pretrained=False),
            teacher=teacher,
            imbalance=("none", 1.0),
        )
        for name, (method, options) in arms.items()
    ]
    train(members, data, machine, epochs, teacher)
    return {m.name: measured(m.student, data, config, machine) for m in members}


def alone(file: Path, name: str) -> dict[str, Any]:
    """The row of a teacher without students."""
    recipe, _, seed = file.parent.name.rpartition("-s")
    return {
        "set": name,
        "recipe": recipe,
        "seed": int(seed),
        "img_size": int(file.parents[1].name.removesuffix("px")),
        "settings": RECIPES[recipe],
        "teacher": json.loads(file.read_text(encoding="utf-8")),
    }


def trial(row: Mapping[str, Any]) -> tuple[str, int, str, int, int]:
    """What makes a row one of its own."""
    return row.get("set", "aid"), row["img_size"], row["recipe"], row["seed"], row.get("student_epochs", 0)


def main() -> None:
    """Go on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("img_size", type=int, nargs="?", default=64)
    parser.add_argument("recipes", nargs="*", default=[f"{recipe}:{seed}" for seed in range(3) for recipe in RECIPES])
    parser.add_argument("--set", default="aid", help="of sets.py; FOLDER is then of that set alone")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--teachers-only", action="store_true", help="no students")
    parser.add_argument("--arms", default="kd;kd, standardised;dist", help="what the students learn by")
    parser.add_argument("--student-epochs", type=int, default=24)
    given = parser.parse_args()
    folder, img_size = given.folder, given.img_size
    config = settings(given.set, img_size)
    if given.threads:
        config = config.model_copy(update={"train": config.train.model_copy(update={"threads": given.threads})})
    data, machine = open_dev(given.set, img_size=img_size), prepare_machine(config)
    for wanted in given.recipes:
        name, _, seed_text = wanted.partition(":")
        seed, started = int(seed_text or 0), time.perf_counter()
        recipe, _, several = name.partition("*")
        place = folder / f"{img_size}px" / f"{name.replace('*', 'x')}-s{seed}"
        kept = place / "results.json"
        if kept.exists():
            continue
        row: dict[str, Any] = {
            "set": given.set,
            "recipe": name,
            "seed": seed,
            "img_size": img_size,
            "settings": RECIPES[recipe],
            "student_epochs": given.student_epochs,
        }
        numbers = range(int(several)) if several else [seed]
        folders = [folder / f"{img_size}px" / f"{recipe}-s{n}" / "teacher" for n in numbers]
        if not several and not (place / "teacher.json").exists():
            write_json(place / "teacher.json", train_teacher(folders[0], RECIPES[recipe], seed, data, config, machine))
        loaded = [load_model(f) for f in folders]
        live = [
            LiveTeacher(TappedModel(one.model, one.preprocess), device="cpu", bf16=machine.bf16, channels_last=True)
            for one in loaded
        ]
        if not several:
            row["teacher"] = json.loads((place / "teacher.json").read_text())
            print(
                f"{name}:{seed} teacher dev {row['teacher']['top1']:.3f}, train {row['teacher']['train']}", flush=True
            )
        if given.teachers_only:
            continue
        row["students"] = teach(
            Mean(live) if several else live[0],
            *(seed, given.arms.split(";"), given.student_epochs, data, config, machine),
        )
        row["seconds"] = round(time.perf_counter() - started, 1)
        write_json(kept, row)
        shown = ", ".join(f"{k} {v['top1']:.3f}" for k, v in row["students"].items())
        print(f"{name}:{seed} students {shown}; {row['seconds']} s", flush=True)
    rows = [json.loads(p.read_text()) for p in sorted(folder.glob("*px/*/results.json"))]
    rows += [
        alone(p, given.set)
        for p in sorted(folder.glob("*px/*/teacher.json"))
        if not (p.parent / "results.json").exists()
    ]
    target = HERE / "results" / "teacher_recipes.json"
    kept_before = json.loads(target.read_text()) if target.exists() else {"rows": [], "older_split": []}
    measured_now = {trial(row) for row in rows}
    rows += [row for row in kept_before["rows"] if trial(row) not in measured_now]
    rows.sort(key=trial)
    write_json(target, {"rows": rows, "older_split": kept_before["older_split"], "environment": environment()})


if __name__ == "__main__":
    main()
