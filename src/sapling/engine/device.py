"""Which device, precision and memory format a run uses."""

from __future__ import annotations

import re

import torch

from sapling.errors import UsageError


def resolve_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``.

    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"there is no device {name!r}", allowed="auto, cpu, cuda, cuda:0")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no CUDA device", allowed="auto, cpu", remedy="--device cpu")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices")
    return name


def bf16_is_fast(device: str) -> bool:
    """Whether the processor computes bf16 natively; elsewhere it is emulated and slower than float32."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(name: str, device: str) -> str:
    """``auto`` becomes ``bf16`` where that is fast, else ``fp32``."""
    return ("bf16" if bf16_is_fast(device) else "fp32") if name == "auto" else name


def limit_threads(threads: int | None) -> int:
    """Set the number of CPU threads if one is wanted; returns the number in force."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f"{threads} threads cannot compute", allowed="1 or more")
        torch.set_num_threads(threads)
    return torch.get_num_threads()
