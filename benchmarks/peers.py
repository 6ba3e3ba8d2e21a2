"""No claim: what the comparisons with other toolkits share. Images, teacher, one arm in a process of its own, repeats.

Every arm trains the same student (same first weights) on the same folder of JPEG files with the same loss,
``alpha CE + (1 - alpha) T^2 KL``, the same batch size, epochs, threads and SGD with Nesterov momentum at a constant
rate (``time_to_accuracy.py`` says where it differs). Peers read with torchvision's ``ImageFolder`` and Pillow: a crop
out of a mirrored margin, a flip, no workers (two cores are busy already); theirs is float32. Ours is what it is by
default on the machine. Differences that stay: weight decay (ours spares biases and norms), the stream of random
numbers, the memory format. Only the seconds of training and of what it needs are counted: imports, loading the teacher,
evaluation and the teacher's own training are not.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sets import open_dev, place_of
from torch import nn

from sapling import methods
from sapling.config import RunConfig, build
from sapling.data.loader import Dataset, load_data
from sapling.data.splits import Split
from sapling.engine import gradients, trainer
from sapling.engine.optim import OptimSettings
from sapling.engine.plan import half_size_epochs
from sapling.engine.trainer import Member, PassSettings, fit
from sapling.models.create import create_model
from sapling.models.load import load_model, save_model
from sapling.models.tapped import TappedModel
from sapling.record import environment, write_json
from sapling.teachers.live import LiveTeacher
from sapling.types import Teacher
from sapling.workflows.passes import TEACHER_STREAM, Machine, logits_of, make_member, prepare_machine, preprocess_for

HERE = Path(__file__).parent
TEMPERATURE, ALPHA, LR, WEIGHT_DECAY = 4.0, 0.5, 0.05, 5e-4
TORCHDISTILL = "torchdistill==1.1.5"
SIZES = ("images", "dev", "epochs", "batch", "img_size", "threads", "views", "teacher_epochs", "as_of_epochs")

LISTS = ("peer", "ours", "beside")  # of arms: others may come later, and find the rows of these


def options_of(text: str | None, **usual: Any) -> argparse.Namespace:
    """What every comparison asks for; ``usual`` changes what is taken where nothing is said."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="outside of the checkout; what is done lies there")
    given = {"images": 1500, "dev": 1500, "epochs": 10, "batch": 64, "img_size": 64, "threads": 2, "views": 4}
    given |= {"as_of_epochs": 0}
    for name, value in {**given, "teacher_epochs": 15, "repeats": 5, **usual}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--note", default="", help="said in the record, of the machine for example")
    options = parser.parse_args()
    sizes = {k: v for k, v in vars(options).items() if k not in ("folder", "note", "repeats", *LISTS)}
    mark = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:8]
    options.rows = options.folder / f"{Path(sys.argv[0]).stem}-{mark}"
    options.rows.mkdir(parents=True, exist_ok=True)
    options.folder = options.folder.resolve()
    return options


# ---- images and networks ----


def images_of(o: argparse.Namespace) -> Path:
    """A folder ``train/CLASS/x.jpg``, ``val/CLASS/x.jpg`` of EuroSAT's own files; never a test image."""
    root = Path(o.folder) / f"jpeg-{o.images}-{o.dev}"
    if root.exists():
        return root
    data = open_dev("eurosat")
    temporary = Path(tempfile.mkdtemp(dir=o.folder))
    with zipfile.ZipFile(place_of("eurosat")) as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        for part, count in (("train", o.images), ("val", o.dev)):
            indices = getattr(data.split, part)
            if count > len(indices):
                sys.exit(f"{count} images of {part} are wanted, and there are {len(indices)}")
            for index in np.random.default_rng(0).permutation(indices)[:count]:
                item = data.source.items[int(index)]
                target = temporary / part / data.classes[item.label] / Path(item.key).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(names[target.name]))
    temporary.rename(root)
    return root


def opened(root: Path, img_size: int, num_views: int = 0) -> Dataset:
    """The folder as ours: crop by up to an eighth and flip, as the peers have it; no test part."""

    def divide(source: Any) -> Split:
        parts = {p: [i for i, item in enumerate(source.items) if item.split == p] for p in ("train", "val")}
        return Split(*(np.array(parts[p], dtype=np.int64) for p in ("train", "val")), np.zeros(0, dtype=np.int64))

    return load_data(root, img_size=img_size, views="light", num_views=num_views, split=divide)


def settings(data: Dataset, threads: int) -> RunConfig:
    """Default settings of training."""
    return build({"data": {"source": data.source.name, "img_size": data.img_size}, "train": {"threads": threads}})


def optim(data: Dataset, epochs: int, batch: int, *, cosine: bool = False) -> OptimSettings:
    """SGD with a constant rate, as the peers have it; or a cosine after an epoch of warm-up, as ours is by itself."""
    steps = data.num_batches(batch)
    schedule, warmup = ("cosine", steps) if cosine else ("constant", 0)
    return OptimSettings("sgd", LR * batch / 64, WEIGHT_DECAY, schedule, warmup, epochs * steps)


def member(
    data: Dataset,
    o: argparse.Namespace,
    *,
    student: str,
    seed: int,
    name: str = "kd",
    method: str = "kd",
    options: dict[str, Any] | None = None,
    teacher: Teacher | None = None,
    epochs: int | None = None,
    cosine: bool = False,
) -> Member:
    """A student with its method."""
    return make_member(
        data,
        name=name,
        arm=name,
        seed=seed,
        architecture=student,
        pretrained=False,
        method=method,
        options=dict(options or {}),
        optim=optim(data, epochs or o.epochs, o.batch, cosine=cosine),
        teacher=teacher,
        imbalance=("none", 1.0),
    )


def kd_options(alpha: float = ALPHA) -> dict[str, Any]:
    """Settings of ``kd`` that are the peers' loss."""
    return {"temperature": TEMPERATURE, "weights": {"ce": alpha, "kd": 1 - alpha}}


def train(
    members: Sequence[Member],
    data: Dataset,
    o: argparse.Namespace,
    machine: Machine,
    teacher: Teacher | None,
    epochs: int | None = None,
    half_size_share: float = 0.0,
) -> None:
    """One pass of our loop."""
    epochs = epochs or o.epochs
    half = half_size_epochs(half_size_share, epochs, data.num_batches(o.batch))
    how = PassSettings("pass", epochs, o.batch, members[0].seed, machine.device, machine.bf16, True, half)
    if o.as_of_epochs:  # the pull of terms is measured at four steps at least: in a part of a run it would be too often
        trainer.stride = lambda terms, _: gradients.stride(terms, o.as_of_epochs * data.num_batches(o.batch))
    fit(members, data, how, teacher=teacher)


def teacher_of(o: argparse.Namespace, architecture: str) -> Path:
    """The trained teacher's folder; made once, its time is nobody's."""
    cosine = bool(getattr(o, "cosine", False))
    how = f"-cosine-{o.batch}" if cosine else ""  # with a constant rate the batch is the default one
    place = Path(o.folder) / f"{architecture}-{o.images}-{o.teacher_epochs}-{o.img_size}{how}"
    if (place / "classes.txt").exists():
        return place
    data = opened(images_of(o), o.img_size)
    machine = prepare_machine(settings(data, o.threads))
    one = member(
        data, o, student=architecture, seed=TEACHER_STREAM, method="none", epochs=o.teacher_epochs, cosine=cosine
    )
    train([one], data, o, machine, None, o.teacher_epochs)
    print(f"teacher {architecture}: {accuracy(one.student.model, data, o):.3f} on dev", flush=True)
    temporary = Path(tempfile.mkdtemp(dir=o.folder))
    save_model(
        temporary,
        one.student.model,
        architecture=architecture,
        classes=data.classes,
        preprocess=one.student.preprocess,
        multi_label=False,
    )
    temporary.rename(place)
    return place


def live_teacher(place: Path, machine: Machine, taps: Sequence[str] = ()) -> LiveTeacher:
    """The teacher, asked for every batch."""
    loaded = load_model(place)
    network = TappedModel(loaded.model, loaded.preprocess, list(taps))
    return LiveTeacher(network, device=machine.device, bf16=machine.bf16, channels_last=True)


def cached_teacher(
    live: LiveTeacher, data: Dataset, place: Path, machine: Machine, *, taps: Sequence[str] = (), known: str = ""
) -> Teacher:
    """The same teacher whose answers to V views are kept in ``place``; what is missing is asked for now."""
    try:
        answers = importlib.import_module("sapling.data.answers")
        builder = importlib.import_module("sapling.teachers.build_cache")
        cached = importlib.import_module("sapling.teachers.cached")
    except ImportError as error:
        sys.exit(f"this arm needs kept answers, which this checkout does not have yet ({error})")
    store = answers.open_answers(
        {"of": known}, data.split.train, num_views=data.num_views, name="benchmark", folder=place
    )
    builder.build_answers(store, live, data, taps=taps, batch_size=256, device=machine.device)
    kept: Teacher = cached.CachedTeacher(live, store, num_classes=data.num_classes, taps=taps)
    return kept


def accuracy(model: nn.Module, data: Dataset, o: argparse.Namespace) -> float:
    """Top-1 on dev of any timm network, measured by the same code whoever trained it."""
    config = settings(data, o.threads)
    tapped = TappedModel(model.eval(), preprocess_for(model, data))
    logits, labels = logits_of(tapped, data, "val", config, prepare_machine(config))
    return float((logits.argmax(1) == labels).mean())


# ---- timing ----


class Clock:
    """Wall and processor seconds of stretches."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    @contextmanager
    def of(self, name: str) -> Any:
        """Add the seconds of a block to ``name``."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        row = self.seconds.setdefault(name, {"wall": 0.0, "cpu": 0.0})
        row["wall"] += time.perf_counter() - wall
        row["cpu"] += time.process_time() - processor


def repeated(
    o: argparse.Namespace, arms: Sequence[str], run: Callable[[str, int], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Every arm as often as wanted, in turn and each repeat in another order; what is there is not run again."""
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for repeat in range(o.repeats):
        for k in range(len(arms)):
            arm = arms[(k + repeat) % len(arms)]
            file = o.rows / f"{arm}-{repeat}.json"
            if not file.exists():
                row = run(arm, repeat)
                write_json(file, {**row, "load": os.getloadavg()[0]})
                print(f"{arm} {repeat}: {json.dumps(row)}", flush=True)
            found[arm].append(json.loads(file.read_text(encoding="utf-8")))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, least and largest."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    found = {"median": quarters[1], "lower_quartile": quarters[0], "upper_quartile": quarters[2]}
    found |= {"least": min(values), "largest": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Ratios within the repeats: what disturbs one repeat disturbs both."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def record(name: str, o: argparse.Namespace, content: dict[str, Any]) -> None:
    """``results/NAME.json`` with settings, machine and what the machine was doing."""
    kept = {k: v for k, v in vars(o).items() if k not in ("folder", "rows", "note")}
    about = {
        "settings": kept,
        "note": o.note,
        "precision": prepare_machine(build({"data": {"source": "digits"}, "train": {"threads": o.threads}})).precision,
        "threads_that_wait": os.environ.get("OMP_WAIT_POLICY", "spin (default)"),
        "environment": environment(),
    }
    write_json(HERE / "results" / f"{name}.json", {**content, **about})
    print(json.dumps(content, indent=1))


# ---- torchdistill, in an environment of its own ----


def peer_python(o: argparse.Namespace) -> Path | None:
    """Python of an environment with torchdistill beside our own libraries, so that torch is the same; None: no way."""
    place = Path(o.folder) / "torchdistill-venv"
    python = place / "bin" / "python"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        uv = shutil.which("uv")
        make = [uv, "venv", "-q", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
        pip = [uv, "pip", "install", "-q", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
        try:
            subprocess.run([*make, str(place)], check=True)
            subprocess.run([*pip, "--no-deps", TORCHDISTILL], check=True)
        except subprocess.CalledProcessError as error:
            print(f"{TORCHDISTILL} cannot be installed, its arm is left out: {error}")
            return None
        site = next(place.glob("lib/python*/site-packages"))
        ours = [p for p in sys.path if p.endswith("site-packages")] + [str(HERE.parent / "src")]
        (site / "ours.pth").write_text("\n".join(ours) + "\n")
        (place / "done").touch()
    return python


def in_process(python: Path | str, o: argparse.Namespace, arm: str, seed: int, **more: Any) -> dict[str, Any]:
    """Run one arm (see ``peer_arms.py``) in a new process whose caches are empty; gives its row."""
    with tempfile.TemporaryDirectory(prefix="sapling-peers-") as scratch:
        job = {**{k: getattr(o, k) for k in SIZES}, "folder": str(o.folder), "scratch": scratch, "seed": seed, **more}
        file = Path(scratch) / "row.json"
        subprocess.run(
            [str(python), str(HERE / "peer_arms.py"), arm, json.dumps(job), str(file)],
            check=True,
            env={**os.environ, "SAPLING_CACHE": scratch},
        )
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return row


def first_weights(architecture: str, data: Dataset, seed: int) -> nn.Module:
    """The student as every arm starts with it."""
    return create_model(architecture, num_classes=data.num_classes, img_size=data.img_size, seed=seed)


def teacher_taps(method: str) -> list[str]:
    """What a method reads in the teacher."""
    return sorted(methods.taps(method).teacher)


def set_threads(count: int) -> None:
    """As many threads in every arm."""
    torch.set_num_threads(count)
