"""Training the embedded base's denoiser and text encoder on cached latents."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from palp.base.icons.architecture import build_scheduler, build_text_encoder, build_unet
from palp.base.icons.checkpoint import autocast, channels_last, follow, load_training, save_training
from palp.base.icons.names import Names
from palp.base.icons.optimizer import MuonAdamW
from palp.base.schedule import NoiseSchedule
from palp.base.tokens import embeddings_replaced
from palp.errors import InputError, NonFiniteLossError


@dataclass(frozen=True)
class DenoiserSettings:
    """How the denoiser is trained."""

    pictures: int = 200_000  # seen in all
    batch: int = 128  # pictures a step
    learning_rate: float = 1.8e-3  # peak
    warmup: int = 4_000  # pictures until the peak
    decay: float = 0.35  # share of the training, at its end, in which the rate falls to nothing
    noisy: float = 2.0  # times are drawn as u ** (1 / noisy) of the way to noise: shape is decided there
    drop_caption: float = 0.1  # probability of training without the caption
    foreground: float = 4.0  # extra weight of cells that the subject covers
    coarse: float = 1.2  # exponent of a channel's deviation in its weight: coarse channels, of shape, count most
    ema_pictures: float = 16_000.0  # horizon of the weights' moving average, at most a tenth of what was seen
    seed: int = 0


@dataclass(frozen=True)
class LatentSet:
    """Cached latents `[n, 64, 8, 8]`, foreground `[n, 8, 8]`, token ids `[n, paraphrases, 32]`, no caption `[32]`."""

    latents: Tensor
    cover: Tensor
    tokens: Tensor
    no_caption: Tensor

    def to(self, device: torch.device) -> LatentSet:
        """All of it on a device."""
        return LatentSet(*(tensor.to(device) for tensor in (self.latents, self.cover, self.tokens, self.no_caption)))


def denoising_loss(
    model: nn.Module,
    schedule: NoiseSchedule,
    x0: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch c h w"],
    t: Int[Tensor, " batch"],
    hidden: Float[Tensor, "batch tokens dim"],
    weight: Float[Tensor, "batch c h w"],
) -> Float[Tensor, " batch"]:
    """The squared error of v from predicted x0, cell by cell weighted: one number a picture.

    All timesteps weigh the same. Min-SNR weights would all but silence the noisiest third, in which a caption decides
    what a picture shows: with 64 channels a cell, anything is visible through moderate noise.
    """
    output = model(schedule.add_noise(x0, noise, t), t, hidden).sample.float()
    error: Tensor = (weight * (output - schedule.target(x0, noise, t)) ** 2).mean(dim=(1, 2, 3))
    return schedule.loss_weight(t) * error


class DenoiserTraining:
    """Denoiser, text encoder and names in training, with moving averages; everything resumes from one file."""

    def __init__(
        self, tokenizer: CLIPTokenizer, data: LatentSet, settings: DenoiserSettings, device: torch.device
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.data, self.device = settings, data.to(device), device
        self.tokenizer = tokenizer
        unet, text_encoder = build_unet(), build_text_encoder(tokenizer)
        names = Names(text_encoder.config.hidden_size)
        self.model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "names": names})
        self._start_names(self.model)
        channels_last(self.model.to(device))
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.schedule = NoiseSchedule.from_config(build_scheduler().config, device)
        self.optimizer = MuonAdamW(self.model, settings.learning_rate)
        spread = data.latents[:1000].float().std(dim=(0, 2, 3)) ** settings.coarse
        self.channel_weight = (spread / spread.mean()).to(device)[:, None, None]
        self.step = 0

    @property
    def seen(self) -> int:
        """Pictures trained on so far."""
        return self.step * self.settings.batch

    def begin_from(self, folder: Path) -> None:
        """Start from a finished pipeline's weights, read from its folder, in the place of random ones.

        Raises:
            InputError: they are of another shape.
        """
        unet: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(folder / "unet")
        text_encoder: CLIPTextModel = CLIPTextModel.from_pretrained(folder / "text_encoder")
        for part in (self.model, self.average):
            try:
                part["unet"].load_state_dict(unet.state_dict())
                part["text_encoder"].load_state_dict(text_encoder.state_dict())
                self._start_names(part)
            except RuntimeError as error:
                raise InputError(
                    f"the weights in {folder} are of another shape than what is trained now: leave --start out"
                ) from error

    def run(self) -> Iterator[float]:
        """Train to the end, yielding each step's mean loss."""
        while self.seen < self.settings.pictures:
            yield self._step()

    def _step(self) -> float:
        cfg, n = self.settings, self.settings.batch
        rng = np.random.default_rng((cfg.seed, self.step))
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        index = torch.from_numpy(rng.integers(0, len(self.data.latents), n)).to(self.device)
        paraphrase = torch.from_numpy(rng.integers(0, self.data.tokens.shape[1], n)).to(self.device)
        tokens = self.data.tokens[index, paraphrase].long()
        tokens[torch.from_numpy(rng.random(n) < cfg.drop_caption).to(self.device)] = self.data.no_caption.long()
        x0 = self.data.latents[index].float().contiguous(memory_format=torch.channels_last)
        noise = torch.randn(x0.shape, generator=generator, device=self.device).to(memory_format=torch.channels_last)
        t = self._times(torch.rand(n, generator=generator, device=self.device))
        cover = 1 + cfg.foreground * self.data.cover[index].float()
        weight = (cover / cover.mean())[:, None] * self.channel_weight
        with autocast(self.device):
            loss = denoising_loss(self.model["unet"], self.schedule, x0, noise, t, self._hidden(tokens), weight).mean()
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self.step, 0)
        self._update(loss)
        return float(loss.detach())

    def _hidden(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """Text states of token ids, those of names too."""
        encoder, names = cast(CLIPTextModel, self.model["text_encoder"]), cast(Names, self.model["names"])
        batch = names.looked_up(tokens, len(self.tokenizer), int(self.tokenizer.bos_token_id))
        with embeddings_replaced(cast(nn.Embedding, encoder.get_input_embeddings()), batch):
            hidden: Tensor = encoder(batch.ids).last_hidden_state
        return hidden

    def _start_names(self, part: nn.ModuleDict) -> None:
        words = cast(CLIPTextModel, part["text_encoder"]).get_input_embeddings()
        cast(Names, part["names"]).start(self.tokenizer, cast(nn.Embedding, words))

    def _times(self, uniform: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        steps = len(self.schedule.alphas_cumprod)
        return (steps * uniform ** (1 / self.settings.noisy)).long().clamp(max=steps - 1)

    def _update(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self.rate(self.seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.model, min(self.settings.ema_pictures, 0.1 * self.seen) / self.settings.batch)

    def rate(self, seen: int) -> float:
        """Share of the peak learning rate after `seen` pictures: warm-up, plateau, linear decay."""
        left = (self.settings.pictures - seen) / (self.settings.decay * self.settings.pictures)
        return max(min(1.0, (seen + 1) / self.settings.warmup, left), 0.0)

    def save(self, path: Path) -> None:
        """Write everything that resuming needs as one safetensors file."""
        save_training(path, self.step, self.model, self.average, self.optimizer)

    def load(self, path: Path) -> None:
        """Continue from a file that `save` wrote."""
        self.step = load_training(path, self.model, self.average, self.optimizer)
