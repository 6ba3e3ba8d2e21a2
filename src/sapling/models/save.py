"""Save a trained classifier as timm's folder: ``model.safetensors``, ``config.json``, ``classes.txt``."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from sapling.bands import Bands
from sapling.errors import ModelError, nearest
from sapling.models.build import list_models, origin_of

WEIGHTS, CONFIG, CLASSES = "model.safetensors", "config.json", "classes.txt"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image becomes the network's input.

    Attributes:
        img_size: side in pixels of what the network reads (the centre of the stored image).
        store_size: side in pixels to which the image is resized and cropped first; at least ``img_size``.
        mean: subtracted from pixels in [0,1], one value per channel.
        std: divided by, one value per channel.
        bands: which bands of the image the channels are, and which of their values become 0 and 1; None for RGB of
            ordinary pictures.
    """

    img_size: int
    store_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: Bands | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.img_size <= self.store_size:
            raise ModelError(
                f"img_size {self.img_size} and store_size {self.store_size} do not fit",
                allowed="1 <= img_size <= store_size",
            )
        if len(self.mean) != len(self.std) or not self.mean:
            raise ModelError(f"{len(self.mean)} means and {len(self.std)} standard deviations")
        if not all(math.isfinite(value) for value in self.mean) or not all(
            math.isfinite(value) and value > 0 for value in self.std
        ):
            raise ModelError(f"mean {self.mean} or std {self.std} is not usable", allowed="finite, std above 0")
        if self.bands is not None and self.bands.num_channels != len(self.mean):
            raise ModelError(f"{self.bands.num_channels} bands and {len(self.mean)} means")

    @property
    def num_channels(self) -> int:
        """C."""
        return len(self.mean)


def save_model(
    folder: str | Path,
    model: nn.Module,
    *,
    architecture: str,
    classes: Sequence[str],
    preprocess: Preprocess,
    model_args: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    multi_label: bool = False,
) -> None:
    """Write ``model`` as a folder that `load_model` and timm read; each file appears whole or not at all.

    Args:
        folder: made if needed; files of an earlier save are replaced.
        model: a timm network (not wrapped), trained for ``len(classes)`` classes.
        architecture: timm's name, as `resolve_name` gives it; a tag is dropped.
        classes: names in the order of the logits.
        preprocess: how images were prepared in training.
        model_args: what the architecture needs to be built again; what `create_model` recorded is added.
        extra: JSON values for the reader's own use, kept under ``sapling.extra`` in config.json.
        multi_label: whether each logit answers for itself (sigmoid), as for images with several labels.

    Raises:
        ModelError: a name, a number of classes or a weight cannot be saved.
    """
    folder = Path(folder)
    architecture = architecture.partition(".")[0]
    classes = tuple(classes)
    num_classes = getattr(model, "num_classes", len(classes))
    if num_classes != len(classes):
        raise ModelError(f"{len(classes)} class names for a network of {num_classes} classes", where=str(folder))
    for name in classes:
        if not name or name.splitlines() != [name]:
            raise ModelError(f"{name!r} cannot be a class name", allowed="one line of text")
    if len(set(classes)) != len(classes):
        raise ModelError("two classes have the same name", where=str(folder))
    if not timm.is_model(architecture):
        raise ModelError(f"timm knows no network {architecture!r}", allowed=nearest(architecture, list_models()))
    weights = _plain_weights(model, folder)
    origin = origin_of(model)
    recorded = dict(origin.model_args) if origin is not None and origin.architecture == architecture else {}
    arguments = {key: _plain(value) for key, value in {**recorded, **(model_args or {})}.items()}
    channels = len(preprocess.mean)
    if channels != 3:
        arguments.setdefault("in_chans", channels)
    folder.mkdir(parents=True, exist_ok=True)
    blob = safetensors.torch.save(weights, metadata={"format": "pt"})
    published = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    config = {
        "architecture": architecture,
        "num_classes": len(classes),
        "num_features": getattr(model, "num_features", None),
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "sapling",
            "custom_load": False,
            "input_size": [channels, preprocess.img_size, preprocess.img_size],
            "fixed_input_size": bool(published is not None and published.fixed_input_size),
            "interpolation": "bicubic",
            "crop_pct": _crop_share(preprocess),
            "crop_mode": "center",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": len(classes),
            "pool_size": None,
            "first_conv": published.first_conv if published is not None else None,
            "classifier": published.classifier if published is not None else None,
            "label_names": list(classes),
            "license": origin.licence if origin is not None else None,
        },
        "sapling": {
            "format": FORMAT,
            "store_size": preprocess.store_size,
            **({"bands": preprocess.bands.as_dict()} if preprocess.bands is not None else {}),
            **({"multi_label": True, "activation": "sigmoid"} if multi_label else {}),
            "weights_sha256": hashlib.sha256(blob).hexdigest(),
            "started_from": origin.started_from if origin is not None else None,
            "extra": dict(extra or {}),
        },
    }
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # The configuration comes last and names the weights' hash: a save killed between two files is noticed.
    _write(folder / WEIGHTS, blob)
    _write(folder / CLASSES, ("\n".join(classes) + "\n").encode())
    _write(folder / CONFIG, text.encode())


def _plain_weights(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Contiguous copies on the CPU (channels-last and shared tensors cannot be written as they are)."""
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        weights[name] = tensor.detach().to("cpu", copy=True).contiguous()
        if weights[name].is_floating_point() and not bool(torch.isfinite(weights[name]).all()):
            raise ModelError(
                f"{name} holds values that are not finite; this network is not worth saving",
                where=str(folder),
            )
    return weights


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _crop_share(preprocess: Preprocess) -> float:
    """Give the ``crop_pct`` with which timm's ``floor(img_size / crop_pct)`` comes out as ``store_size``."""
    share = preprocess.img_size / preprocess.store_size
    if math.floor(preprocess.img_size / share) != preprocess.store_size:
        share = preprocess.img_size / (preprocess.store_size + 0.25)
    return share


def _write(path: Path, blob: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(blob)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
