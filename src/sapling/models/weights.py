"""Read a file of weights from anywhere: safetensors, or torch's format without running anything in it.

torch's files are pickles. They are opened with ``weights_only=True``, which builds tensors, plain containers and
``argparse.Namespace`` (timm's checkpoints carry the command line in one) and refuses all else unread.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sapling.errors import ModelError

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
PICKLE_SUFFIXES = (*TORCH_SUFFIXES, ".joblib", ".npy", ".pickle", ".pkl", ".pt2")
# Where training scripts keep the weights, the averaged ones first, as timm does when it evaluates.
_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
)
_REFUSED = re.compile(r"(?:GLOBAL|Unsupported (?:class|operand|global):?)\s+`?([\w.]+)`?")


@dataclass(frozen=True, slots=True)
class RawWeights:
    """Tensors of a file, as they are named there.

    Attributes:
        tensors: name to tensor, on the CPU.
        architecture: the network's name if the file says it (timm's checkpoints do), else None.
        note: what a reader must know of the choice made, else an empty string.
    """

    tensors: Mapping[str, Tensor]
    architecture: str | None = None
    note: str = ""


def read_weights(path: Path) -> RawWeights:
    """Read all tensors of ``path``; nothing that the file brings is run.

    Raises:
        ModelError: it is damaged, holds more than weights, or holds none.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":
        return RawWeights(_read_safetensors(path))
    if path.suffix.lower() == ".safetensors":
        raise pickled(path) if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else _damaged(path, "no header")
    content = _read_torch(path)
    return _unwrap(content, path)


def pickled(path: Path) -> ModelError:
    """Make the error for a file that only a pickle reader could open."""
    return ModelError(
        f"{path.name} is a pickled file: opening it can run any code that its author put in",
        where=str(path),
        allowed="model.safetensors with config.json, or a state dict (.pt, .pth) that holds tensors only",
        remedy="where you trust it, convert it: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path.name} is damaged or cut off ({path.stat().st_size:,} bytes): {reason}",
        where=str(path),
        remedy="copy it again",
    )


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, among them one of the module that is never imported here
        text = " ".join(str(error).split())
        if "TorchScript" in text or "torch.jit" in text:
            reason = "a TorchScript program, not weights"
        elif "nsupported" in text or "weights_only" in text or "Weights only" in text:
            found = _REFUSED.search(text)
            reason = f"objects of {found.group(1)}" if found else "more than weights"
        else:
            raise _damaged(path, text[:200] or type(error).__name__) from error
        raise ModelError(
            f"{path.name} is a pickled file that holds {reason}: opening that can run any code, so it was not opened",
            where=str(path),
            allowed="a state dict: names and tensors, plain or under 'state_dict', 'model' or 'ema'",
            remedy="where you trust it, write the weights alone: torch.save(model.state_dict(), 'weights.pth')",
        ) from None


def _unwrap(content: Any, path: Path) -> RawWeights:
    """Find the state dict in what a training script saved."""
    architecture, notes = None, []
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        architecture = architecture or _architecture(content)
        found = [key for key in _WRAPPERS if _holds_tensors(content.get(key))]
        if not found:
            break
        averaged = found[0] in _WRAPPERS[:4] and len(found) > 1
        if averaged:
            notes.append(f"{path.name} holds averaged weights ({found[0]}) and plain ones ({found[1]}): averaged taken")
        content = content[found[0]]
    if not isinstance(content, Mapping) or not _holds_tensors(content):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise ModelError(
            f"{path.name} holds no weights: {keys or 'nothing'}",
            where=str(path),
            allowed="a state dict: names and tensors, plain or under 'state_dict', 'model' or 'ema'",
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return RawWeights(tensors, architecture, "; ".join(notes))


def _holds_tensors(value: Any, depth: int = 8) -> bool:
    """Whether there is a tensor in a mapping of mappings, which may hold itself."""
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(isinstance(item, Tensor) or _holds_tensors(item, depth - 1) for item in value.values())


def _architecture(content: Mapping[Any, Any]) -> str | None:
    arguments = content.get("args", content.get("hyper_parameters"))
    values = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    for place, keys in ((content, ("arch", "architecture")), (values, ("model", "arch", "model_name"))):
        if isinstance(place, Mapping):
            for key in keys:
                if isinstance(place.get(key), str):
                    return str(place[key])
    return None
