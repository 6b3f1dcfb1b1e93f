"""What others would write: LoRA training with PEFT, as in diffusers' DreamBooth example."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.setting import BATCH, CLASS_WORD, RANK, TARGET, adapter_spec, subject
from palp.base import Base, TextState
from palp.guidance.regional import region
from palp.train import TrainSettings

LEARNING_RATE = 1e-4


def with_peft(base: Base, own_attention: bool) -> Base:
    """The base with a copy of its denoiser that PEFT adapts, at the sites that our adapters have.

    Arguments:
        own_attention: keep our attention; else diffusers' own.
    """
    unet = copy.deepcopy(base.unet)
    if not own_attention:
        unet.set_attn_processor(AttnProcessor2_0())
    names = [site.name for site in adapter_spec(base).sites]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names, init_lora_weights="gaussian"))
    return replace(base, unet=unet)


class DreamBoothLora:
    """One training: AdamW on the pairs of one adapter, the plain denoising loss, gradient norms clipped to one.

    Arguments:
        base: with its PEFT adapter.
        cached: encode pictures and prompt once; else in each step, as the example does by default.
    """

    def __init__(self, base: Base, cached: bool) -> None:
        self.base, self.cached = base, cached
        self.pictures = subject(base).pictures.to(base.device)
        self.noising: Any = DDPMScheduler.from_config(dict(base.scheduler_config))
        self.pairs: list[nn.Parameter] = [p for p in base.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.pairs, lr=LEARNING_RATE, weight_decay=1e-2)
        self.encoded = self.encode()

    @torch.no_grad()
    def encode(self) -> tuple[Tensor, TextState]:
        """Latents of all pictures, and the text state of the instance prompt."""
        return self.base.encode_images(self.pictures), self.base.encode_prompts([f"a photo of sks {CLASS_WORD}"])

    def step(self) -> None:
        """One step on a batch of all pictures."""
        x0, text = self.encoded if self.cached else self.encode()
        noise = torch.randn_like(x0)
        t = torch.randint(len(self.base.schedule), (BATCH,), device=x0.device)
        output = self.base.predict(self.noising.add_noise(x0, noise, t), t, text.repeat(BATCH))
        loss = functional.mse_loss(output, self.base.schedule.target(x0, noise, t))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.pairs, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class PeftRegional:
    """The corpus' recipe for one prompt with PEFT: a frozen subject adapter and a second one that carries the prompt.

    Regional distillation as in `palp.guidance.regional`: the subject's model at y and y_P and the base at y_c and the
    photo prompt, without gradients; then the student, both adapters on, at y. AdamW, gradient norm clipped to one.

    Arguments:
        base: its denoiser is copied.
        settings: rank, alpha, batch, rate and γ of the recipe.
    """

    def __init__(self, base: Base, settings: TrainSettings) -> None:
        unet = copy.deepcopy(base.unet)
        names = [site.name for site in base.sites(settings.sites)]
        for adapter, rank in (("subject", RANK), ("prompt", settings.rank)):
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), adapter)
        self.base, self.settings = replace(base, unet=unet), settings
        latents = base.encode_images(subject(base).pictures.to(base.device))
        self.x0 = latents.repeat(-(-settings.batch // len(latents)), 1, 1, 1)[: settings.batch]
        clean, photo = TARGET.replace("[V]", f"a {CLASS_WORD}"), f"a photo of a {CLASS_WORD}"
        with torch.no_grad():
            self.target, photos = (base.encode_prompts([prompt]).repeat(settings.batch) for prompt in (clean, photo))
        self.both = TextState.cat([self.target, photos])  # of the subject's model y and y_P, of the base y_c and photo
        self.pairs = [p for name, p in unet.named_parameters() if ".prompt." in name]
        self.optimizer = torch.optim.AdamW(self.pairs, lr=settings.lr, weight_decay=settings.weight_decay)

    def step(self) -> None:
        """One step on a batch."""
        noise = torch.randn_like(self.x0)
        t = torch.randint(len(self.base.schedule), (len(self.x0),), device=self.x0.device)
        x_t = self.base.schedule.add_noise(self.x0, noise, t)
        with torch.no_grad():
            wanted = self._teachers(x_t, t)
        self.base.unet.set_adapter(["subject", "prompt"])
        loss = functional.mse_loss(self.base.predict(x_t, t, self.target), wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.pairs, 1.0)
        self.optimizer.step()
        self.base.unet.zero_grad(set_to_none=True)

    def _teachers(self, x_t: Tensor, t: Tensor) -> Tensor:
        both = x_t.repeat(2, 1, 1, 1), t.repeat(2), self.both
        self.base.unet.set_adapter(["subject"])
        own, personal = self.base.predict(*both).chunk(2)
        self.base.unet.disable_adapters()
        clean, photo = self.base.predict(*both).chunk(2)
        self.base.unet.enable_adapters()
        return own + self.settings.gamma * (1 - region(personal - photo)) * (clean - own)
