"""Students behind which a teacher's classifier stands, registered with timm as ``sapling_reused_classifier``.

A method makes such a network of a trained student (`sapling.reused.ReusedClassifier`); saved, it is built again from
``model_args``: ``student``, the name of the body, and what stands behind it. Nobody makes one by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from sapling.reused import Behind, MapPlace, ReusedClassifier

NAME = "sapling_reused_classifier"
STUDENT = "student"


def arguments_of(network: ReusedClassifier, student: str, student_args: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json must say for the network to be built again, plain values only.

    Args:
        network: made of a student.
        student: timm's name of that student.
        student_args: what it needs beside the number of classes.
    """
    place = {f"map_{key}": value for key, value in asdict(network.place).items()}
    return {STUDENT: student, **place, **asdict(network.shapes_behind), **student_args}


def _make(num_classes: int = 1000, **given: Any) -> ReusedClassifier:
    student = given.pop(STUDENT, None)
    own = [field.name for field in fields(Behind)]
    places = [field.name for field in fields(MapPlace)]
    missing = [key for key in (*(f"map_{p}" for p in places), *own) if key not in given]
    if not isinstance(student, str) or not timm.is_model(student) or student == NAME or missing:
        raise ValueError("it is what method simkd ships, and is only read from a folder that holds one")
    place = MapPlace(**{key: given.pop(f"map_{key}") for key in places})
    behind = Behind(**{key: given.pop(key) for key in own})
    backbone = timm.create_model(student, pretrained=False, num_classes=num_classes, **given)
    return ReusedClassifier(backbone, place, behind, num_classes)


default_cfgs = generate_default_cfgs(
    {NAME: {"num_classes": 1000, "input_size": (3, 64, 64), "pool_size": None, "classifier": "classifier"}}
)


@register_model  # type: ignore[untyped-decorator]
def sapling_reused_classifier(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A student's body, a projector and the classifier of its teacher."""
    model = build_model_with_cfg(_make, NAME, pretrained, **kwargs)
    assert isinstance(model, nn.Module)
    return model
