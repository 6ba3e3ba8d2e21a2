"""The teacher's classifier, for methods that read a feature with it."""

from __future__ import annotations

from torch import Tensor

from sapling.errors import MethodError
from sapling.types import PairInfo


def teachers_head(
    info: PairInfo, width: int, *, method: str, of: str, does: str, instead: str
) -> tuple[Tensor, Tensor]:
    """Weight ``[K,C]`` and bias ``[K]`` of the teacher's classifier, float32 copies; a bias of 0 where it has none.

    Args:
        info: what is known of the pair.
        width: C, channels of the feature that it reads.
        method: its name, for messages.
        of: that feature, for messages.
        does: what the method does with it: ``needs``, ``ships``.
        instead: a method that needs none.

    Raises:
        MethodError: it is no linear layer, or fits neither the feature nor the classes.
    """
    card = info.teacher_card or {}
    if "classifier.weight" not in card:
        raise MethodError(
            f"method {method!r} {does} the teacher's classifier, and it is no linear layer",
            remedy=f"another teacher, or a method that needs none, such as {instead}",
        )
    weight = card["classifier.weight"].detach().float().clone()
    if tuple(weight.shape) != (info.num_classes, width):
        raise MethodError(
            f"method {method!r}: the teacher's classifier has the shape {list(weight.shape)}, its {of} "
            f"{width} channels, for {info.num_classes} classes",
            allowed=f"[{info.num_classes},{width}]",
            remedy=f"a teacher that was trained on these classes, or a method that needs none, such as {instead}",
        )
    return weight, card.get("classifier.bias", weight.new_zeros(len(weight))).detach().float().clone()
