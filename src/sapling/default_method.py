"""The method of a run that names none. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sapling.methods.combination import split_name

if TYPE_CHECKING:
    from sapling.config import RunConfig

DEFAULT_METHOD = "dist+mimic"
"""Answers and features: better than its control on dev images of three sets, than ``dist`` on two (measured.md)."""
ON_ANSWERS = "dist"
"""The same without features."""


def default_method(config: RunConfig) -> str:
    """Answers and features of the teacher, or its answers alone where :func:`teaches_features` says no.

    Settings of a part (``method.mimic.tap``) want both; where features cannot be taught the run refuses them by name.
    """
    is_set = any(part in config.method.options for part in split_name(DEFAULT_METHOD))
    return DEFAULT_METHOD if is_set or teaches_features(config) else ON_ANSWERS


def teaches_features(config: RunConfig) -> bool:
    """Whether settings let a student learn features.

    Not where the teacher answers out of fold (each network on the images that it never saw: features of different
    networks are not comparable), where the student's features are frozen, nor where answers to mixed images come from
    kept ones (of features no mix is kept).
    """
    teacher, data = config.teacher, config.data
    mixed = (data.mixup > 0 or data.cutmix > 0) and data.mix_share > 0
    kept_mixes = teacher.cache == "on" and mixed
    return not (teacher.cross_fit or _brings_folds(teacher.model) or config.student.freeze_backbone or kept_mixes)


def _brings_folds(model: str) -> bool:
    place = Path(model.removeprefix("local-dir:"))
    if not place.is_dir():
        return False
    from sapling.data.folds import FOLDS_FILE  # numpy

    return (place / FOLDS_FILE).is_file()
