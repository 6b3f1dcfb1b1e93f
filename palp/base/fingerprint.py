"""Which denoiser is this? A name for weights, so that what belongs to them knows them again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

SAMPLED_ELEMENTS = 16_384
"""At most this many elements a tensor are read; SD 1.x then takes about a second."""


def fingerprint(denoiser: Any) -> str:
    """First half of the sha256 over the denoiser's configuration and weights, 32 hex digits.

    The configuration goes in as sorted JSON without keys that start with an underscore (versions, paths).
    Every tensor goes in, by sorted name, as name, shape and the bfloat16 bytes of up to `SAMPLED_ELEMENTS`
    elements at an even stride. Float32 and bfloat16 copies of the same weights agree, and so does a float16
    file loaded as either; float16 made from float32 rounds first and may differ, so weights are hashed before
    a cast to float16.
    """
    config = {key: value for key, value in denoiser.config.items() if not key.startswith("_")}
    return _hashed(json.dumps(config, sort_keys=True, default=str), denoiser)


def weights_fingerprint(module: nn.Module) -> str:
    """The same over the weights alone."""
    return _hashed("", module)


def _hashed(text: str, module: Any) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_sample(tensor).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    stride = max(1, -(-flat.numel() // SAMPLED_ELEMENTS))
    return flat[::stride].to(torch.bfloat16).cpu().contiguous()
