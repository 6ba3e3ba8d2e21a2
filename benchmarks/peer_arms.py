"""No claim: the arms of the comparisons with other toolkits, each in a new process: ARM SETTINGS FILE."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from peers import ALPHA, LR, TEMPERATURE, WEIGHT_DECAY, Clock
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from sapling.models.load import load_model
from sapling.workflows.passes import prepare_machine

Job = argparse.Namespace


def ours(job: Job, kind: str) -> dict[str, Any]:
    """Our loop on a folder that was never packed: ``alone``, ``live`` or ``cached``; several alphas are one pass.

    ``job.method`` is ``kd`` with the peers' loss unless it is named: then with its own defaults.
    """
    named = getattr(job, "method", None)
    clock, root = Clock(), peers.images_of(job)
    place = peers.teacher_of(job, job.teacher)
    with clock.of("store"):
        data = peers.opened(root, job.img_size, job.views if kind == "cached" else 0)
    machine = prepare_machine(peers.settings(data, job.threads))
    teacher: Any = None if kind == "alone" else peers.live_teacher(place, machine)
    with clock.of("answers"):
        if kind == "cached":
            teacher = peers.cached_teacher(teacher, data, Path(job.scratch) / "answers", machine)
    members = [
        peers.member(
            data,
            job,
            student=job.student,
            seed=job.seed,
            name=f"a{alpha:.2f}",
            method="none" if teacher is None else named or "kd",
            options={} if teacher is None or named else peers.kd_options(alpha),
            teacher=teacher,
            cosine=job.cosine,
        )
        for alpha in job.alphas
    ]
    with clock.of("train"):
        peers.train(members, data, job, machine, teacher, half_size_share=getattr(job, "half_size_share", 0.0))
    return {"seconds": clock.seconds, "top1": [peers.accuracy(m.student.model, data, job) for m in members]}


def usual_data(job: Job, mean: Any, std: Any) -> ImageFolder:
    """Pillow and torchvision, one image after another."""
    steps = [
        transforms.RandomCrop(job.img_size, padding=job.img_size // 8, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    return ImageFolder(peers.images_of(job) / "train", transforms.Compose(steps))


def each_alpha(job: Job, epochs_of: Callable[[Job, nn.Module, nn.Module, float, Clock], None]) -> dict[str, Any]:
    """A peer trains one student after another, each from the start."""
    clock, top1 = Clock(), []
    place = peers.teacher_of(job, job.teacher)
    data = peers.opened(peers.images_of(job), job.img_size)
    for alpha in job.alphas:
        teacher = load_model(place).model.eval()
        student = peers.first_weights(job.student, data, job.seed)
        torch.manual_seed(job.seed)
        epochs_of(job, teacher, student, alpha, clock)
        top1.append(peers.accuracy(student, data, job))
    return {"seconds": clock.seconds, "top1": top1}


def timm_task(job: Job, teacher: nn.Module, student: nn.Module, alpha: float, clock: Clock) -> None:
    """timm's distillation task, in the loop of its ``train.py`` without logging."""
    from timm.task import LogitDistillationTask

    with clock.of("setup"):
        cfg = statistics_of(student)
        task = LogitDistillationTask(
            with_statistics(student, cfg),
            with_statistics(teacher, cfg),
            criterion=nn.CrossEntropyLoss(),
            task_loss_weight=alpha,
            temperature=TEMPERATURE,
            device=torch.device("cpu"),
            verbose=False,
        )
        loader = DataLoader(usual_data(job, **cfg), job.batch, shuffle=True, drop_last=True)
        sgd = torch.optim.SGD(
            student.parameters(), LR * job.batch / 64, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True
        )
    with clock.of("train"):
        for _ in range(job.epochs):
            task.train()
            for images, labels in loader:
                loss = task(images, labels)["loss"]
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                loss.item()


def torchdistill(job: Job, teacher: nn.Module, student: nn.Module, alpha: float, clock: Clock) -> None:
    """torchdistill's distillation box, in the loop of its example without logging."""
    from torchdistill.core.distillation import get_distillation_box

    kd = {"key": "KDLoss", "kwargs": {"temperature": TEMPERATURE, "alpha": alpha, "reduction": "batchmean"}}
    for role in ("student", "teacher"):
        kd["kwargs"] |= {f"{role}_module_path": ".", f"{role}_module_io": "output"}
    rule = {"lr": LR * job.batch / 64, "momentum": 0.9, "weight_decay": WEIGHT_DECAY, "nesterov": True}
    loader = {
        "dataset_id": "train",
        "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
        "kwargs": {"batch_size": job.batch, "num_workers": 0, "drop_last": True},
    }
    config = {
        "num_epochs": job.epochs,
        "train_data_loader": loader,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": rule},
        **({"scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": job.epochs}}} if job.cosine else {}),
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
    }
    with clock.of("setup"):
        data = usual_data(job, **statistics_of(student))
        device = torch.device("cpu")
        box = get_distillation_box(teacher, student, {"train": data}, config, device, None, False, 1)
    with clock.of("train"):
        for epoch in range(box.num_epochs):
            box.pre_epoch_process(epoch=epoch)
            for images, labels, extra in box.train_data_loader:
                loss = box.forward_process(images, labels, extra)
                box.post_forward_process(loss=loss)
                loss.item()
            box.post_epoch_process()


def statistics_of(model: nn.Module) -> dict[str, Any]:
    """Mean and deviation that the network's pixels are normalised by, in every arm."""
    cfg = dict(getattr(model, "pretrained_cfg", None) or {})
    usual = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return {key: tuple(cfg.get(key) or value) for key, value in usual.items()}


def with_statistics(model: nn.Module, cfg: dict[str, Any]) -> nn.Module:
    """A network as timm's task wants it, which reads mean and deviation there."""
    model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), **cfg}  # type: ignore[assignment]
    return model


ARMS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "alone": lambda job: ours(job, "alone"),
    "live": lambda job: ours(job, "live"),
    "cached": lambda job: ours(job, "cached"),
    "timm": lambda job: each_alpha(job, timm_task),
    "torchdistill": lambda job: each_alpha(job, torchdistill),
}


def main() -> None:
    """Run one arm and write its row."""
    logging.disable(logging.INFO)
    arm, text, file = sys.argv[1:]
    job = argparse.Namespace(**json.loads(text))
    job.alphas = getattr(job, "alphas", [ALPHA])
    job.cosine = getattr(job, "cosine", False)
    peers.set_threads(job.threads)
    Path(file).write_text(json.dumps(ARMS[arm](job)), encoding="utf-8")


if __name__ == "__main__":
    main()
