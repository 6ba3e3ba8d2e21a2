"""Claim: what each method gains over the same student without a teacher, on dev images: the same batches for all.

    python benchmarks/methods.py FOLDER SET[:TEACHER] [SEED ..] [--arms NAME;NAME ..] [--img-size 32] [--threads 1]

SET is one of ``sets.py``; TEACHER a folder of a trained network, or nothing: a ResNet-18 is then trained from scratch
and kept in FOLDER. For each seed one pass trains cnn3 alone and with every arm on the same batches. What is done is
kept in FOLDER, so that a later call goes on and may add arms; their control is then trained again and must be the same
to the bit. ``results/methods.json`` collects gains with intervals (the verdict's model), mean ranks and step costs.
Test images are never opened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from methods_arms import ARMS, CORE, PAIRS
from numpy.typing import NDArray
from sets import open_dev

from sapling import methods
from sapling.config import RECIPES, RunConfig, build, override, parse_assignment
from sapling.data.answers import open_answers
from sapling.data.loader import Dataset
from sapling.engine.trainer import Member, PassSettings, fit
from sapling.errors import RunError
from sapling.evaluation.metrics import classification_metrics
from sapling.evaluation.verdict import compare
from sapling.models.load import load_model, save_model
from sapling.models.tapped import TappedModel
from sapling.record import Run, environment, write_json
from sapling.screen import Screen
from sapling.teachers.build_cache import build_answers
from sapling.teachers.cached import CachedTeacher
from sapling.teachers.live import LiveTeacher
from sapling.types import Teacher
from sapling.workflows.passes import (
    TEACHER_STREAM,
    Machine,
    as_shipped,
    groups_of,
    logits_of,
    make_member,
    optim_settings,
    prepare_machine,
)
from sapling.workflows.phases import prepare_phases

HERE = Path(__file__).parent
TEACHER, STUDENT = "resnet18", "sapling_cnn3"
TEACHER_EPOCHS = {"aid": 50, "eurosat": 20, "trees": 40}
STUDENT_EPOCHS = {"aid": 15, "eurosat": 7, "trees": 12}
CONTROL = "control"
VIEWS = 16
"""As the library does by itself: the teacher is asked once, for all seeds, arms and first phases."""


def settings(data: Dataset) -> RunConfig:
    """Default settings of training; the data are opened by ``sets.py``."""
    return build({"data": {"source": data.source.name, "img_size": data.img_size}})


def train(
    members: list[Member], data: Dataset, machine: Machine, epochs: int, teacher: Teacher | None = None
) -> dict[str, float]:
    """One pass at batch size 64: seconds."""
    how = PassSettings("pass", epochs, 64, members[0].seed, machine.device, machine.bf16, True)
    return fit(members, data, how, teacher=teacher)


def alone(
    data: Dataset,
    config: RunConfig,
    name: str,
    seed: int,
    epochs: int,
    architecture: str = STUDENT,
    ema_decay: float | None = None,
) -> Member:
    """A network that is trained from scratch, without a teacher."""
    return make_member(
        data,
        name=name,
        arm=CONTROL,
        seed=seed,
        architecture=architecture,
        pretrained=False,
        method="none",
        options={},
        optim=optim_settings(config, data, epochs=epochs, pretrained=False),
        ema_decay=config.train.ema_decay if ema_decay is None else ema_decay,
        imbalance=("none", 1.0),
    )


def answers(model: TappedModel, data: Dataset, config: RunConfig, machine: Machine) -> NDArray[np.float32]:
    """Logits on dev, ``[n,K]``."""
    logits, _ = logits_of(model.eval(), data, "val", config, machine)
    return np.asarray(logits, dtype=np.float32)


def open_teacher(
    folder: Path,
    name: str,
    data: Dataset,
    config: RunConfig,
    machine: Machine,
    network: str = TEACHER,
    label: str | None = None,
    ema_decay: float | None = None,
) -> Path:
    """A teacher's folder; trained where there is none. ``label`` is what the folder is called, by itself ``name``."""
    place = folder / (label or name) / "teacher"
    if (place / "figures.json").exists():
        return place
    epochs = TEACHER_EPOCHS[name]
    member = alone(data, config, "teacher", TEACHER_STREAM, epochs, network, ema_decay)
    clock = train([member], data, machine, epochs)
    student = member.student
    save_model(
        place,
        student.model,
        architecture=network,
        classes=data.classes,
        preprocess=student.preprocess,
        multi_label=False,
    )
    figures = classification_metrics(answers(student, data, config, machine), data.labels("val"), data.num_classes)
    write_json(
        place / "figures.json",
        {"network": network, "top1": figures["top1"], "epochs": epochs, "seconds": sum(clock.values())},
    )
    print(f"{name}: teacher {figures['top1']:.3f} on dev after {sum(clock.values()):.0f} s", flush=True)
    return place


def kept_answers(
    name: str,
    identity: dict[str, str],
    live: LiveTeacher,
    taps: list[str],
    data: Dataset,
    config: RunConfig,
    machine: Machine,
) -> CachedTeacher:
    """What the teacher answers to every view, asked once for all seeds and arms."""
    store = open_answers(
        {**identity, "data": data.store.fingerprint, "img_size": data.img_size},
        data.split.train,
        num_views=data.num_views,
        name=f"methods-{data.source.name}",
    )
    seconds = build_answers(store, live, data, taps=taps, batch_size=config.evaluate.batch_size, device=machine.device)
    print(f"  {name}: the teacher's answers took {seconds:.0f} s", flush=True)
    return CachedTeacher(live, store, num_classes=data.num_classes, taps=taps)


def one_pass(
    place: Path,
    arms: dict[str, Any],
    seed: int,
    data: Dataset,
    config: RunConfig,
    machine: Machine,
    folder: Path,
    epochs: int,
) -> None:
    """Control and arms of a seed; their answers and seconds go to ``place``."""
    loaded = load_model(folder)
    identity = {"sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), "preprocess": "own"}
    wanted = {tap for method, options in arms.values() for tap in methods.taps(method, **options).teacher}
    live = LiveTeacher(
        TappedModel(loaded.model, loaded.preprocess, sorted(wanted)),
        device=machine.device,
        bf16=machine.bf16,
        channels_last=True,
    )
    heard: Teacher = live
    if not data.mix.is_on:
        heard = kept_answers(place.parent.name, identity, live, sorted(wanted), data, config, machine)
    optim = optim_settings(config, data, epochs=epochs, pretrained=False)
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
            optim=optim,
            teacher=heard,
            ema_decay=config.train.ema_decay,
            imbalance=("none", 1.0),
        )
        for name, (method, options) in {CONTROL: ("none", {}), **arms}.items()
    ]
    for member in members:
        if member.method.phases()[0].uses_student:
            continue
        # one folder for each: it also holds what its first phase made, and the check of that
        with Run(
            place.parent / "phases" / member.name.replace(", ", "-").replace(" ", "-"), config, task="distill"
        ) as run:
            run.say = lambda line: print(f"  {line}", flush=True)
            prepare_phases(
                run,
                member.method,
                data,
                machine,
                optim,
                teacher=heard,
                teacher_identity=identity,
                screen=Screen(quiet=True),
            )
    started = time.perf_counter()
    clock = train(members, data, machine, epochs, heard)
    for member in members:
        target = place / f"{member.name}.npz"
        found = answers(as_shipped(member), data, config, machine)
        if member.name == CONTROL and target.exists():
            if not np.array_equal(found, np.load(target)["logits"]):
                raise RunError("the control is not the one of the first call", where=str(target))
            continue
        place.mkdir(parents=True, exist_ok=True)
        seconds = clock[member.name]
        np.savez(target, logits=found, seconds=seconds, teacher=clock["teacher"], control=clock[CONTROL])
        top1 = float((found.argmax(1) == data.labels("val")).mean())
        print(f"  {place.parent.name} seed {seed}: {member.name} {100 * top1:.1f}, {seconds:.0f} s", flush=True)
    print(f"{place.parent.name} seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)


def summary(place: Path, data: Dataset) -> dict[str, Any]:
    """Gains of every arm over the control, over the seeds that both have."""
    labels, groups = data.labels("val"), groups_of(data, "val")
    found: dict[str, dict[int, Any]] = {}
    for file in sorted(place.glob("seed*/*.npz")):
        found.setdefault(file.stem, {})[int(file.parent.name.removeprefix("seed"))] = dict(np.load(file))
    correct = {arm: {s: v["logits"].argmax(1) == labels for s, v in seeds.items()} for arm, seeds in found.items()}
    ranks: dict[str, list[int]] = {}
    for seed in correct[CONTROL]:
        order = sorted(
            (arm for arm in correct if correct[arm].keys() == correct[CONTROL].keys()),
            key=lambda a: -correct[a][seed].mean(),
        )
        for rank, arm in enumerate(order):
            ranks.setdefault(arm, []).append(rank + 1)
    rows = {}
    for arm, seeds in correct.items():
        shared = sorted(seeds)
        row: dict[str, Any] = {
            "seeds": shared,
            "top1": float(np.mean([seeds[s].mean() for s in shared])),
            "mean_rank": float(np.mean(ranks[arm])) if arm in ranks else None,
        }
        if arm != CONTROL:
            control = np.stack([correct[CONTROL][s] for s in shared])
            verdict = compare(control, np.stack([seeds[s] for s in shared]), labels=labels, groups=groups)
            cost = float(np.median([found[arm][s]["seconds"] / found[arm][s]["control"] for s in shared]))
            row |= {
                "gain": verdict.difference,
                "low": verdict.low,
                "high": verdict.high,
                "outcome": verdict.outcome,
                "step_cost": cost,
            }
        rows[arm] = row
    return rows


def pairs(place: Path, data: Dataset) -> dict[str, Any]:
    """Differences between arms that are asked about, where both have the same seeds."""
    labels, groups, found = data.labels("val"), groups_of(data, "val"), {}
    for one, other in PAIRS:
        seeds = [{f.parent.name for f in place.glob(f"seed*/{arm}.npz")} for arm in (one, other)]
        if len(shared := sorted(seeds[0] & seeds[1])) < 2:
            continue
        hits = [
            np.stack([np.load(place / seed / f"{arm}.npz")["logits"].argmax(1) == labels for seed in shared])
            for arm in (one, other)
        ]
        verdict = compare(hits[1], hits[0], labels=labels, groups=groups)
        found[f"{one} - {other}"] = {
            "gain": verdict.difference,
            "low": verdict.low,
            "high": verdict.high,
            "outcome": verdict.outcome,
            "seeds": shared,
        }
    return found


def first_phases(place: Path) -> dict[str, Any]:
    """What the check of each first phase said."""
    found = {}
    for card in sorted(place.glob("phases/*/phases/*/card.json")):
        check = json.loads(card.read_text(encoding="utf-8")).get("check")
        found[card.parents[2].name] = check
    return found


def main() -> None:
    """Go on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("set")
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", help="names with ';' between them; the core methods by default")
    parser.add_argument("--epochs", type=int, help="of the students; such a table stands apart")
    parser.add_argument("--mixup", type=float, default=0, help="alpha, for all arms; such a table stands apart")
    parser.add_argument(
        "--set", action="append", dest="set_", default=[], help="train.lr=0.1, for control and arms; apart"
    )
    parser.add_argument("--apart", help="name of a table of its own, such as one whose teacher was trained again")
    parser.add_argument("--mixed-teacher", action="store_true", help="trained with the recipe mixed, at as many epochs")
    parser.add_argument("--img-size", type=int, help="pixels; by itself as sets.py has it")
    parser.add_argument("--network", default=TEACHER, help="the teacher's architecture, where it is trained here")
    parser.add_argument("--threads", type=int, help="threads of torch")
    given = parser.parse_args()
    name, _, teacher = given.set.partition(":")
    arms = {arm: ARMS[arm] for arm in (given.arms.split(";") if given.arms else CORE)}
    epochs = given.epochs or STUDENT_EPOCHS[name]
    changes = {"img_size": given.img_size} if given.img_size else {}
    label = f"{name}-{given.img_size}px" if given.img_size else name
    data = replace(open_dev(name, **changes), num_views=VIEWS)
    config = settings(data)
    if given.threads:
        config = config.model_copy(update={"train": config.train.model_copy(update={"threads": given.threads})})
    machine = prepare_machine(config)
    seen, decay = data, None
    if given.mixed_teacher:
        recipe = RECIPES["mixed"]
        seen, decay = data.seen_as(mixup=recipe["mixup"], cutmix=recipe["cutmix"]), recipe["ema_decay"]
        label += "-mixed-teacher"
    folder = (
        Path(teacher)
        if teacher
        else open_teacher(given.folder, name, seen, config, machine, given.network, label, decay)
    )
    place = given.folder / (f"{label}@{folder.parent.name}" if teacher else label)
    if given.epochs:
        place = place.with_name(f"{place.name}-{epochs}-epochs")
    if given.apart:
        place = place.with_name(f"{place.name}-{given.apart}")
    if given.set_:
        changed = dict(parse_assignment(text) for text in given.set_)
        place = place.with_name(
            "-".join([place.name, *(f"{k.removeprefix('train.')}={v:g}" for k, v in changed.items())])
        )
        config = build(override(config.model_dump(), changed))
    if given.mixup:
        place, data = place.with_name(f"{place.name}-mixup"), replace(data.seen_as(mixup=given.mixup), num_views=0)
    for seed in given.seeds:
        missing = {arm: ARMS[arm] for arm in arms if not (place / f"seed{seed}" / f"{arm}.npz").exists()}
        if missing:
            one_pass(place / f"seed{seed}", missing, seed, data, config, machine, folder, epochs)
    about = {
        "teacher": json.loads((folder / "figures.json").read_text(encoding="utf-8")),
        "student": STUDENT,
        "epochs": epochs,
        "img_size": data.img_size,
        **({"mixup": given.mixup} if given.mixup else {}),
        "train": len(data.split.train),
        "dev": len(data.split.val),
        "first_phases": first_phases(place),
    }
    target = HERE / "results" / "methods.json"
    kept = json.loads(target.read_text(encoding="utf-8"))["sets"] if target.exists() else {}
    rows = summary(place, data)
    kept[place.name] = {"about": about, "arms": rows, "pairs": pairs(place, data)}
    write_json(target, {"sets": kept, "environment": environment()})
    for arm, row in sorted(rows.items(), key=lambda r: -r[1]["top1"]):
        gain = (
            f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})" if "gain" in row else ""
        )
        print(f"{arm:24} {100 * row['top1']:.1f} {gain} seeds {row['seeds']}")


if __name__ == "__main__":
    main()
