"""A trainer's state as one safetensors file, with what identifies its run in the header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from palp.atomic import atomic_write
from palp.errors import InputError

VERSION = "2"


def save(path: Path, state: Mapping[str, Tensor], identity: Mapping[str, str]) -> None:
    """Write the tensors, and in the header the identity, atomically."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    content = serialize(tensors, metadata={"palp.checkpoint": VERSION, **identity})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load(path: Path, identity: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a file of `save`.

    Raises:
        InputError: missing, damaged, or of another run: the sentence names what differs.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}: check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole checkpoint ({error}): train from the start") from error
    if header.get("palp.checkpoint") != VERSION:
        raise InputError(f"{path} is not a checkpoint of version {VERSION}: train from the start")
    for name, mine in identity.items():
        if header.get(name) != mine:
            raise InputError(
                f"the checkpoint {path} is of a run with other {name}: resume with those of the run that "
                "saved it, or train from the start"
            )
    return tensors
