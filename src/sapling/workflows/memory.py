"""How much memory there is still: of the machine, and of the container that the process runs in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch


def free_memory(device: str, root: Path = Path("/")) -> int | None:
    """Bytes that can be had on the device now; None where the system does not tell.

    A container may be allowed less than the machine has (cgroups of Linux, versions 1 and 2): the least counts.

    Args:
        device: ``cpu``, ``cuda``, ..
        root: where ``proc`` and ``sys`` are, for tests.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    kilobytes = _number(root / "proc/meminfo", "MemAvailable:")
    free = [kilobytes * 1024] if kilobytes is not None else []
    return min([*free, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> Iterator[int]:
    """What is left in each group that the process is in: its own, and those around it, whose limits hold too."""
    groups = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            top, limit, used, kept = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            kept = "total_inactive_file"
        else:
            continue
        # Inside a container the name may be the host's and lead nowhere; the top is then the container's own group.
        own = PurePosixPath(name.lstrip("/"))
        for place in (top / own, *(top / parent for parent in own.parents)):
            most, taken = _number(place / limit), _number(place / used)
            if most is not None and taken is not None:
                # copies of files that nobody reads just now are given back when memory is short
                yield max(0, most - max(0, taken - (_number(place / "memory.stat", kept) or 0)))


def _number(file: Path, name: str = "") -> int | None:
    """The number behind ``name`` at the beginning of a line; None where there is none, ``max`` for example."""
    for line in _lines(file):
        words = line.split()
        if name:
            words = words[1:] if words[:1] == [name] else []
        if words and words[0].isdecimal():
            return int(words[0])
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
