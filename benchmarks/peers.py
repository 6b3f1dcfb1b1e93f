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

from benchmarks.setting import BATCH, CLASS_WORD, RANK, subject
from palp.base import Base, TextState

LEARNING_RATE = 1e-4


def with_peft(base: Base, own_attention: bool) -> Base:
    """The base with a copy of its denoiser that PEFT adapts, at the sites that our adapters have.

    Arguments:
        own_attention: keep our attention; else diffusers' own.
    """
    unet = copy.deepcopy(base.unet)
    if not own_attention:
        unet.set_attn_processor(AttnProcessor2_0())
    names = [site.name for site in base.sites()]
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
