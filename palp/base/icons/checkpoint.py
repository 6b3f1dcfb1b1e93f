"""Training states in one safetensors file: weights, their moving average, optimiser moments, step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from palp.atomic import atomic_write
from palp.base.device import fastest_dtype

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class Resumable(Protocol):
    """What of an optimiser a training state needs: any of torch's, or `MuonAdamW`."""

    @property
    def state(self) -> Mapping[Tensor, dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def save_training(path: Path, step: int, model: nn.Module, average: nn.Module, optimizer: Resumable) -> None:
    """Write everything that resuming needs, atomically."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    with atomic_write(path) as partial:
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial, {"step": str(step)})


def load_training(path: Path, model: nn.Module, average: nn.Module, optimizer: Resumable) -> int:
    """Continue from a file that `save_training` wrote, in place; returns its step."""
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    model.load_state_dict(_under("model.", tensors))
    average.load_state_dict(_under("average.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    _lay_out_as_parameters(optimizer)
    return step


def channels_last(model: Module) -> Module:
    """Lay convolution weights out as the CPU's kernels like them, in place."""
    cast(Any, model).to(memory_format=torch.channels_last)
    return model


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 arithmetic where the device multiplies it in hardware; emulated, it is far slower than float32."""
    if fastest_dtype(device) == torch.bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def follow(average: nn.Module, model: nn.Module, horizon: float) -> None:
    """Move the average one step towards the model: weights by 1 / horizon, buffers copied."""
    with torch.no_grad():
        torch._foreach_lerp_(
            list(average.parameters()), [p.detach() for p in model.parameters()], 1 / max(horizon, 1.0)
        )
        for kept, new in zip(average.buffers(), model.buffers(), strict=True):
            kept.copy_(new)


def _lay_out_as_parameters(optimizer: Resumable) -> None:
    """Give the moments the parameters' memory layout (channels last, say): fused kernels read both in raw order."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
