"""Training the decoder of the embedded base's autoencoder; its encoder, and so the latents, stay as they are.

Only blocks that the exact inverse has no use for are trained: what they add is what principal components left out.
They stand before the last exact stages, which are one linear map a cell; so training needs no convolution at full
resolution. It runs in float32, as decoding does: in bfloat16 a decoder learns to undo the rounding of exact stages.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from palp.base.icons.checkpoint import channels_last, follow, load_training, save_training
from palp.base.icons.codec import CHANNELS, LATENT_SIDE, patch_latents, patch_matrix, scaling_factor, to_patches
from palp.base.icons.dataset import to_tensor
from palp.base.icons.inverse import spare_blocks
from palp.base.last_stages import LastStages, ShortDecoder, stages_of
from palp.errors import NonFiniteLossError

PROBE = 0.1  # of a coefficient's reach: a change within which the last stages are linear


@dataclass(frozen=True)
class DecoderSettings:
    """How the decoder is trained."""

    pictures: int = 80_000  # seen in all
    batch: int = 16  # pictures a step
    learning_rate: float = 3e-4  # peak, AdamW
    warmup: int = 1_000  # pictures until the peak
    latent_noise: float = 0.02  # largest deviation of noise on a picture's latents, as generated ones are not exact
    redrawn: float = 0.0625  # share of pictures whose latents the denoiser has drawn again, where there are such
    ema_pictures: float = 4_000.0  # horizon of the weights' moving average
    seed: int = 0


def reconstruction_loss(rebuilt: Float[Tensor, "n ..."], pictures: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Squared error and a fiftieth of the absolute error, which keeps edges crisp."""
    error = rebuilt.float() - pictures
    return (error**2 + 0.02 * error.abs()).flatten(1).mean(dim=1)


@torch.no_grad()
def last_stages(vae: AutoencoderTiny) -> LastStages:
    """The stages after the last trained block, read off: each latent cell shows what another coefficient does."""
    layers = copy.deepcopy(vae.decoder).cpu().double().get_submodule("layers")
    assert isinstance(layers, nn.Sequential)
    last = spare_blocks(vae)[-1]
    count = 1 + next(index for index, layer in enumerate(vae.decoder.layers) if layer is last)
    features = layers[:count](torch.zeros(1, CHANNELS, LATENT_SIDE, LATENT_SIDE).double())
    side = features.shape[-1] // LATENT_SIDE
    changed = features.clone()
    for channel in range(CHANNELS):
        row, column = side * (channel // LATENT_SIDE), side * (channel % LATENT_SIDE)
        changed[:, channel, row : row + side, column : column + side] += PROBE

    def shown(of: Tensor) -> Tensor:
        """`[latent cells, places, pixels]`."""
        cells = to_patches(layers[count:](of) * 2 - 1, LATENT_SIDE * side)
        split = cells.view(LATENT_SIDE, side, LATENT_SIDE, side, -1).transpose(1, 2)
        return split.reshape(LATENT_SIDE**2, side**2, -1)

    before = shown(features)
    maps = ((shown(changed) - before) / PROBE).transpose(0, 1).contiguous()
    coefficients = features[0, :CHANNELS, :side, :side].flatten(1).T  # of the first latent cell
    offset = before[0] - torch.einsum("lc,lcp->lp", coefficients, maps)
    return LastStages(count, maps.float(), offset.float(), stages_of(vae.decoder, count))


class DecoderTraining:
    """A decoder in training with its moving average; everything resumes from one file.

    Arguments:
        vae: with its encoder; its decoder is trained in place.
        pictures: `[n, 128, 128, 3]`.
        settings: how.
        device: to train on.
        redrawn: latents of the first of the pictures as the denoiser draws them (`palp.base.icons.redraw`).
    """

    def __init__(
        self,
        vae: AutoencoderTiny,
        pictures: NDArray[np.uint8],
        settings: DecoderSettings,
        device: torch.device,
        redrawn: Float[Tensor, "m channels side side"] | None = None,
    ) -> None:
        self.settings, self.pictures, self.device, self.redrawn = settings, pictures, device, redrawn
        self.amplitude = 1 / scaling_factor(vae)
        self.encoder = patch_matrix(vae)
        self.model = channels_last(vae.decoder.to(device)).requires_grad_(False)
        self.short = ShortDecoder(self.model, last_stages(vae)).to(device)
        self._trained = spare_blocks(vae)
        for block in self._trained:
            block.requires_grad_(True)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            [parameter for block in self._trained for parameter in block.parameters()],
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self.step = 0

    @property
    def seen(self) -> int:
        """Pictures trained on so far."""
        return self.step * self.settings.batch

    def run(self) -> Iterator[float]:
        """Train to the end, yielding each step's mean loss."""
        while self.seen < self.settings.pictures:
            yield self._step()

    def _step(self) -> float:
        cfg = self.settings
        rng = np.random.default_rng((cfg.seed, self.step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pictures, latents = self._draw(rng, generator)
        rebuilt = self.short((latents * self.amplitude).to(self.device))
        loss = reconstruction_loss(rebuilt, pictures.to(self.device)).mean()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self.step, 0)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * self.rate(self.seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._keep_marks()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.model, min(cfg.ema_pictures, 0.1 * self.seen) / cfg.batch)
        return float(loss.detach())

    def _draw(self, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures and latents of a step: their own with noise, and after these some as the denoiser draws them."""
        cfg = self.settings
        again = 0 if self.redrawn is None else round(cfg.redrawn * cfg.batch)
        chosen = np.sort(rng.integers(0, len(self.pictures), cfg.batch - again))
        pictures = to_tensor(self.pictures[chosen])
        latents = patch_latents(pictures, self.encoder)
        deviation = cfg.latent_noise * torch.rand(len(latents), 1, 1, 1, generator=generator)
        latents = latents + deviation * torch.randn(latents.shape, generator=generator)
        if self.redrawn is None:
            return pictures, latents
        chosen = np.sort(rng.integers(0, len(self.redrawn), again))
        return (
            torch.cat([pictures, to_tensor(self.pictures[chosen])]),
            torch.cat([latents, self.redrawn[torch.from_numpy(chosen)]]),
        )

    def _keep_marks(self) -> None:
        """No gradient into the channels beside the coefficients, which tell exact stages which side a cell is on."""
        for block in self._trained:
            for parameter in block.conv[-1].parameters():
                if parameter.grad is not None:
                    parameter.grad[CHANNELS:] = 0

    def rate(self, seen: int) -> float:
        """Share of the peak learning rate: warm-up, then half a cosine."""
        cosine = 0.5 * (1 + float(np.cos(np.pi * min(seen / self.settings.pictures, 1.0))))
        return min(1.0, (seen + 1) / self.settings.warmup) * cosine

    def save(self, path: Path) -> None:
        """Write everything that resuming needs."""
        save_training(path, self.step, self.model, self.average, self.optimizer)

    def load(self, path: Path) -> None:
        """Continue from a file that `save` wrote."""
        self.step = load_training(path, self.model, self.average, self.optimizer)
