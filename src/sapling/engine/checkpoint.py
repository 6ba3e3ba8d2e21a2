"""One file per pass: weights, their average, method, optimiser of every member and the number of epochs that are done.

Everything else that training depends on is a pure function of (seed, epoch, batch), so this is all that a
killed pass needs to go on bit-identical. One file, renamed into place, cannot be half of two epochs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sapling.engine.averaging import Average
from sapling.errors import RunError


class HasState(Protocol):
    """What a checkpoint needs of a member."""

    @property
    def name(self) -> str:
        """Unique in the pass."""

    @property
    def student(self) -> nn.Module:
        """The network."""

    @property
    def method(self) -> nn.Module:
        """What has parameters of its own."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The state of its steps."""

    @property
    def average(self) -> Average | None:
        """The moving average of its weights, if there is one."""


def numeric_environment() -> dict[str, str]:
    """What changes bits although the settings are the same."""
    return {
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "mkldnn": str(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def save_checkpoint(
    path: Path,
    members: Iterable[HasState],
    *,
    epochs_done: int,
    extra: Mapping[str, Any],
    phases: Mapping[str, str] | None = None,
) -> None:
    """Write the state of a pass atomically.

    Args:
        path: the file; replaced.
        members: all members of the pass.
        epochs_done: epochs that are complete.
        extra: JSON content to get back from ``load_checkpoint`` (seconds used, for example).
        phases: the phase that each member is in, by name; for whoever looks into the file.
    """
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    for member in members:
        for part, module in (("student", member.student), ("method", member.method)):
            for key, value in module.state_dict().items():
                tensors[f"{member.name}|{part}|{key}"] = value.detach().cpu().contiguous()
        for key, value in (member.average.state if member.average else {}).items():
            tensors[f"{member.name}|average|{key}"] = value.cpu().contiguous()
        state = member.optimizer.state_dict()
        groups[member.name] = state["param_groups"]
        for number, entries in state["state"].items():
            for key, value in entries.items():
                if value is not None:
                    held = value if isinstance(value, Tensor) else torch.tensor(value)
                    tensors[f"{member.name}|optimizer|{number}|{key}"] = held.detach().cpu().contiguous()
    metadata = {
        "epochs_done": str(epochs_done),
        "groups": json.dumps(groups),
        "extra": json.dumps(dict(extra)),
        "phases": json.dumps(dict(phases or {})),
        "environment": json.dumps(numeric_environment()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def load_checkpoint(path: Path, members: Iterable[HasState]) -> tuple[int, dict[str, Any]]:
    """Put a saved state back into ``members``.

    Returns:
        The number of complete epochs, and what was given as ``extra``.

    Raises:
        RunError: the file is damaged, belongs to other members, or was made where bits come out otherwise.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        old = json.loads(metadata["environment"])
        groups, extra = json.loads(metadata["groups"]), json.loads(metadata["extra"])
        epochs_done = int(metadata["epochs_done"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"the checkpoint cannot be read: {error}", where=str(path), remedy="delete it to train this pass again"
        ) from None
    _restore_threads(old, path)
    for member in members:
        try:
            for part, module in (("student", member.student), ("method", member.method)):
                module.load_state_dict(_part(tensors, f"{member.name}|{part}|"), strict=True)
            if member.average:
                member.average.load(_part(tensors, f"{member.name}|average|"))
            _restore_optimizer(member, groups[member.name], _part(tensors, f"{member.name}|optimizer|"))
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunError(
                f"the checkpoint does not fit member {member.name!r}: {str(error).splitlines()[0]}",
                where=str(path),
                remedy="delete it to train this pass again",
            ) from None
    return epochs_done, extra


def _restore_threads(old: Mapping[str, str], path: Path) -> None:
    if old.get("threads", "").isdigit() and int(old["threads"]) != torch.get_num_threads():
        torch.set_num_threads(int(old["threads"]))
    changed = [f"{k} was {old.get(k)}, is {v}" for k, v in numeric_environment().items() if old.get(k) != v]
    if changed:
        raise RunError(
            "this run cannot go on with the same bits: " + "; ".join(changed),
            where=str(path),
            remedy="use the same versions and processor, or start again in another --output",
        )


def _restore_optimizer(member: HasState, groups: list[dict[str, Any]], tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("|")
        state.setdefault(int(index), {})[name] = value
    # load_state_dict keeps strides of what it is given: bring them into the parameters' memory format first
    parameters = [p for g in member.optimizer.param_groups for p in g["params"]]
    for number, entries in state.items():
        for name, value in entries.items():
            if value.shape == parameters[number].shape:
                entries[name] = torch.empty_like(parameters[number]).copy_(value)
    member.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
