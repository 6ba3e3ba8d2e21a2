"""Several networks that answer as one teacher, and one network that answers for all symmetries of an image.

**The answer of an ensemble is the plain mean of its members' logits.** Softmax of the mean of logits is the geometric
mean of the members' probabilities, renormalised, and that at *every* temperature T: the mean of ``z / T`` is the mean
of ``z``, divided by T. So one array of logits holds the ensemble's soft targets for any method and temperature, and a
cache of it stays valid; the arithmetic mean of probabilities would need every member's logits, or one T for good.
For several labels per image the same holds of each sigmoid (the geometric mean of the odds).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sapling.data.workspace import moved
from sapling.errors import ModelError
from sapling.models.tapped import TappedModel
from sapling.types import Outputs


@dataclass(frozen=True, slots=True)
class Symmetry:
    """One of the eight ways to lay a square image.

    Attributes:
        quarter_turns: so often turned by 90 degrees, 0 to 3, counter-clockwise.
        mirrored: then mirrored left to right.
    """

    quarter_turns: int = 0
    mirrored: bool = False

    def apply(self, images: Tensor) -> Tensor:
        """``[B,C,S,S]`` to the same shape and memory format: whole pixels move, nothing is interpolated."""
        moved = torch.rot90(images, self.quarter_turns, (2, 3)) if self.quarter_turns else images
        return _as_in(images, moved.flip(3) if self.mirrored else moved)


PLAIN = Symmetry()


def symmetries_of(*, flip: bool, dihedral: bool) -> tuple[Symmetry, ...]:
    """The symmetries that views allow: all eight of a square, the mirror image, or none but the plain image.

    The plain image is always the first.
    """
    turns = range(4) if dihedral else range(1)
    mirrored = (False, True) if flip or dihedral else (False,)
    return tuple(Symmetry(turn, mirror) for mirror in mirrored for turn in turns)


class Symmetrised(nn.Module):
    """A network whose logits are their mean over the symmetries of the image: it answers all of them alike.

    A class is the same however the image lies, so nothing has to be undone for logits. A feature map would have to be
    turned back, and a network that is not symmetric has another one there: **features stay those of the plain image**.

    Args:
        model: the network.
        symmetries: one or more, :func:`symmetries_of`; the first is the plain image.
    """

    def __init__(self, model: TappedModel, symmetries: Sequence[Symmetry]) -> None:
        super().__init__()
        if not symmetries or symmetries[0] != PLAIN or len(set(symmetries)) != len(symmetries):
            raise ModelError(
                f"{symmetries} are no symmetries to average over", allowed="different ones, the plain image first"
            )
        self.model, self.symmetries = model, tuple(symmetries)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name to shape without B."""
        return self.model.shapes

    @property
    def taps_without_activation(self) -> tuple[str, ...]:
        """As of the network."""
        return self.model.taps_without_activation

    @property
    def classifier_card(self) -> dict[str, Tensor] | None:
        """As of the network: its answer to the plain image is what this classifier makes of the embedding."""
        return self.model.classifier_card

    def forward(self, images: Tensor) -> Outputs:
        """Mean logits, and the features of the plain image."""
        plain: Outputs = self.model(images)
        turned = [self.model(symmetry.apply(images)).logits for symmetry in self.symmetries[1:]]
        return Outputs(torch.stack([plain.logits, *turned]).mean(0), plain.features)


class Ensemble(nn.Module):
    """Several networks that answer as one: the mean of their logits, their features side by side.

    Features of a tap are **concatenated along the channels** (``[B,C,H,W]`` and ``[B,D]`` along dimension 1, tokens
    ``[B,T,D]`` along 2), in the order of the members: no mean of features, because members that were trained apart
    have no common meaning of a channel.

    Args:
        members: two or more that answer with the same classes in the same order.

    Raises:
        ModelError: fewer members, or a tap whose maps have several sizes.
    """

    def __init__(self, members: Sequence[TappedModel | Symmetrised]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ModelError(f"an ensemble of {len(members)}", allowed="2 members or more")
        self.members = nn.ModuleList(members)
        self._shapes = _joined_shapes([member.shapes for member in members])

    def __iter__(self) -> Iterator[TappedModel | Symmetrised]:
        for member in self.members:
            yield cast("TappedModel | Symmetrised", member)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tap name to shape without B: channels are the sum of the members'."""
        return dict(self._shapes)

    @property
    def taps_without_activation(self) -> tuple[str, ...]:
        """Taps with ``.pre`` that are the stage's output itself in any of the members."""
        return tuple(dict.fromkeys(tap for member in self for tap in member.taps_without_activation))

    @property
    def classifier_card(self) -> dict[str, Tensor] | None:
        """The one linear layer that makes the mean logits of the members' embeddings side by side.

        ``mean_k(W_k e_k + b_k) = [W_1/N .. W_N/N] [e_1; ..; e_N] + mean_k(b_k)``. None where a member's classifier is
        not linear.
        """
        cards = [member.classifier_card for member in self]
        known = [card for card in cards if card is not None]
        if len(known) < len(cards):
            return None
        weights = [card["classifier.weight"] / len(cards) for card in known]
        return {
            "classifier.weight": torch.cat(weights, 1),
            "classifier.bias": torch.stack([card["classifier.bias"] for card in known]).mean(0),
        }

    def forward(self, images: Tensor) -> Outputs:
        """Mean logits ``[B,K]``, features side by side."""
        answers: list[Outputs] = [member(images) for member in self]
        logits = torch.stack([answer.logits for answer in answers]).mean(0)
        features = {
            tap: torch.cat([answer.features[tap] for answer in answers], channels_at(shape))
            for tap, shape in self._shapes.items()
        }
        return Outputs(logits, features)

    def out_of_fold(self, images: Tensor, folds: Tensor) -> Outputs:
        """Logits of images by the member that never trained on them; no features.

        Every image costs one member's forward pass.

        Args:
            images: ``[B,C,H,W]``.
            folds: ``[B]`` int64, on the CPU: number of the member that answers alone; -1 for images that all of them
                answer.
        """
        whole = torch.unique(folds)
        answered: Tensor | None = None
        for fold in whole.tolist():
            network = self if fold < 0 else self.members[fold]
            rows = moved(torch.nonzero(folds == fold).flatten(), images.device)
            logits = network(images if len(whole) == 1 else _as_in(images, images[rows])).logits
            if answered is None:
                answered = logits.new_empty((len(images), logits.shape[1]))
            answered[rows] = logits
        if answered is None:
            raise ModelError("there are no images to answer")
        return Outputs(answered)


def channels_at(shape: tuple[int, ...]) -> int:
    """The dimension of channels in a batch of features of this shape (without B)."""
    return 2 if len(shape) == 2 else 1


def _joined_shapes(shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    joined = {}
    for tap, first in shapes[0].items():
        all_of_tap = [other[tap] for other in shapes]
        at = channels_at(first) - 1
        if len({(len(shape), *shape[:at], *shape[at + 1 :]) for shape in all_of_tap}) > 1:
            raise ModelError(
                f"tap {tap!r} has several sizes in this ensemble: {', '.join(map(str, map(list, all_of_tap)))}",
                allowed="features of one size, whose channels are put side by side",
                remedy="teachers of one architecture and input size, or a method on logits, such as dist",
            )
        joined[tap] = (*first[:at], sum(shape[at] for shape in all_of_tap), *first[at + 1 :])
    return joined


def _as_in(images: Tensor, moved: Tensor) -> Tensor:
    """``moved`` in the memory format of ``images``."""
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        return moved.contiguous(memory_format=torch.channels_last)
    return moved.contiguous()
