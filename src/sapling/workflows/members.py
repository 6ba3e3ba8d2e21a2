"""How many members share a pass: as many as fit into memory, the others in further passes of the same seed.

All members of a seed see the same batches and views and draw the same random numbers, and none sees another, so a list
that is cut into several passes gives the very weights that one pass gives; the teacher and the data are then paid once
per part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sapling.data.loader import Dataset
from sapling.engine.trainer import Member
from sapling.errors import RunError
from sapling.record import Run, read_json, write_json
from sapling.screen import file_size
from sapling.workflows.memory import free_memory
from sapling.workflows.passes import Machine, batch_size_for, member_record

RECORD = "passes.json"
METHOD = "method.json"
SHARE = 0.8
"""Of the free memory that members may take: the estimate knows nothing of workspaces and of other programs."""
OPTIMIZER_STATES = {"sgd": 1, "adamw": 2}
_PASSES_OVER_ACTIVATIONS = 2  # kept for the way back, and their gradients


@dataclass(frozen=True, slots=True)
class Planned:
    """A member that is built when its pass begins.

    Attributes:
        name: of the member.
        make: builds it; the same one each time.
    """

    name: str
    make: Callable[[], Member]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a member, in bytes.

    Attributes:
        held: by weights, gradients, optimiser and average, as long as the pass lasts.
        working: by activations while it makes a step; members take turns.
    """

    held: int
    working: int


def footprint(member: Member, *, num_channels: int, img_size: int, batch_size: int) -> Footprint:
    """Estimate what a member needs; runs its student on two images.

    Activations are the outputs of all layers without sub-layers, twice (their gradients come on the way back). Float32.
    """
    parts: tuple[nn.Module, ...] = (member.student, member.method)
    weights = sum(p.numel() for part in parts for p in part.parameters())
    state = sum(t.numel() for part in parts for t in part.state_dict().values())
    copies = 1 + OPTIMIZER_STATES[member.optim.optimizer]  # gradients, and what the optimiser keeps
    held = state + copies * weights + (state if member.ema_decay is not None else 0)
    seen = [0]

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen[0] += output.numel()

    layers = [m for m in member.student.modules() if not any(m.children())]
    handles = [layer.register_forward_hook(count) for layer in layers]
    modes = {module: module.training for module in member.student.modules()}
    device = next(member.student.parameters()).device
    try:
        member.student.eval()
        with torch.no_grad():
            member.student(torch.zeros(2, num_channels, img_size, img_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return Footprint(4 * held, 4 * _PASSES_OVER_ACTIVATIONS * seen[0] * batch_size // 2)


def most_members(needs: Sequence[Footprint], free: int | None) -> int:
    """How many of these members may share a pass, whichever they are: at least one."""
    if free is None:
        return len(needs)
    left = SHARE * free - max(need.working for need in needs)
    return max(1, min(len(needs), int(left // max(1, *(need.held for need in needs)))))


def members_per_pass(run: Run, planned: Sequence[Planned], data: Dataset, device: str) -> int:
    """The number of members in a pass: as in this run before, as wanted, or as many as fit; kept in ``passes.json``.

    Memory may be another one when a killed run goes on, so it is asked once; a run that began before there was
    such a file goes on with all of them. Who asks for another number gets it where no pass is half done.
    """
    record, wanted = run.path(RECORD), run.config.train.members_per_pass
    if record.exists():
        before = int(read_json(record)["members_per_pass"])
        if wanted is None or min(wanted, len(planned)) == before or _is_half_done(run):
            return before
    found: dict[str, Any] = {}
    if wanted is not None:
        number = min(wanted, len(planned))
    elif len(planned) == 1 or _is_under_way(run):
        number = len(planned)
    else:
        batch_size = batch_size_for(run.config, data)
        needs = [  # one is alive at a time
            footprint(p.make(), num_channels=data.num_channels, img_size=data.img_size, batch_size=batch_size)
            for p in planned
        ]
        free = free_memory(device)
        number = most_members(needs, free)
        held, working = max(n.held for n in needs), max(n.working for n in needs)
        found = {"held_bytes": held, "working_bytes": working, "free_bytes": free}
        if number < len(planned):
            run.log(
                f"members: {number} of {len(planned)} at a time (--members-per-pass): each needs about "
                f"{file_size(held)}, a step {file_size(working)}, and {file_size(free or 0)} are free"
            )
    write_json(record, {"members_per_pass": number, **found})
    return number


def train_in_parts(
    run: Run,
    planned: Sequence[Planned],
    data: Dataset,
    machine: Machine,
    *,
    name: str,
    train: Callable[[str, list[Member]], None],
) -> None:
    """Train the members of one seed, so many at a time as :func:`members_per_pass` says.

    Args:
        run: the run.
        planned: all members of the seed, in their order.
        data: what they learn from.
        machine: where.
        name: of the first pass and its checkpoint, ``seed0``; the others are ``seed0-part2``, ..
        train: trains a pass by its name; members are built just before, those of earlier parts are gone by then.
    """
    per_pass = members_per_pass(run, planned, data, machine.device)
    for number, start in enumerate(range(0, len(planned), per_pass)):
        part = planned[start : start + per_pass]
        if all(member_record(run, member.name) for member in part):
            continue
        members = [member.make() for member in part]
        check_method(run, members)
        train(name if number == 0 else f"{name}-part{number + 1}", members)
        del members  # before the next ones are built


def check_method(run: Run, members: Sequence[Member]) -> None:
    """Refuse students whose method is another one than when the run began: seeds of one run must not differ.

    Settings that a run leaves open are those of the version that trains it; another version may have others. They are
    kept in ``method.json`` before the first student is trained, and held against it whenever the run goes on. Settings
    that are new are let pass. Of an older run without that file the weights of trained students are compared.

    Raises:
        RunError: says what is another.
    """
    place = run.path(METHOD)
    for member in members:
        if member.method.name == "none":
            continue
        content = {"weights": member.weights, "config": member.method.config.model_dump(mode="json")}
        now = json.loads(json.dumps(content))
        records = map(read_json, sorted(run.path("members").glob("*/member.json")))
        trained = [{"weights": record["weights"]} for record in records if record["arm"] == member.arm]
        before = read_json(place) if place.exists() else (trained or [now])[0]
        if found := list(_changed(before, now)):
            raise RunError(
                f"the method {member.arm!r} is another one than when this run began: " + "; ".join(found),
                where=str(run.folder),
                remedy="start again with another --output, or go on with the version that began it (environment.json)",
            )
        if not place.exists():
            write_json(place, now)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, old in before.items():
        name, new = f"{path}{key}", now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changed(old, new, f"{name}.")
        elif old != new:
            yield f"{name} was {old}, is {new}"


def _is_half_done(run: Run) -> bool:
    return any(run.path("checkpoints").glob("seed*.safetensors"))


def _is_under_way(run: Run) -> bool:
    """Whether students were trained or half trained when there was no record of parts yet."""
    return _is_half_done(run) or any(run.path("members").glob("*-s[0-9]*/member.json"))
