"""Which network is trained as the teacher where none is named, and which are larger than another.

Nothing is looked at but the student's name and the size of the images; what the choice rests on is in
docs/guide/teachers.md.
"""

from __future__ import annotations

from sapling.config import AUTO, RunConfig
from sapling.errors import SaplingError
from sapling.models.build import PREFIX, public_name, resolve_name
from sapling.models.sizes import check_size

LARGER = {
    "cnn3": "cnn4",
    "cnn4": "resnet18",
    "resnet18": "resnet34",
    "resnet34": "resnet50",
    "resnet50": "resnet101",
    "resnet8x4": "resnet32x4",
    "resnet20": "resnet56",
    "resnet56": "resnet110",
    "resnet20_s2": "resnet56_s2",
    "wrn_16_2": "wrn_40_2",
    "wrn_16_2_s2": "wrn_40_2_s2",
    "mobilenetv3_small_100": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b2",
}
MOST_SMALL = 128  # pixels


def chosen_teacher(config: RunConfig, img_size: int) -> RunConfig:
    """The settings with a teacher's name in them, where they leave it open."""
    if config.teacher.model != AUTO:
        return config
    name = teacher_for(config.student.model, img_size, pretrained=config.teacher.pretrained)
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"model": name})})


def teacher_for(student: str, img_size: int | None, *, pretrained: bool = False) -> str:
    """A network to train for this student: one that does not shrink small images at once, or one that is larger.

    Args:
        student: name of the student.
        img_size: side of the images; None where it is unknown.
        pretrained: whether it is to start from published weights, which the small ones do not have.
    """
    small, larger = small_teacher(img_size), larger_network(student, img_size)
    if small is not None and not pretrained:
        return (larger or "resnet34") if public_name(student).startswith("wrn") else small
    if larger is not None and not _is_ours(larger):
        return larger
    return "resnet18" if _is_ours(student) else "resnet34"


def small_teacher(img_size: int | None) -> str | None:
    """The best teacher from scratch that was measured on small images; None for larger ones."""
    if img_size is None or img_size > MOST_SMALL:
        return None
    return "wrn_16_2_s2" if img_size >= MOST_SMALL // 2 else "wrn_16_2"


def larger_network(name: str, img_size: int | None) -> str | None:
    """The next larger relative that can read images of this size; None where none is known."""
    larger = LARGER.get(public_name(name))
    return larger if larger is not None and can_read(larger, img_size) else None


def can_read(name: str, img_size: int | None) -> bool:
    """Whether a network can read images of this size, if it is known."""
    try:
        if img_size is not None:
            check_size(name, img_size)
    except SaplingError:
        return False
    return True


def _is_ours(name: str) -> bool:
    return resolve_name(name).startswith(PREFIX)
