"""A predicted adapter as the files that other programs read: diffusers, kohya's scripts, ComfyUI.

kohya and ComfyUI share one layout: `lora_unet_<layer>.lora_down.weight`, `.lora_up.weight` and `.alpha`, the layer's
dots as underscores. For SDXL kohya's scripts name the blocks as the original checkpoint does; ComfyUI takes
diffusers' names for every base.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors.torch import save as serialize
from torch import Tensor

from palp.adapter import Adapter
from palp.atomic import atomic_write
from palp.errors import InputError

__all__ = ["LoraFormat", "lora_key", "save_lora"]

LoraFormat: TypeAlias = Literal["diffusers", "kohya", "comfyui"]
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)|mid_block\.attentions\.0\.(.+)")
SDXL_LAYERS = 2  # residual layers of a block on the way down; one more on the way up
ARCHITECTURES = {"sd": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}


def save_lora(adapter: Adapter, path: Path, layout: LoraFormat) -> None:
    """Write an adapter, atomically.

    Args:
        layout: "diffusers" is our own file, which diffusers reads as it is.

    Raises:
        InputError: the adapter has learned words, which only our own file can hold.
        AdapterFileError: a value is not finite.
        OutputError: it could not be written.
    """
    if layout == "diffusers":
        adapter.save(path)
        return
    if adapter.placeholders:
        raise InputError(f"a {layout} file cannot hold the word {min(adapter.placeholders)}: save it for diffusers")
    tensors = _tensors(adapter, layout)
    content = serialize(tensors, metadata=_metadata(adapter, tensors))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def lora_key(site: str, family: str, layout: LoraFormat) -> str:
    """The layer's name in a kohya or ComfyUI file.

    Args:
        family: what the base's fingerprint begins with: "sd", "sdxl", "icons".
    """
    name = _original(site) if family == "sdxl" and layout == "kohya" else site
    return "lora_unet_" + name.replace(".", "_")


def _original(site: str) -> str:
    """SDXL's own name of a diffusers layer: input_blocks.4.1.…, middle_block.1.…, output_blocks.0.1.…"""
    found = BLOCK.fullmatch(site)
    if found is None:
        raise InputError(f"SDXL has no layer {site} that a kohya file could name: save it for diffusers or comfyui")
    way, block, layer, rest, middle = found.groups()
    if middle is not None:
        return f"middle_block.1.{middle}"
    if way == "down":
        return f"input_blocks.{int(block) * (SDXL_LAYERS + 1) + 1 + int(layer)}.1.{rest}"
    return f"output_blocks.{int(block) * (SDXL_LAYERS + 1) + int(layer)}.1.{rest}"


def _tensors(adapter: Adapter, layout: LoraFormat) -> dict[str, Tensor]:
    spec, family = adapter.spec, adapter.spec.base.split(":")[0]
    tensors = {}
    for site in spec.sites:
        key = lora_key(site.name, family, layout)
        tensors[f"{key}.lora_down.weight"] = adapter.down[site.name].detach().cpu().contiguous()
        tensors[f"{key}.lora_up.weight"] = adapter.up[site.name].detach().cpu().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(spec.alpha, dtype=spec.torch_dtype)
    return tensors


def _metadata(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What those programs show and check; `sshs_model_hash` is over the tensors alone, without a header."""
    spec, family = adapter.spec, adapter.spec.base.split(":")[0]
    digest = hashlib.sha256(serialize(dict(tensors))).hexdigest()
    title = adapter.metadata.get("prompt", "prompt adapter")
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(spec.rank),
        "ss_network_alpha": str(spec.alpha),
        "ss_base_model_version": "sdxl_base_v1-0" if family == "sdxl" else family,
        "ss_output_name": title,
        "sshs_model_hash": digest,
        "sshs_legacy_hash": digest[:8],
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES.get(family, family)}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "palp.base": spec.base,
    }
