"""Stable Diffusion XL: two text encoders, a pooled embedding and picture sizes as extra conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palp.adapter import Site
from palp.base.families.unet import conditions, unet_sites
from palp.base.text import Placeholders, TextShape, TextState
from palp.base.tokens import PromptEncoder

ABSENT = [None, None]
"""How `model_index.json` says that a part is left out."""


@dataclass(frozen=True)
class StableDiffusionXL:
    """SDXL. The denoiser reads the penultimate states of both encoders, the pooled embedding of the second
    one and the picture's size, crop and target size.

    Arguments:
        empty_is_zero: the empty prompt is all zeros, as the published base was trained.
    """

    empty_is_zero: bool

    name = "sdxl"
    pipeline_class = "StableDiffusionXLPipeline"

    @classmethod
    def match(cls, parts: Mapping[str, Any]) -> StableDiffusionXL | None:
        """A UNet and two text encoders (the refiner has only the second)."""
        if any(parts.get(part, ABSENT) == ABSENT for part in ("unet", "text_encoder", "text_encoder_2")):
            return None
        return cls(empty_is_zero=bool(parts.get("force_zeros_for_empty_prompt", True)))

    def text_shape(self, encoders: Mapping[str, PromptEncoder]) -> TextShape:
        """Tokens, summed width of both encoders, width of the second one's projection."""
        first, second = encoders["text_encoder"], encoders["text_encoder_2"]
        hidden = first.model.config.hidden_size + second.model.config.hidden_size
        return TextShape(first.tokenizer.model_max_length, hidden, second.model.config.projection_dim)

    def encode(
        self,
        encoders: Mapping[str, PromptEncoder],
        prompts: Sequence[str],
        placeholders: Sequence[Placeholders],
    ) -> TextState:
        """Penultimate hidden states side by side, and the projected state at the end token of encoder 2."""
        first, second = encoders["text_encoder"], encoders["text_encoder_2"]
        outputs = [encoder.encode(prompts, placeholders, hidden_states=True) for encoder in (first, second)]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).to(second.model.dtype)
        pooled = outputs[1].text_embeds.to(second.model.dtype)
        if not self.empty_is_zero:
            return TextState(hidden, pooled)
        kept = torch.tensor([prompt != "" for prompt in prompts], dtype=hidden.dtype, device=hidden.device)
        return TextState(hidden * kept[:, None, None], pooled * kept[:, None])

    def denoise(
        self,
        denoiser: nn.Module,
        x_t: Float[Tensor, "batch c h w"],
        t: Int[Tensor, " batch"],
        text: TextState,
        pixels_per_latent: int,
    ) -> Float[Tensor, "batch c h w"]:
        """The UNet at x_t, t and the prompts, for an uncropped picture of the latents' size."""
        size = [side * pixels_per_latent for side in x_t.shape[-2:]]
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=x_t.dtype, device=x_t.device)
        added = {"text_embeds": text.pooled, "time_ids": time_ids.expand(len(x_t), -1)}
        output: Tensor = denoiser(x_t, t, **conditions(text), added_cond_kwargs=added, return_dict=False)[0]
        return output

    def sites(self, denoiser: nn.Module, which: str) -> tuple[Site, ...]:
        """See `palp.base.families.unet.SITES`."""
        return unet_sites(denoiser, which)
