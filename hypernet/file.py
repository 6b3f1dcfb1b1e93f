"""The hypernetwork's file: safetensors, with base, adapter spec, sizes and the corpus' recipe in the header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from hypernet.config import HyperConfig
from hypernet.model import Hypernetwork
from palp.adapter_file import spec_from_json
from palp.atomic import atomic_write
from palp.base import Base, TextShape
from palp.errors import AdapterFileError, AdapterMismatchError, PalpError

__all__ = ["Origin", "base_of", "check_base", "load_hypernet", "save_hypernet"]

VERSION = "1"


@dataclass(frozen=True)
class Origin:
    """What a hypernetwork was trained on.

    Args:
        recipe: settings of the corpus' adapters.
        training: settings and outcome of its own training.
    """

    recipe: Mapping[str, Any]
    training: Mapping[str, Any]


def save_hypernet(hypernet: Hypernetwork, origin: Origin, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a hypernetwork, atomically.

    Args:
        dtype: of the file's tensors; float16 halves it.

    Raises:
        AdapterFileError: a value is not finite in that type.
        OutputError: it could not be written; an older file is as it was.
    """
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in hypernet.state_dict().items()}
    _check_finite(tensors, path)
    header = {
        "format": "pt",
        "hypernet.version": VERSION,
        "hypernet.config": json.dumps(asdict(hypernet.config)),
        "hypernet.text": json.dumps(hypernet.text),
        "hypernet.recipe": json.dumps(dict(origin.recipe)),
        "hypernet.training": json.dumps(dict(origin.training)),
        "palp.base": hypernet.spec.base,
        "palp.spec": json.dumps(asdict(hypernet.spec)),
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(serialize(tensors, metadata=header))


def load_hypernet(path: Path) -> tuple[Hypernetwork, Origin]:
    """Read a file of `save_hypernet`, on the CPU, in float32, in evaluation mode.

    Raises:
        AdapterFileError: missing, damaged, of another version, or no hypernetwork.
    """
    header, tensors = _open(path)
    if header.get("hypernet.version") != VERSION:
        found = header.get("hypernet.version", "none")
        raise AdapterFileError(
            f"{path} is a hypernetwork of version {found}, and only {VERSION} can be read: train it again"
        )
    spec = spec_from_json(header.get("palp.spec", ""), path)
    try:
        config = HyperConfig.from_mapping(json.loads(header["hypernet.config"]))
        text = TextShape(*json.loads(header["hypernet.text"]))
        origin = Origin(json.loads(header["hypernet.recipe"]), json.loads(header["hypernet.training"]))
        hypernet = Hypernetwork(spec, text, config, float(origin.recipe.get("subject_scale", 1.0)))
        hypernet.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError, PalpError) as error:
        raise AdapterFileError(f"{path} is a damaged hypernetwork ({error}): train it again") from error
    _check_finite(tensors, path)
    return hypernet.eval().requires_grad_(False), origin


def base_of(path: Path) -> str:
    """Fingerprint of the base that a file of `save_hypernet` predicts for; reads the header alone.

    Raises:
        AdapterFileError: missing, or damaged.
    """
    with _opened(path) as file:
        return str((file.metadata() or {}).get("palp.base", ""))


def check_base(hypernet: Hypernetwork, base: Base) -> None:
    """Raise AdapterMismatchError, naming both sides, unless it predicts adapters for this base."""
    if hypernet.spec.base != base.fingerprint:
        raise AdapterMismatchError(
            f"the hypernetwork predicts adapters for {hypernet.spec.base}, and the base at hand is "
            f"{base.fingerprint}: load the hypernetwork's own base"
        )
    if hypernet.text[1:] != base.text_shape[1:]:
        raise AdapterMismatchError(
            f"the hypernetwork reads text states {hypernet.text}, and the base at hand has {base.text_shape}: "
            "load the hypernetwork's own base"
        )
    there = {site.name: site for site in base.sites("all")}
    if odd := [site for site in hypernet.spec.sites if there.get(site.name) != site]:
        raise AdapterMismatchError(
            f"the hypernetwork predicts for {odd[0]}, and the base at hand has {there.get(odd[0].name)} there"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The safetensors file at a path; its header is read, and no tensor."""
    if not path.is_file():
        raise AdapterFileError(f"there is no hypernetwork {path}: check the path")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{path} is not a whole safetensors file ({error}): train it again") from error


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with _opened(path) as file:
        return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """No value may be nan; only the limits of a network without a start are infinite."""
    for name, tensor in tensors.items():
        if torch.isnan(tensor).any() or (torch.isinf(tensor).any() and not name.startswith(("limit", "text_far"))):
            raise AdapterFileError(f"the hypernetwork {path} has values in {name} that are not finite: train it again")
