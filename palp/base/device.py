"""Where to compute, and in which type."""

from __future__ import annotations

import os

import torch

from palp.errors import InputError

__all__ = ["fastest_dtype", "find_device", "find_dtype", "finish", "weights_dtype"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str | None) -> torch.device:
    """The device called `name`, or the best one: of several GPUs each process of `accelerate launch` has its own.

    Raises:
        InputError: there is no such device.
    """
    if name is None and not torch.cuda.is_available():
        return torch.device("cpu")
    name = name or f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"got device {name!r}, which is not here; give 'cpu' or leave it out") from error
    return device


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, for what is timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fastest_dtype(device: torch.device) -> torch.dtype:
    """The fastest type of enough precision on `device`."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bfloat16() else torch.float32


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type called `name`, or the fastest one of enough precision on `device`.

    Raises:
        InputError: there is no such type.
    """
    if name == "auto":
        return fastest_dtype(device)
    if name not in DTYPES:
        raise InputError(f"got dtype {name!r}, expected auto, {', '.join(DTYPES)}; choose one of these")
    return DTYPES[name]


def weights_dtype(arithmetic: torch.dtype, device: torch.device) -> torch.dtype:
    """Of the weights: as the arithmetic on CUDA; float32 under autocast elsewhere."""
    return arithmetic if device.type == "cuda" else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX), not by emulation."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
