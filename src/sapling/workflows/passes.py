"""What every job that trains has in common: the machine, the data, members, one pass, their records."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as serialize
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from sapling import methods
from sapling.bands import Bands
from sapling.config import RunConfig
from sapling.data.loader import Dataset
from sapling.engine.device import limit_threads, resolve_device, resolve_precision
from sapling.engine.optim import OptimSettings, default_lr
from sapling.engine.plan import half_size_epochs
from sapling.engine.trainer import Member, PassSettings, fit
from sapling.errors import RunError, UsageError
from sapling.evaluation.metrics import classification_metrics, collect_logits
from sapling.models.build import recorded_as
from sapling.models.create import create_model, resolve_name
from sapling.models.load import LoadedModel, Preprocess, load_model, save_model
from sapling.models.tapped import TappedModel
from sapling.record import Run, atomic_file, read_json, write_json
from sapling.screen import Screen
from sapling.trackers import check_trackers
from sapling.types import PairInfo, Teacher
from sapling.workflows import scores
from sapling.workflows.networks import check_settings_are_used, is_given

TEACHER_STREAM = 2**30
"""Added to the seed of whatever is trained to teach: a student must not meet the very views its teacher memorised."""
RESERVED_ARMS = ("control", "model", "teacher")
SHIPPED_FILES = ("model.safetensors", "config.json", "classes.txt")
AUTO_STEPS, MIN_EPOCHS, MAX_EPOCHS = 4500, 15, 100


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how numbers are computed.

    Attributes:
        device: ``cpu`` or ``cuda..``.
        precision: ``bf16`` or ``fp32``, of forward passes; weights and losses are always float32.
        threads: CPU threads in force.
    """

    device: str
    precision: str
    threads: int

    @property
    def bf16(self) -> bool:
        """Whether forward passes run in bf16."""
        return self.precision == "bf16"


def prepare_machine(config: RunConfig, run: Run | None = None) -> Machine:
    """Settle device, precision and threads; a run that goes on takes those that it was started with.

    Raises:
        RunError: the run was started on another kind of device or in another precision than this machine offers.
    """
    device = resolve_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    path = run.path("machine.json") if run else None
    before = read_json(path) if path and path.exists() else {}
    threads = limit_threads(before.get("threads", config.train.threads))
    machine = Machine(device, precision, threads)
    if before and before != asdict(machine):
        raise RunError(
            f"the run was started on {before.get('device')} in {before.get('precision')}, this machine would go on "
            f"with {device} in {precision}: its members could not be compared",
            where=str(path),
            remedy="go on where it was started, or start again with another --output",
        )
    if path and not before:
        write_json(path, asdict(machine))
    return machine


def check_names(config: RunConfig, task: str) -> None:
    """Refuse unknown networks and methods, and trackers that are missing, before anything is decoded or trained.

    Raises:
        ModelError: no such network.
        MethodError: no such method.
        UsageError: settings that exclude each other, or a package that is not installed.
    """
    check_trackers(config.output.trackers)
    if is_given(config.student.model):
        raise UsageError(
            f"the student {config.student.model!r} is a trained network; a student is trained from its seed",
            allowed="cnn3, cnn4 or a timm name",
        )
    resolve_name(config.student.model)
    if task == "distill":
        arm = config.method.arm
        if arm in RESERVED_ARMS:
            raise UsageError(f"a method cannot be called {arm!r}", allowed="any name but " + ", ".join(RESERVED_ARMS))
        if config.train.ema_decay is not None and methods.load_class(config.method.name).ships_own_parts():
            raise UsageError(
                f"train.ema_decay {config.train.ema_decay} averages the student, and {arm!r} ships parts of its own",
                remedy="leave train.ema_decay away, or a method that ships the student as it is, such as kd",
            )
        check_settings_are_used(config)


def batch_size_for(config: RunConfig, data: Dataset) -> int:
    """The batch size, never above the number of training images (an epoch has at least one full batch)."""
    return min(config.train.batch_size, len(data.split.train))


def epochs_for(config: RunConfig, data: Dataset, *, wanted: int | None = None) -> int:
    """The number of epochs; by itself about 4,500 steps, 15 to 100 epochs."""
    if wanted is None:
        wanted = config.train.epochs
    if wanted is not None:
        return wanted
    steps = data.num_batches(batch_size_for(config, data))
    return max(MIN_EPOCHS, min(MAX_EPOCHS, round(AUTO_STEPS / steps)))


def optim_settings(
    config: RunConfig,
    data: Dataset,
    *,
    epochs: int,
    pretrained: bool,
    lr: float | None = None,
    weight_decay: float | None = None,
    layer_decay: float | None = None,
) -> OptimSettings:
    """How the weights of a member move; ``lr``, ``weight_decay``, ``layer_decay`` stand in for the students'."""
    t = config.train
    batch_size = batch_size_for(config, data)
    steps = data.num_batches(batch_size)
    wanted = lr if lr is not None else t.lr
    return OptimSettings(
        optimizer=t.optimizer,
        lr=wanted if wanted is not None else default_lr(t.optimizer, batch_size, pretrained=pretrained),
        weight_decay=weight_decay if weight_decay is not None else t.weight_decay,
        schedule=t.schedule,
        warmup_steps=round(t.warmup_epochs * steps),
        total_steps=epochs * steps,
        drop_steps=t.step_epochs * steps,
        drop_factor=t.step_factor,
        momentum=t.momentum,
        clip_norm=t.clip_norm,
        layer_decay=layer_decay if layer_decay is not None else t.layer_decay,
    )


def make_member(
    data: Dataset,
    *,
    name: str,
    arm: str,
    seed: int,
    architecture: str,
    pretrained: bool,
    method: str,
    options: dict[str, Any],
    optim: OptimSettings,
    teacher: Teacher | None = None,
    ema_decay: float | None = None,
    imbalance: tuple[str, float],
    freeze_backbone: bool = False,
) -> Member:
    """Build one student with its method; the same seed gives the same initial weights in every arm.

    ``imbalance`` is the setting and its power: every arm has the same label loss.
    """
    model = create_model(
        architecture,
        num_classes=data.num_classes,
        in_chans=data.num_channels,
        img_size=data.img_size,
        pretrained=pretrained,
        seed=seed,
    )
    student = TappedModel(model, preprocess_for(model, data), methods.taps(method, **options).student)
    if freeze_backbone:
        student.freeze_backbone()
    info = pair_info(data, student, teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = methods.build(method, info, **options)
    labels = torch.from_numpy(data.truth("train"))
    loss = methods.make_label_loss(imbalance[0], labels, data.num_classes, imbalance[1])
    for method_or_part in (built, *built.separate()):
        method_or_part.label_loss = loss
    return Member(name, arm, seed, student, built, optim, ema_decay)


def pair_info(data: Dataset, student: TappedModel, teacher: Teacher | None) -> PairInfo:
    """What a method may know of student, teacher and data."""
    return PairInfo(
        num_classes=data.num_classes,
        num_samples=len(data.split.train),
        student_shapes=student.shapes,
        teacher_shapes=teacher.shapes if teacher else {},
        train_labels=None if data.multi_label else torch.from_numpy(data.labels("train")),
        train_indices=torch.from_numpy(data.split.train.copy()),
        teacher_card=teacher.card if teacher else None,
        student_without_activation=student.taps_without_activation,
        student_places=student.places,
        teacher_without_activation=teacher.taps_without_activation if teacher else (),
        multi_label=data.multi_label,
    )


def preprocess_for(model: torch.nn.Module, data: Dataset) -> Preprocess:
    """Pixels as ``data`` gives them, normalised as timm says for this architecture (its published weights too).

    Of other than three channels nobody has published a mean: they are normalised by those of the training images.
    """
    if data.num_channels != 3:
        return Preprocess(data.img_size, data.store.size, *data.channel_statistics, data.store.bands)
    cfg: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    mean, std = (tuple(map(float, cfg.get(key, ()))) for key in ("mean", "std"))
    if len(mean) != 3:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return Preprocess(data.img_size, data.store.size, mean, std, data.store.bands)


def groups_of(data: Dataset, split: Literal["train", "val", "test"]) -> list[str] | None:
    """Group of each image of a split (three views of one tree are one), or None where there are none."""
    groups = [data.source.items[i].group for i in data.split.part(split)]
    return [g if g is not None else f"image {i}" for i, g in enumerate(groups)] if any(groups) else None


def logits_of(
    model: TappedModel, data: Dataset, split: Literal["train", "val", "test"], config: RunConfig, machine: Machine
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits ``[n,K]`` and truth of a split: validation in the precision of training, test in float32.

    Float32 on test, because that is what the exported files compute.
    """
    batches = data.eval_batches(split, batch_size=config.evaluate.batch_size, device=machine.device)
    in_bf16 = machine.bf16 and split != "test"
    return collect_logits(model, batches, autocast=torch.bfloat16 if in_bf16 else None)


def train_members(
    run: Run,
    members: Sequence[Member],
    data: Dataset,
    machine: Machine,
    *,
    name: str,
    epochs: int,
    architecture: str,
    teacher: Teacher | None,
    screen: Screen,
    half_size_share: float = 0.0,
) -> None:
    """One pass: train, then write each member's weights and ``member.json``; a pass that is there is skipped.

    ``half_size_share`` is that of `TrainConfig`; a teacher of the run is trained without, on whole images.
    """
    if all(member_record(run, m.name) for m in members):
        return
    config = run.config
    batch_size = batch_size_for(config, data)
    small = half_size_epochs(half_size_share, epochs, data.num_batches(batch_size))
    if half_size_share:
        run.log(f"{name}: epochs on images of {members[0].student.half_size} px: the first {small} of {epochs}")
    settings = PassSettings(
        name=name,
        epochs=epochs,
        batch_size=batch_size,
        seed=members[0].seed,
        device=machine.device,
        bf16=machine.bf16,
        channels_last=True,
        half_size_epochs=small,
    )
    latest: dict[str, dict[str, Any]] = {}
    reported: list[int] = []

    def evaluate(member: Member) -> dict[str, Any]:
        logits, labels = logits_of(as_shipped(member), data, "val", config, machine)
        measured = classification_metrics(logits, labels, data.num_classes)
        # the matrix of the test split is kept; that of validation is not looked at
        latest[member.name] = {k: v for k, v in measured.items() if k not in scores.LONG}
        return scores.per_epoch(measured)

    def report(rows: list[dict[str, Any]]) -> None:
        if not reported:  # a resumed pass repeats what came after its last checkpoint
            run.drop_metrics(name, from_epoch=rows[0]["epoch"])
        reported.append(rows[0]["epoch"])
        run.add_metrics(rows)
        shown = ", ".join(f"{r['member']} {scores.shown(r['val'])}" for r in rows)
        run.note(f"{name} epoch {rows[0]['epoch'] + 1}/{epochs}: validation {shown}")

    if (checkpoint := run.path("checkpoints", f"{name}.safetensors")).is_file():
        run.log(f"{name}: going on after its last checkpoint")
    with screen.bar(name, epochs * data.num_batches(batch_size)) as bar:
        clock = fit(
            members,
            data,
            settings,
            teacher=teacher,
            evaluate=evaluate,
            report=report,
            checkpoint=checkpoint,
            watcher=bar,
        )
    for member in members:
        if member.name not in latest:  # resumed after its last epoch
            evaluate(member)
        folder = run.path("members", member.name)
        network = member.method.deployable(member.student.model)
        save_model(
            folder,
            network,
            architecture=recorded_as(network, architecture),
            classes=data.classes,
            preprocess=member.student.preprocess,
            multi_label=data.multi_label,
        )
        shared = {k: round(clock[k], 3) for k in ("teacher", "data", "evaluation")}
        record = {
            "name": member.name,
            "arm": member.arm,
            "seed": member.seed,
            "epochs": epochs,
            "seconds": round(member.seconds, 3),
            "pass": name,
            "pass_seconds": shared,
            "weights": member.weights,
            "val": latest[member.name],
        }
        write_json(folder / "member.json", record)
    checkpoint.unlink(missing_ok=True)


def as_shipped(member: Member) -> TappedModel:
    """The network that a member's folder would hold now: the student, unless its method ships another."""
    student = member.student
    network = member.method.deployable(student.model)
    return student if network is student.model else TappedModel(network, student.preprocess, bands=student.bands)


def member_record(run: Run, name: str) -> dict[str, Any] | None:
    """``member.json`` of a member that is trained, or None."""
    path = run.path("members", name, "member.json")
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    return content


def load_trained(folder: Path, bands: Bands | None = None) -> tuple[LoadedModel, TappedModel]:
    """A member's or teacher's network from its folder, for images of these bands."""
    loaded = load_model(folder)
    return loaded, TappedModel(loaded.model, loaded.preprocess, bands=bands)


def measure_test(
    run: Run, folder: Path, data: Dataset, machine: Machine
) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, Any]]:
    """Open the test split for the network in ``folder``; keeps its logits, the truth, and which images belong together
    (numbers of their groups) as ``test_logits.safetensors``.
    """
    _, model = load_trained(folder, data.store.bands)
    model.to(machine.device).to(memory_format=torch.channels_last)
    logits, labels = logits_of(model, data, "test", run.config, machine)
    groups = groups_of(data, "test")
    numbered = {} if groups is None else {"groups": np.unique(groups, return_inverse=True)[1].astype(np.int64)}
    with atomic_file(folder / "test_logits.safetensors", "wb") as file:
        file.write(serialize({"logits": logits, "labels": labels, **numbered}))
    return logits, labels, classification_metrics(logits, labels, data.num_classes)


def ship_member(run: Run, name: str) -> None:
    """Copy the network of a member to ``student/``; what belongs to the run (logits, records) stays behind."""
    source, target = run.path("members", name), run.path("student")
    temporary = run.path(".student.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for file in SHIPPED_FILES:
        shutil.copy(source / file, temporary / file)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)


def data_sizes(data: Dataset) -> dict[str, Any]:
    """Sizes and fingerprint of the split."""
    s = data.split
    return {"train": len(s.train), "val": len(s.val), "test": len(s.test), "fingerprint": s.fingerprint}
