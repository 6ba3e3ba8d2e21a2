"""What every loss asks of its arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from sapling.errors import MethodError


def full_precision(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are when already float32 or float64."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def check_pair(student: Tensor, teacher: Tensor, what: str = "logits") -> None:
    """Refuse shapes that differ, or are not ``[B,K,..]`` with K >= 2.

    Raises:
        MethodError: with both shapes.
    """
    if student.shape != teacher.shape:
        raise MethodError(
            f"student {what} have the shape {list(student.shape)}, teacher {what} {list(teacher.shape)}",
            allowed="one shape for both",
            remedy="give a teacher that was trained on the same classes in the same order",
        )
    if student.dim() < 2 or student.shape[1] < 2:
        raise MethodError(f"{what} have the shape {list(student.shape)}", allowed="[B,K] with K of 2 or more")


def check_temperature(temperature: float | Tensor, *, per_image: bool = False) -> None:
    """Refuse a number that is not above 0, and a tensor with axes where they would broadcast wrongly.

    The value of a tensor (a learned temperature) is not looked at: that would make the GPU wait.

    Args:
        temperature: T.
        per_image: whether T may differ between images.

    Raises:
        MethodError: with the value or the shape.
    """
    if isinstance(temperature, Tensor):
        if temperature.dim() > 0 and not per_image:
            raise MethodError(f"temperature has the shape {list(temperature.shape)}", allowed="one number")
    elif not temperature > 0:
        raise MethodError(f"temperature is {temperature}", allowed="a number above 0")
