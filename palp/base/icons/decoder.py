"""Training the decoder of the embedded base's autoencoder; its encoder, and so the latents, stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from palp.base.icons.checkpoint import autocast, channels_last, follow, load_training, save_training
from palp.base.icons.codec import IDENTITY, decode, patch_latents, patch_matrix, scaling_factor
from palp.base.icons.dataset import to_tensor
from palp.base.icons.inverse import set_parameters
from palp.errors import NonFiniteLossError


@dataclass(frozen=True)
class DecoderSettings:
    """How the decoder is trained."""

    pictures: int = 40_000  # seen in all
    batch: int = 16  # pictures a step
    learning_rate: float = 3e-4  # peak, AdamW
    caution: float = 0.03  # factor on it for weights that were set to exact values
    warmup: int = 1_000  # pictures until the peak
    latent_noise: float = 0.03  # deviation of noise on the latents, as generated ones are not exact
    ema_pictures: float = 4_000.0  # horizon of the weights' moving average
    seed: int = 0


def reconstruction_loss(rebuilt: Float[Tensor, "n c h w"], pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Squared error and a tenth of the absolute error, which keeps edges crisp."""
    error = rebuilt.float() - pictures
    return (error**2 + 0.1 * error.abs()).mean(dim=(1, 2, 3))


class DecoderTraining:
    """A decoder in training with its moving average; everything resumes from one file."""

    def __init__(
        self,
        vae: AutoencoderTiny,
        pictures: NDArray[np.uint8],
        settings: DecoderSettings,
        device: torch.device,
    ) -> None:
        self.settings, self.pictures, self.device = settings, pictures, device
        self.amplitude = 1 / scaling_factor(vae)
        self.encoder = patch_matrix(vae)
        self.model = channels_last(vae.decoder.to(device))
        self.model.layers[IDENTITY].requires_grad_(False)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self._groups(vae),
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self.step = 0

    def _groups(self, vae: AutoencoderTiny) -> list[dict[str, Any]]:
        """Spare weights, which learn quickly, and exact ones, which must not be blown away."""
        exact = {id(parameter): parameter for parameter in set_parameters(vae)}
        spare = [parameter for parameter in self.model.parameters() if id(parameter) not in exact]
        return [{"params": spare, "factor": 1.0}, {"params": list(exact.values()), "factor": self.settings.caution}]

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
        pictures = to_tensor(self.pictures[np.sort(rng.integers(0, len(self.pictures), cfg.batch))])
        latents = patch_latents(pictures, self.encoder)
        latents = latents + cfg.latent_noise * torch.randn(latents.shape, generator=generator)
        latents = (latents * self.amplitude).to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            loss = reconstruction_loss(decode(self.model, latents), pictures.to(self.device)).mean()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self.step, 0)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * group["factor"] * self.rate(self.seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.model, min(cfg.ema_pictures, 0.1 * self.seen) / cfg.batch)
        return float(loss.detach())

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
