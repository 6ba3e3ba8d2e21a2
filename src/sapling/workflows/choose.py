"""Which network is trained as the teacher where none is named, and which are larger than another.

The student, the size of the images and what the method asks of the teacher decide; no image is looked at. What the
choice rests on is in docs/guide/teachers.md.
"""

from __future__ import annotations

from sapling import methods
from sapling.config import AUTO, RunConfig
from sapling.errors import SaplingError, UsageError
from sapling.models.build import PREFIX, public_name, resolve_name
from sapling.models.sizes import check_size

LARGER = {
    "cnn3": "cnn4",
    "cnn4": "resnet18",
    "resnet18": "resnet34",
    "resnet34": "resnet50",
    "resnet50": "resnet101",
    "resnet20": "resnet56",
    "resnet32": "resnet56",
    "resnet44": "resnet56",
    "resnet56": "resnet110",
    "resnet110": "resnet32x4",
    "resnet8x4": "resnet32x4",
    "resnet20_s2": "resnet56_s2",
    "resnet8x4_s2": "wrn_40_2_s2",
    "resnet56_s2": "wrn_40_2_s2",
    "wrn_16_1": "wrn_16_2",
    "wrn_16_2": "wrn_40_2",
    "wrn_40_1": "wrn_40_2",
    "wrn_40_2": "resnet32x4",
    "wrn_40_2_s2": "resnet18_cifar",
    "resnet32x4": "resnet18_cifar",
    "wrn_16_2_s2": "wrn_40_2_s2",
    "resnet18_cifar": "resnet34_cifar",
    "resnet34_cifar": "resnet50_cifar",
    "mobilenetv3_small_100": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b2",
}
MOST_SMALL = 128  # pixels, the largest that was measured
LEAST_STRIDED = 48  # pixels: below it a stem of stride 2 leaves few


def chosen_teacher(config: RunConfig, img_size: int, *, before: str | None = None) -> RunConfig:
    """The settings with a teacher's name in them, where they leave it open.

    A student that starts from published weights gets a teacher that does so too.

    Args:
        config: the settings.
        img_size: side of the images.
        before: what was chosen when the run was begun, and stays.

    Raises:
        UsageError: no network is known that could teach this student.
    """
    if config.teacher.model != AUTO:
        return config
    pretrained = config.teacher.pretrained or config.student.pretrained
    name = before or teacher_for(config, img_size, pretrained=pretrained)
    if name is None:
        raise UsageError(
            f"no teacher is named, and no larger relative of the student {config.student.model!r} is known",
            allowed="--teacher NAME, one of sapling models; or a trained network",
            remedy="sapling models 'resnet*' --sizes lists some with their sizes",
        )
    return config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"model": name, "pretrained": pretrained})}
    )


def teacher_for(config: RunConfig, img_size: int | None, *, pretrained: bool = False) -> str | None:
    """A network to train for the student: one that does not shrink small images at once, or one that is larger.

    Args:
        config: names the student and the method.
        img_size: side of the images; None where it is unknown.
        pretrained: whether it is to start from published weights, which the small ones do not have.

    Returns:
        Its name; None where none is known that is larger.
    """
    name = plain_name(config.student.model)
    is_ours = resolve_name(name).startswith(PREFIX) and ":" not in name
    larger, small = larger_network(name, img_size), None if pretrained else small_teacher(config, img_size)
    if small is not None:
        keeps_pixels = is_ours and not name.startswith("cnn")  # as the small ones do: only a larger one is better
        is_unheard = larger is not None and _is_wide(larger) and not _is_wide(small)  # the method asks for more
        if keeps_pixels and not is_unheard:
            return larger
        return small if small != name else None
    if larger is not None and not resolve_name(larger).startswith(PREFIX):
        return larger
    return "resnet18" if is_ours else None


def small_teacher(config: RunConfig, img_size: int | None) -> str | None:
    """A teacher from scratch that does not shrink small images at once; None for larger ones.

    ``wrn_16_2_s2`` was measured, at 64 and 128 pixels; the others are taken for their likeness to it.

    Args:
        config: names the method: a Wide ResNet has no activation behind a stage, which some ask for.
        img_size: side of the images; None where it is unknown.
    """
    if img_size is None or img_size > MOST_SMALL:
        return None
    asked = methods.taps(config.method.name, **config.method.options).teacher
    name = "resnet56" if any(tap.endswith(".pre") for tap in asked) else "wrn_16_2"
    return f"{name}_s2" if img_size >= LEAST_STRIDED else name


def note_of_choice(config: RunConfig, img_size: int) -> str:
    """What a user must know of the teacher that was chosen and now stands in the settings."""
    name, student = config.teacher.model, plain_name(config.student.model)
    is_small = not config.teacher.pretrained and name == small_teacher(config, img_size)
    doubt = "; as a teacher of others than cnn3 it was not measured, and it may be the smaller network"
    return f"{name}, chosen for {config.student.model} at {img_size} px" + (
        doubt if is_small and not student.startswith("cnn") else ""
    )


def larger_network(name: str, img_size: int | None) -> str | None:
    """The next larger relative that can read images of this size; None where none is known."""
    larger = LARGER.get(plain_name(name))
    return larger if larger is not None and can_read(larger, img_size) else None


def plain_name(name: str) -> str:
    """As a user calls it, without a tag of weights."""
    return public_name(name).partition(".")[0]


def _is_wide(name: str) -> bool:
    return name.startswith("wrn")


def can_read(name: str, img_size: int | None) -> bool:
    """Whether a network can read images of this size, if it is known."""
    try:
        if img_size is not None:
            check_size(name, img_size)
    except SaplingError:
        return False
    return True
