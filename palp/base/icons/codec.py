"""The base's autoencoder: an exact linear encoder (principal components of 16 x 16 patches) and a trained decoder.

The latents are fixed before any gradient step: each of the 8 x 8 cells holds the leading principal components of its
patch, so the denoiser can train at once and the decoder can improve beside it without moving the latents. The encoder
is a plain `AutoencoderTiny` encoder without blocks, whose convolutions are set, not learned: each strided convolution
gathers 2 x 2 cells, and projects on principal components where they would not fit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor, nn

from palp.atomic import write_json

CHANNELS = 64  # of a latent, and of every encoder layer
LATENT_SIDE = 8
PATCH = 16  # pixels of a latent cell
WHITENING = 0.7  # 0 keeps the components' own variances, 1 makes them all equal
AMPLITUDE = 0.1  # standard deviation of a latent inside the autoencoder, whose decoder squashes beyond 3
DECODER_CHANNELS = 72
DECODER_BLOCKS = (6, 9, 4, 1, 1)  # of each resolution, 8 to 128; what the inverse leaves over is trained

Array = NDArray[np.float64]


def build_autoencoder() -> AutoencoderTiny:
    """An untrained autoencoder: 128 x 128 pictures, 8 x 8 x 64 latents, unit variance after `scaling_factor`."""
    vae: AutoencoderTiny = cast(Any, AutoencoderTiny)(
        encoder_block_out_channels=(CHANNELS,) * 5,
        decoder_block_out_channels=(DECODER_CHANNELS,) * 5,
        num_encoder_blocks=(0,) * 5,
        num_decoder_blocks=DECODER_BLOCKS,
        latent_channels=CHANNELS,
        scaling_factor=1 / AMPLITUDE,
    )
    return vae


def scaling_factor(vae: AutoencoderTiny) -> float:
    """What latents are multiplied with for the denoiser."""
    return float(cast(Any, vae.config).scaling_factor)


def save_autoencoder(vae: AutoencoderTiny, folder: Path) -> None:
    """Write the autoencoder in diffusers' format; `folder` appears when all of it is written."""
    partial = folder.with_name(f".tmp-{folder.name}")
    vae.save_pretrained(partial)
    tidy_config(partial)
    partial.replace(folder)


def tidy_config(folder: Path) -> None:
    """Leave out of a saved `AutoencoderTiny`'s configuration what its constructor derives, and warns of if given."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["block_out_channels"]
    config.pop("_name_or_path", None)  # where it lay on the machine that trained it
    write_json(path, config)


def set_encoder(vae: AutoencoderTiny, pictures: NDArray[np.uint8]) -> None:
    """Fit the linear encoder to pictures `[n, 128, 128, 3]` (a few thousand suffice), in place."""
    mirrored = np.concatenate([pictures[:, ::v, ::h] for v in (1, -1) for h in (1, -1)])
    cells = mirrored.astype(np.float64) / 255  # the autoencoder's own range, [n, side, side, channels]
    convolutions = [layer for layer in vae.encoder.layers if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    first, *strided, last = convolutions
    _set_taps(first, np.eye(3)[:, None, None, :], corner=1)
    for layer in strided:
        blocks = _gather(cells)
        basis = _components(blocks)[0] if blocks.shape[-1] > CHANNELS else np.eye(blocks.shape[-1])
        _set_taps(layer, basis.reshape(len(basis), 2, 2, -1), corner=1)
        cells = blocks @ basis.T
    basis, deviations = _components(cells)
    scale = AMPLITUDE * deviations**-WHITENING
    scale *= AMPLITUDE / np.sqrt(((scale * deviations) ** 2).mean())
    rows = basis * scale[:, None]
    _set_taps(last, rows[:, None, None, :], corner=1)
    assert last.bias is not None
    last.bias.data.copy_(torch.from_numpy(-rows @ cells.reshape(-1, cells.shape[-1]).mean(axis=0)))


def _gather(cells: Array) -> Array:
    """Join 2 x 2 neighbours: `[n, s, s, c]` to `[n, s/2, s/2, 4c]`, ordered (row, column, channel)."""
    n, side, _, c = cells.shape
    return (
        cells.reshape(n, side // 2, 2, side // 2, 2, c)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(n, side // 2, side // 2, 4 * c)
    )


def _components(cells: Array) -> tuple[Array, Array]:
    """The leading principal directions as rows `[<=CHANNELS, c]`, and the deviations along them."""
    values, vectors = np.linalg.eigh(np.cov(cells.reshape(-1, cells.shape[-1]).T))
    order = np.argsort(values)[::-1][:CHANNELS]
    return vectors[:, order].T, np.sqrt(np.maximum(values[order], 1e-12))


def _set_taps(layer: nn.Conv2d, taps: Array, corner: int) -> None:
    """Put `[out, h, w, in]` into a 3 x 3 kernel with its upper left tap at (corner, corner)."""
    out, height, width, fan_in = taps.shape
    block = torch.from_numpy(np.ascontiguousarray(taps.transpose(0, 3, 1, 2)))
    layer.weight.data[:out, :fan_in, corner : corner + height, corner : corner + width] = block.to(layer.weight)


@torch.no_grad()
def patch_matrix(vae: AutoencoderTiny) -> tuple[Tensor, Tensor]:
    """The encoder as one matrix on 16 x 16 patches of pictures in [-1, 1]: weights `[768, 64]`, bias `[64]`.

    Read off with unit impulses; a patch never sees its neighbours. Forty times faster than the convolutions.
    """
    cells = LATENT_SIDE**2
    patch = PATCH * PATCH * 3
    impulses = torch.eye(patch).reshape(patch // cells, cells, patch)
    bias = encode(vae, torch.zeros(1, 3, *(2 * [LATENT_SIDE * PATCH])))[0, :, 0, 0]
    latents = encode(vae, from_patches(impulses)).flatten(2).transpose(1, 2)
    return latents.reshape(patch, CHANNELS) - bias, bias


def to_patches(pictures: Tensor, side: int = LATENT_SIDE) -> Tensor:
    """`[n, 3, 128, 128]` to `[n, side², pixels]`, one row for each of `side` x `side` cells: by default a latent's."""
    n, pixels = len(pictures), pictures.shape[-1] // side
    split = pictures.reshape(n, 3, side, pixels, side, pixels)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(n, side**2, -1)


def from_patches(patches: Tensor) -> Tensor:
    """The inverse of `to_patches`."""
    n = len(patches)
    split = patches.reshape(n, LATENT_SIDE, LATENT_SIDE, PATCH, PATCH, 3)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(n, 3, LATENT_SIDE * PATCH, LATENT_SIDE * PATCH)


def patch_latents(pictures: Tensor, encoder: tuple[Tensor, Tensor]) -> Tensor:
    """Scaled latents `[n, 64, 8, 8]` of pictures in [-1, 1], by `patch_matrix`."""
    weights, bias = encoder
    cells = to_patches(pictures) @ weights + bias
    return cells.transpose(1, 2).reshape(len(pictures), CHANNELS, LATENT_SIDE, LATENT_SIDE)


@torch.no_grad()
def encode(vae: AutoencoderTiny, pictures: Tensor) -> Tensor:
    """Pictures `[n, 3, 128, 128]` in [-1, 1] to scaled latents `[n, 64, 8, 8]`."""
    latents: Tensor = vae.encode(pictures).latents * scaling_factor(vae)
    return latents
