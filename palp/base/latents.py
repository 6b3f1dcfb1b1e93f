"""Pictures to latents and back, for every autoencoder diffusers puts in a text-to-image pipeline."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def pixels_per_latent(vae: Any) -> int:
    """How many pixels one latent covers along a side."""
    if hasattr(vae, "spatial_compression_ratio"):
        return int(vae.spatial_compression_ratio)
    return int(2 ** (len(vae.config.block_out_channels) - 1))


@torch.no_grad()
def encode_images(vae: Any, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
    """(z − shift) · scale with z the mode of the posterior, float32."""
    encoded = vae.encode(images.to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        z = encoded.latent_dist.mode()
    else:
        z = encoded.latents if hasattr(encoded, "latents") else encoded.latent
    scale, shift = _affine(vae)
    latents: Tensor = (z.float() - shift) * scale
    return latents


@torch.no_grad()
def decode_latents(vae: Any, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
    """Pictures in [-1, 1] from latents / scale + shift, clamped, float32."""
    scale, shift = _affine(vae)
    images: Tensor = vae.decode((latents.float() / scale + shift).to(vae.dtype)).sample
    return images.float().clamp(-1, 1)


def _affine(vae: Any) -> tuple[float, float]:
    return float(vae.config.scaling_factor), float(vae.config.get("shift_factor") or 0.0)
