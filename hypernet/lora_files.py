"""A predicted adapter as the files that other programs read: diffusers, kohya's scripts, ComfyUI.

kohya and ComfyUI share one layout: `lora_unet_<layer>.lora_down.weight`, `.lora_up.weight` and `.alpha`, the layer's
dots as underscores. For SDXL kohya's scripts name the blocks as the original checkpoint does; ComfyUI takes
diffusers' names for every base.
"""

from __future__ import annotations

import hashlib
import re
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
SD2_TEXT = 1024  # width of Stable Diffusion 2's text states; 1.x has 768
VERSIONS = {"sd": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES = {"sd": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}  # 2.x has two
LEGACY_HASH = slice(0x100000, 0x110000)  # the bytes that the older of kohya's two hashes is of


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
    tensors, notes = _tensors(adapter, layout), _notes(adapter)
    trained = {key: text for key, text in notes.items() if key.startswith("ss_")}
    content = serialize(tensors, metadata={**notes, **_hashes(serialize(tensors, metadata=trained))})
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


def _notes(adapter: Adapter) -> dict[str, str]:
    """What those programs show."""
    spec, family = adapter.spec, adapter.spec.base.split(":")[0]
    if family == "sd" and any(site.in_features == SD2_TEXT for site in spec.sites if ".attn2.to_k" in site.name):
        family = "sd2"
    architecture = {"modelspec.architecture": ARCHITECTURES[family]} if family in ARCHITECTURES else {}
    title = adapter.metadata.get("prompt", "prompt adapter")
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(spec.rank),
        "ss_network_alpha": str(spec.alpha),
        "ss_base_model_version": VERSIONS.get(family, family),
        "ss_v2": str(family == "sd2"),
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        **architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "palp.base": spec.base,
    }


def _hashes(content: bytes) -> dict[str, str]:
    """kohya's two hashes of a file that holds the training's notes alone: of its tensors, and the older one."""
    start = 8 + int.from_bytes(content[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(content[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[LEGACY_HASH]).hexdigest()[:8],
    }
