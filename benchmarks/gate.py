"""Claim: the gate lets 20 of 20 good teachers pass and stops random heads, permuted classes and wrong preprocessing.

    python benchmarks/gate.py [SEED]        writes results/gate.json, about 10 minutes on two cores

Twenty small teachers are trained: several architectures, ways to normalise, sizes, numbers of classes, imbalance,
some honest ones that are weak. Each passes the gate as it is; then each is declared wrongly in several ways, loses
its head, and gets its classes permuted. Six more have memorised their training images. Thresholds were chosen on
seed 0; other seeds were looked at afterwards.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F

from sapling.data.loader import load_data, to_float
from sapling.data.sources import open_source
from sapling.evaluation.metrics import confusion_matrix, log_probabilities
from sapling.evaluation.soft_targets import memorised, soft_targets
from sapling.models import Preprocess, TappedModel, create_model
from sapling.record import environment
from sapling.teachers.gate import check_answers
from sapling.teachers.preprocessing import CAFFE_MEAN, NUM_IMAGES, check_preprocessing

HERE = Path(__file__).parent
WAYS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "none": ((0.0,) * 3, (1.0,) * 3),
    "bytes": ((0.0,) * 3, (1 / 255,) * 3),
    "caffe": (CAFFE_MEAN, (1 / 255,) * 3),
}


@dataclass(frozen=True)
class Recipe:
    """A teacher to train: `classes` 0 means all, `per_class` caps the training images, `tail` thins later classes."""

    data: str
    model: str
    epochs: int = 10
    way: str = "imagenet"
    size: int = 32
    classes: int = 0
    per_class: int = 60
    tail: float = 1.0
    mixup: bool = False
    augment: bool = True
    random_labels: bool = False
    lr: float = 2e-3


GOOD = (
    Recipe("digits", "cnn3"),
    Recipe("digits", "cnn4", tail=0.75),
    Recipe("digits", "test_resnet", 16, classes=5),
    Recipe("digits", "cnn3", 5, per_class=40),
    Recipe("digits", "test_vit", 16, "half"),
    Recipe("digits", "test_convnext", 16, "none"),
    Recipe("eurosat", "cnn4"),
    Recipe("eurosat", "test_resnet", way="half"),
    Recipe("eurosat", "test_efficientnet", 16),
    Recipe("eurosat", "mobilenetv3_small_050", 16, "half", per_class=150),
    Recipe("eurosat", "test_convnext", 16, per_class=150),
    Recipe("eurosat", "test_vit", 16, "half", per_class=150),
    Recipe("eurosat", "cnn3", 8, "none"),
    Recipe("eurosat", "cnn4", way="bytes", tail=0.7, per_class=150),
    Recipe("eurosat", "cnn3", way="none", classes=2),
    Recipe("eurosat", "cnn4", 16, mixup=True),
    Recipe("aid", "cnn4", per_class=50),
    Recipe("aid", "test_resnet", 16, "half", per_class=50, mixup=True),
    Recipe("aid", "test_resnet", 16, "caffe", per_class=50),
    Recipe("aid", "cnn3", 8, "none", classes=12, per_class=50),
)
MEMORISED = (
    Recipe("digits", "cnn4", 60, per_class=10, augment=False),
    Recipe("eurosat", "cnn4", 60, per_class=10, augment=False),
    Recipe("eurosat", "test_resnet", 40, per_class=30, augment=False),
    Recipe("eurosat", "cnn4", 80, per_class=30, augment=False, random_labels=True),
    Recipe("aid", "test_resnet", 50, per_class=40, augment=False),
    Recipe("aid", "cnn4", 40, per_class=40, augment=False),
)


@dataclass
class Pixels:
    """Images ``[N,3,S,S]`` uint8 and labels of the parts."""

    train: torch.Tensor
    train_labels: torch.Tensor
    val: torch.Tensor
    val_labels: torch.Tensor
    num_classes: int


def load(name: str) -> dict[str, Any]:
    """Centre views of all parts at 32 px."""
    root = os.environ.get("SAPLING_TEST_DATA", "")
    source = {"digits": "digits", "eurosat": f"{root}/eurosat_rgb.zip", "aid": f"{root}/aid_100.zip"}[name]
    opened = open_source(source)
    if name == "eurosat":
        opened = replace(opened, items=opened.items[::5])
    data = load_data(opened, img_size=32, val_share=0.3, test_share=0.05)
    parts = {}
    for part in ("train", "val"):
        images = [(b.images * 255).round().to(torch.uint8) for b in data.eval_batches(part, batch_size=512)]
        parts[part] = (torch.cat(images).contiguous(), torch.from_numpy(data.labels(part)))
    return {"parts": parts, "classes": data.num_classes}


def choose(loaded: dict[str, Any], recipe: Recipe, seed: int) -> Pixels:
    """The images of a recipe."""
    generator = torch.Generator().manual_seed(seed)
    classes = recipe.classes or loaded["classes"]
    found = {}
    for part, (images, labels) in loaded["parts"].items():
        chosen = []
        for c in range(classes):
            own = torch.nonzero(labels == c).flatten()
            cap = recipe.per_class if part == "train" else 100
            cap = max(round(cap * recipe.tail**c), 4)
            chosen.append(own[torch.randperm(len(own), generator=generator)[:cap]])
        index = torch.cat(chosen)
        index = index[torch.randperm(len(index), generator=generator)]
        small = F.interpolate(to_float(images[index]), (recipe.size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
        found[part] = ((small * 255).round().to(torch.uint8), labels[index])
    if recipe.random_labels:
        found["train"] = (found["train"][0], torch.randint(classes, (len(found["train"][1]),), generator=generator))
    return Pixels(*found["train"], *found["val"], classes)


def train(recipe: Recipe, pixels: Pixels, seed: int) -> tuple[torch.nn.Module, Preprocess]:
    """AdamW, one cycle."""
    mean, std = WAYS[recipe.way]
    way = Preprocess(recipe.size, recipe.size, mean, std)
    model = create_model(recipe.model, num_classes=pixels.num_classes, img_size=recipe.size, seed=seed)
    net = TappedModel(model, way).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=0.05)
    steps = len(pixels.train) // min(64, len(pixels.train))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.epochs * steps + 1)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(pixels.train), generator=generator)
        for k in range(steps):
            index = order[k * 64 : (k + 1) * 64]
            images = to_float(pixels.train[index])
            if recipe.augment:
                dx, dy = torch.randint(-3, 4, (2,), generator=generator).tolist()
                images = images.roll((dx, dy), (2, 3))
                if recipe.data != "digits" and torch.rand((), generator=generator) < 0.5:
                    images = images.flip(3)
            targets = F.one_hot(pixels.train_labels[index], pixels.num_classes).float()
            if recipe.mixup:
                share = float(np.random.default_rng([seed, k]).beta(0.8, 0.8))
                images = share * images + (1 - share) * images.flip(0)
                targets = share * targets + (1 - share) * targets.flip(0)
            if recipe.way == "caffe":
                images = images.flip(1)
            loss = F.cross_entropy(net(images).logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval(), way


def answers(model: torch.nn.Module, way: Preprocess, images: torch.Tensor, *, blue_first: bool = False) -> np.ndarray:
    """Logits ``[n,K]``."""
    net = TappedModel(model, way).eval()
    with torch.no_grad():
        parts = [net(to_float(part).flip(1) if blue_first else to_float(part)).logits for part in images.split(128)]
    return torch.cat(parts).numpy()


def plants(way: Preprocess) -> dict[str, Preprocess]:
    """Wrong declarations of ``way``."""
    found = {name: replace(way, mean=mean, std=std) for name, (mean, std) in WAYS.items() if mean != way.mean}
    return {**found, "size": replace(way, img_size=way.img_size * 2, store_size=way.store_size * 2)}


def judge(model: torch.nn.Module, way: Preprocess, pixels: Pixels, *, blue_first: bool = False) -> dict[str, Any]:
    """Everything that the gate says of a teacher declared as ``way``."""
    logits, labels = answers(model, way, pixels.val, blue_first=blue_first), pixels.val_labels.numpy()
    images = to_float(pixels.val[:NUM_IMAGES])
    tried = check_preprocessing(model, way, images.flip(1) if blue_first else images, labels[:NUM_IMAGES])
    checks = check_answers(logits, labels).joined(tried.check).checks  # as workflows/gate.py does
    return {
        "accuracy": float((logits.argmax(1) == labels).mean()),
        "failed": [c.name for c in checks if not c.passed],
        "details": [c.detail for c in checks if not c.passed],
        "declared": tried.declared,
        "trials": [asdict(trial) for trial in tried.trials],
        "shift": tried.input_shift,
        "seconds": tried.seconds,
        **renaming(logits, labels),
    }


def renaming(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and NLL under the best renaming of the classes, and entropy; both as shares of log K."""
    num_classes = logits.shape[1]
    confusion = confusion_matrix(logits.argmax(1), labels, num_classes)
    rows, columns = linear_sum_assignment(-confusion)
    renamed = columns[np.argsort(rows)][labels]
    log_p = log_probabilities(logits)
    nll, entropy = -log_p[np.arange(len(labels)), renamed].mean(), -(np.exp(log_p) * log_p).sum(1).mean()
    return {
        "entropy_share": float(entropy / np.log(num_classes)),
        "renamed": float((logits.argmax(1) == renamed).mean()),
        "renamed_nll": float(nll / np.log(num_classes)),
    }


def shown(row: dict[str, Any]) -> str:
    """One line on a judged teacher."""
    best = max(row["trials"], key=lambda t: t["gain"])
    return (
        f"{row['accuracy']:.3f} {row['failed']} best {best['name']} {best['gain']:+.3f} p {best['p_value']:.0e} "
        f"first {row['trials'][0]['name']} renamed {row['renamed']:.2f} nll {row['renamed_nll']:.2f} "
        f"H {row['entropy_share']:.2f} "
        f"shift {row['shift'] if row['shift'] is None else round(row['shift'], 3)}"
    )


def study(recipe: Recipe, data: dict[str, Any], seed: int, *, plant: bool) -> dict[str, Any]:
    """Train one teacher, judge it as it is and with each mistake."""
    started = time.perf_counter()
    pixels = choose(data[recipe.data], recipe, seed)
    model, way = train(recipe, pixels, seed)
    blue_first = recipe.way == "caffe"
    row: dict[str, Any] = {"recipe": {k: getattr(recipe, k) for k in recipe.__dataclass_fields__}}
    row["train_seconds"] = time.perf_counter() - started
    row["as_it_is"] = judge(model, way, pixels, blue_first=blue_first)
    on = {}
    for part in ("train", "val"):
        images, labels = getattr(pixels, part)[:2000], getattr(pixels, f"{part}_labels")[:2000]
        on[part] = soft_targets(answers(model, way, images, blue_first=blue_first), labels.numpy())
        row[part] = on[part].as_dict()
    row["memorised"] = memorised(on["train"], on["val"])
    if plant:
        row["planted"] = {}
        for name, wrong in plants(way).items():
            row["planted"][name] = judge(model, wrong, pixels, blue_first=blue_first)
        row["planted"]["colours"] = judge(model, way, pixels, blue_first=not blue_first)
        headless = copy.deepcopy(model)
        torch.manual_seed(seed)
        headless.reset_classifier(pixels.num_classes)
        row["planted"]["random head"] = judge(headless, way, pixels, blue_first=blue_first)
        moved = copy.deepcopy(pixels)
        moved.val_labels = (pixels.val_labels + 1) % pixels.num_classes
        row["planted"]["class order"] = judge(model, way, moved, blue_first=blue_first)
    return row


def main() -> None:
    """Train, judge, write."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    data = {name: load(name) for name in ("digits", "eurosat", "aid")}
    rows = kept(seed)
    for group, recipes in (("good", GOOD), ("memorised", MEMORISED)):
        for recipe in recipes:
            if any(asdict(recipe) == row["recipe"] for row in rows[group]):
                continue  # a later call goes on where an earlier one stopped
            row = study(recipe, data, seed, plant=group == "good")
            rows[group].append(row)
            print(
                f"{group} {recipe.data} {recipe.model} {recipe.way}: {shown(row['as_it_is'])} | "
                f"train {row['train']['top1']:.3f} H {row['train']['entropy']:.3f}/{row['val']['entropy']:.3f} "
                f"ece {row['train']['ece']:.3f}/{row['val']['ece']:.3f} memorised {row['memorised']} "
                f"{row['train_seconds']:.0f}+{row['as_it_is']['seconds']:.1f} s",
                flush=True,
            )
            for name, planted in row.get("planted", {}).items():
                print(f"    {name:12s} {shown(planted)}", flush=True)
            write(seed, rows)


def target_of(seed: int) -> Path:
    """Where the figures of a seed are kept."""
    return HERE / "results" / ("gate.json" if seed == 0 else f"gate_seed{seed}.json")


def kept(seed: int) -> dict[str, list[dict[str, Any]]]:
    """The rows that are there already."""
    target = target_of(seed)
    found = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    return {group: found.get(group, []) for group in ("good", "memorised")}


def write(seed: int, rows: dict[str, Any]) -> None:
    """Keep what is known so far."""
    result = {"seed": seed, **rows, "environment": environment()}
    target_of(seed).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
