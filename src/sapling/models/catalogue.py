"""What a network costs and where its published weights come from, without making it: for ``sapling models``."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch

from sapling.models.build import public_name, resolve_name, size_arguments
from sapling.models.create import count_macs, count_parameters


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One row of the list.

    Attributes:
        name: as a user writes it.
        img_size: side of the images that it was designed for.
        parameters: with 1000 classes.
        macs: multiply-accumulates of one such image; None where they cannot be counted without values.
        weights: tags of the published weights, the default first; empty: none are published.
        licence: of the default weights, if stated.
    """

    name: str
    img_size: int
    parameters: int | None
    macs: int | None
    weights: tuple[str, ...]
    licence: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def describe_model(name: str) -> ModelCard:
    """Count and look up one network; nothing is downloaded, no weights are made.

    Raises:
        ModelError: no such network.
    """
    full = resolve_name(name)
    architecture = full.partition(".")[0]
    config = timm.get_pretrained_cfg(full, allow_unregistered=True)
    size = int(config.input_size[-1]) if config is not None else 224
    parameters = macs = None
    # A few networks compute with values while they are built or run; a row with a gap is better than no list.
    with contextlib.suppress(Exception):
        with torch.device("meta"):
            model = timm.create_model(architecture, **size_arguments(architecture, in_chans=3, img_size=size))
        parameters = count_parameters(model)
        macs = count_macs(model, (3, size, size))
    published = bool(config is not None and config.has_weights)
    tags = [known.partition(".")[2] for known in timm.list_pretrained(architecture + ".*")] if published else []
    first = str(config.tag or "") if published else ""
    weights = tuple(tag or "default" for tag in sorted(tags, key=lambda tag: tag != first)) or ("default",) * published
    licence = config.license if config is not None and published else None
    return ModelCard(public_name(architecture), size, parameters, macs, weights, licence)
