"""The last stages of a small decoder as what they are: one linear map a cell, instead of convolutions of all pixels.

The embedded base's decoder ends in stages that were set, not learned (`palp.base.icons.inverse`), and at full
resolution these are most of its work. A file beside the weights holds them as maps; diffusers does not read it, and
decodes the same pictures by the convolutions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from palp.atomic import atomic_write
from palp.base.fingerprint import weights_fingerprint

__all__ = ["FILE", "LastStages", "ShortDecoder", "shorten", "stages_of"]

FILE = "last_stages.safetensors"


class LastStages(nn.Module):
    """Pixels of a cell = offset + map · its features; a latent has side x side cells, each place with its own map.

    Args:
        layers: how many layers of the decoder come before.
        maps: `[side · side, channels, 3 · pixels · pixels]`, for pictures in [-1, 1].
        offset: `[side · side, 3 · pixels · pixels]`.
        stages: fingerprint of the layers that this stands for.
    """

    maps: Tensor
    offset: Tensor

    def __init__(
        self, layers: int, maps: Float[Tensor, "places c p"], offset: Float[Tensor, "places p"], stages: str
    ) -> None:
        super().__init__()
        self.layers, self.stages = layers, stages
        self.side, self.pixels = round(len(maps) ** 0.5), round((maps.shape[-1] / 3) ** 0.5)
        self.register_buffer("maps", maps)
        self.register_buffer("offset", offset)

    @staticmethod
    def read(path: Path) -> LastStages:
        """From a file that `write` wrote."""
        with safe_open(path, "pt") as file:
            about = file.metadata()
            maps, offset = file.get_tensor("maps"), file.get_tensor("offset")
        return LastStages(int(about["layers"]), maps, offset, about["stages"])

    def write(self, path: Path) -> None:
        """As one safetensors file."""
        with atomic_write(path) as partial:
            save_file(dict(self.named_buffers()), partial, {"layers": str(self.layers), "stages": self.stages})

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Pictures in [-1, 1] of what comes before the last stages; channels beyond the maps' are not read."""
        n, _, rows, columns = features.shape
        side, pixels, (places, channels, _) = self.side, self.pixels, self.maps.shape
        down, across = rows // side, columns // side
        cells = features[:, :channels].float().view(n, channels, down, side, across, side).permute(3, 5, 0, 2, 4, 1)
        shown = torch.baddbmm(self.offset[:, None], cells.reshape(places, -1, channels), self.maps)
        split = shown.view(side, side, n, down, across, pixels, pixels, 3).permute(2, 7, 3, 0, 5, 4, 1, 6)
        return split.reshape(n, 3, rows * pixels, columns * pixels)


class ShortDecoder(nn.Module):
    """A `DecoderTiny`, whose layers it shares, with the last stages done as one map a cell."""

    def __init__(self, decoder: nn.Module, last_stages: LastStages) -> None:
        super().__init__()
        self.layers, self.last_stages = _layers(decoder)[: last_stages.layers], last_stages

    def forward(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Pictures in [-1, 1]."""
        inner = (torch.tanh(latents / 3) * 3).contiguous(memory_format=torch.channels_last)
        pictures: Tensor = self.last_stages(self.layers(inner))
        return pictures


def stages_of(decoder: nn.Module, layers: int) -> str:
    """Fingerprint of a decoder's layers from number `layers` on."""
    return weights_fingerprint(_layers(decoder)[layers:])


def shorten(vae: Any, folder: Path) -> None:
    """Let an autoencoder that was loaded from a folder decode by `FILE` there, if it is, and of these very stages."""
    if not (folder / FILE).is_file():
        return
    last_stages = LastStages.read(folder / FILE)
    if stages_of(vae.decoder, last_stages.layers) == last_stages.stages:
        decoder: Any = ShortDecoder(vae.decoder, last_stages)
        vae.decoder = decoder.to(memory_format=torch.channels_last)


def _layers(decoder: nn.Module) -> nn.Sequential:
    layers = decoder.get_submodule("layers")
    assert isinstance(layers, nn.Sequential)
    return layers
