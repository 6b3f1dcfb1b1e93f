"""The adapter's file: one safetensors file, in the layout of diffusers and PEFT.

    unet.<site>.lora_A.weight  [rank in]        unet.<site>.lora_B.weight  [out rank]
    lora_placeholder.[V].te    [vectors dim]    lora_placeholder.[V].te_2  (a second text encoder, SDXL)

diffusers wants "lora" in every key, and reads those that start with "unet." or "text_encoder."; it passes
over the placeholders. alpha is in the header entry `lora_adapter_metadata`, where diffusers looks for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec, Site, check_placeholder
from palp.atomic import atomic_write
from palp.errors import AdapterFileError, PalpError

__all__ = ["FORMAT_VERSION", "export", "parse", "read", "spec_from_json", "write"]

FORMAT_VERSION = 1
Placeholders = dict[str, dict[str, Tensor]]
Parts = tuple[AdapterSpec, dict[str, Tensor], dict[str, Tensor], Placeholders, dict[str, str]]

PLACEHOLDER_KEY = re.compile(r"lora_placeholder\.(\[.+\])\.te(|_\d+)")
TEXT_ENCODER = "text_encoder"
SITE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
OWN_ENTRY = "palp.metadata."
TEXTUAL_INVERSION_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def write(adapter: Adapter, path: Path) -> None:
    """Write an adapter; `Adapter.save` says what is raised."""
    dtype = adapter.spec.torch_dtype
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in _tensors(adapter).items()}
    _check_finite(tensors, path)
    content = _in_order(serialize(tensors, metadata=_header(adapter)))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _in_order(content: bytes) -> bytes:
    """The same file with sorted header entries: safetensors writes them in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def _tensors(adapter: Adapter) -> dict[str, Tensor]:
    tensors = {}
    for site in adapter.spec.sites:
        tensors[f"unet.{site.name}.lora_A.weight"] = adapter.down[site.name]
        tensors[f"unet.{site.name}.lora_B.weight"] = adapter.up[site.name]
    for word, encoders in adapter.placeholders.items():
        for encoder, vectors in encoders.items():
            tensors[f"lora_placeholder.{word}.te{encoder.removeprefix(TEXT_ENCODER)}"] = vectors
    return tensors


def _header(adapter: Adapter) -> dict[str, str]:
    spec = adapter.spec
    peft = {
        "unet.r": spec.rank,
        "unet.lora_alpha": spec.alpha,
        "unet.target_modules": [site.name for site in spec.sites],
    }
    return {
        "format": "pt",
        "palp.version": str(FORMAT_VERSION),
        "palp.base": spec.base,
        "palp.spec": json.dumps(asdict(spec)),
        "lora_adapter_metadata": json.dumps(peft),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{spec.base.split(':')[0]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": adapter.metadata.get("class_word", "subject"),
        "modelspec.trigger_phrase": " ".join(adapter.placeholders),
        **{OWN_ENTRY + key: text for key, text in adapter.metadata.items()},
    }


def read(path: Path) -> Parts:
    """The parts of an `Adapter`, in the order of its arguments; `Adapter.load` says what is raised."""
    return _parts(*_open(path), path)


def parse(content: bytes, name: Path) -> Parts:
    """The same of a file's content, such as a shard's; `name` is for errors."""
    try:
        tensors = deserialize(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise AdapterFileError(f"{name} is not a whole safetensors file ({error}): save it again") from error
    return _parts(header, tensors, name)


def _parts(header: dict[str, str], tensors: dict[str, Tensor], path: Path) -> Parts:
    spec = _spec(header, path)
    words = {key: found for key in tensors if (found := PLACEHOLDER_KEY.fullmatch(key))}
    needed = {f"unet.{site.name}.lora_{side}.weight" for site in spec.sites for side in "AB"}
    for key in sorted(needed ^ (tensors.keys() - words.keys())):
        state = "is missing" if key in needed else "does not belong there"
        raise AdapterFileError(f"{path} is not a whole adapter: {key} {state}; save it again")
    _check_shapes(spec, tensors, path)
    for key, tensor in tensors.items():
        if tensor.dtype != spec.torch_dtype:
            raise AdapterFileError(f"{path} is damaged: {key} is {tensor.dtype}, its header says {spec.dtype}")
    _check_finite(tensors, path)
    down = {site.name: tensors[f"unet.{site.name}.lora_A.weight"] for site in spec.sites}
    up = {site.name: tensors[f"unet.{site.name}.lora_B.weight"] for site in spec.sites}
    placeholders: Placeholders = {}
    for key, found in words.items():
        placeholders.setdefault(found[1], {})[TEXT_ENCODER + found[2]] = tensors[key]
    own = (key for key in header if key.startswith(OWN_ENTRY))
    metadata = {key.removeprefix(OWN_ENTRY): header[key] for key in own}
    return spec, down, up, placeholders, metadata


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise AdapterFileError(f"there is no adapter file {path}: check the path")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
            sentence = f"{path} is a pickle, which could run code: only safetensors files are read"
            raise AdapterFileError(sentence) from error
        raise AdapterFileError(f"{path} is not a whole safetensors file ({error}): save it again") from error


def _spec(header: Mapping[str, str], path: Path) -> AdapterSpec:
    version = header.get("palp.version")
    if version is None:
        raise AdapterFileError(f"{path} was not written by palp: its header has no palp.version")
    if version != str(FORMAT_VERSION):
        raise AdapterFileError(
            f"{path} has format version {version}, and only {FORMAT_VERSION} can be read: update palp-hyper"
        )
    return spec_from_json(header.get("palp.spec", ""), path)


def spec_from_json(text: str, path: Path) -> AdapterSpec:
    """The spec in a header: `json.dumps(asdict(spec))`.

    Raises:
        AdapterFileError: it cannot be read, or names what cannot be a layer; `path` is the file it came from.
    """
    try:
        fields = json.loads(text)
        sites = tuple(
            Site(str(site["name"]), int(site["in_features"]), int(site["out_features"])) for site in fields["sites"]
        )
        numbers = int(fields["rank"]), float(fields["alpha"])
        spec = AdapterSpec(str(fields["base"]), sites, *numbers, dtype=str(fields["dtype"]))
    except (KeyError, TypeError, ValueError, PalpError) as error:
        raise AdapterFileError(f"{path} has a damaged header (palp.spec: {error}): save it again") from error
    if odd := [site.name for site in sites if not SITE_NAME.fullmatch(site.name)]:
        raise AdapterFileError(f"{path} has a damaged header: {odd[0]!r} cannot be the name of a layer")
    return spec


def _check_shapes(spec: AdapterSpec, tensors: Mapping[str, Tensor], path: Path) -> None:
    shapes = {}
    for site in spec.sites:
        shapes[f"unet.{site.name}.lora_A.weight"] = (spec.rank, site.in_features)
        shapes[f"unet.{site.name}.lora_B.weight"] = (site.out_features, spec.rank)
    for key, tensor in tensors.items():
        needed = shapes.get(key)
        if needed is None and (tensor.ndim != 2 or 0 in tensor.shape):
            raise AdapterFileError(f"{path} is damaged: {key} is {tuple(tensor.shape)}, not (vectors, dim)")
        if needed is not None and tensor.shape != needed:
            raise AdapterFileError(f"{path} is damaged: {key} is {tuple(tensor.shape)}, not {needed}")


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterFileError(f"the adapter {path} has values in {key} that are not finite: train it again")


def export(placeholders: Mapping[str, Mapping[str, Tensor]], folder: Path) -> dict[str, Path]:
    """Write the words' own files; `Adapter.export_embeddings` says which."""
    files = {word: folder / f"{check_placeholder(word)[1:-1]}.safetensors" for word in placeholders}
    for word, encoders in placeholders.items():
        names = TEXTUAL_INVERSION_KEYS if len(encoders) > 1 else dict.fromkeys(encoders, word)
        tensors = {names[encoder]: vectors.detach().cpu().contiguous() for encoder, vectors in encoders.items()}
        with atomic_write(files[word]) as temporary:
            temporary.write_bytes(serialize(tensors, metadata={"format": "pt"}))
    return files
