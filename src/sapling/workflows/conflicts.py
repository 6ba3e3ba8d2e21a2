"""Settings that a method refuses. No torch: the catalogue knows enough of most methods to say so at once."""

from __future__ import annotations

from dataclasses import dataclass

from sapling.config import RunConfig
from sapling.errors import UsageError
from sapling.methods.combination import WEIGHT, split_name
from sapling.methods.registry import built_in, entry

PLAIN_OPTIONS = {"alpha", "temperature"}
"""Settings of a method that change nothing of what it needs."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method needs with its settings.

    Attributes:
        labels: one class number per image.
        min_batch: least images per step.
        student: features of the student that it teaches.
        teacher: features of the teacher that it learns from.
    """

    labels: bool
    min_batch: int
    student: tuple[str, ...]
    teacher: tuple[str, ...]


def known_needs(config: RunConfig) -> Needs | None:
    """What the catalogue says; None where it depends on settings, or the method is somebody else's."""
    method, parts = config.method, split_name(config.method.name)
    blocks = [method.options, *(method.options.get(part) or {} for part in parts)]
    if set(parts) - set(built_in()) or any(set(block) - PLAIN_OPTIONS - {WEIGHT, *parts} for block in blocks):
        return None
    known = entry(method.name)
    requires, taps = known["requires"], known["taps"]
    return Needs(requires["labels"], requires["min_batch"], tuple(taps["student"]), tuple(taps["teacher"]))


def mixed_by(config: RunConfig) -> list[str]:
    """The settings that mix the images that students see."""
    return [k for k in ("mixup", "cutmix") if getattr(config.data, k) > 0 and config.data.mix_share > 0]


def check_method_fits(config: RunConfig, needs: Needs) -> None:
    """Refuse settings that the method cannot work with.

    Raises:
        UsageError: mixed images, a batch, a frozen backbone or out-of-fold answers that do not go with it.
    """
    arm, teacher, mixes = config.method.arm, config.teacher, mixed_by(config)
    if needs.labels and mixes:
        raise UsageError(
            f"method {arm!r} needs one class number per image, and {' and '.join(mixes)} would mix the images",
            allowed="methods without class numbers, such as kd and dist",
            remedy=f"turn mixing off ({', '.join(f'--{k} 0' for k in mixes)}), or --method kd",
        )
    check_batch(config, needs.min_batch, config.train.batch_size)
    if config.student.freeze_backbone and needs.student:
        raise UsageError(
            f"method {config.method.name!r} teaches the student's features ({', '.join(needs.student)}), and "
            "student.freeze_backbone keeps them as they are",
            remedy="--method dist, on answers alone, or student.freeze_backbone: false",
        )
    if teacher.cross_fit and mixes:
        raise UsageError(
            f"data.{mixes[0]} mixes images of several folds, and no teacher is new to both: teacher.cross_fit cannot "
            "answer them",
            remedy=f"--{mixes[0]} 0 (teacher.{mixes[0]} may stay: it is for training the teacher), or do without "
            "teacher.cross_fit",
        )
    if teacher.cross_fit and needs.teacher:
        raise UsageError(
            f"method {config.method.name!r} learns from the teacher's features ({', '.join(needs.teacher)}), and "
            "teacher.cross_fit is for logits: those features are of teachers that trained on the image",
            remedy="--method dist, on answers alone, or do without teacher.cross_fit",
        )


def check_batch(config: RunConfig, least: int, num_images: int) -> None:
    """Refuse steps of fewer images than the method compares.

    Args:
        config: the settings.
        least: images that the method compares at least.
        num_images: at most so many there are for a step.

    Raises:
        UsageError: the batch size is below ``least``, or there are fewer images.
    """
    if min(num_images, config.train.batch_size) >= least:
        return
    small = config.train.batch_size < least
    found = f"the batch size is {config.train.batch_size}" if small else f"there are {num_images} to train on"
    remedy = f"--batch-size {max(least, 64)}" if small else "more images"
    raise UsageError(
        f"method {config.method.arm!r} compares images with each other and {found}",
        allowed=f"{least} or more",
        remedy=f"{remedy}, or a method that takes each image alone: --method kd",
    )
