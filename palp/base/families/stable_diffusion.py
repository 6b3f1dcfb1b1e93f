"""Stable Diffusion 1.x and 2.x: one text encoder, its last states. The two differ in configuration only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from palp.adapter import Site
from palp.base.families.unet import conditions, unet_sites
from palp.base.text import Placeholders, TextShape, TextState
from palp.base.tokens import PromptEncoder


class StableDiffusion:
    """SD 1.x and 2.x. The denoiser reads the normalised last states of `text_encoder`."""

    name = "sd"
    pipeline_class = "StableDiffusionPipeline"

    @classmethod
    def match(cls, parts: Mapping[str, Any]) -> StableDiffusion | None:
        """A UNet and one text encoder."""
        known = "unet" in parts and "text_encoder" in parts and "text_encoder_2" not in parts
        return cls() if known else None

    def text_shape(self, encoders: Mapping[str, PromptEncoder]) -> TextShape:
        """Tokens and width of the encoder."""
        encoder = encoders["text_encoder"]
        return TextShape(encoder.tokenizer.model_max_length, encoder.model.config.hidden_size, None)

    def encode(
        self,
        encoders: Mapping[str, PromptEncoder],
        prompts: Sequence[str],
        placeholders: Sequence[Placeholders],
    ) -> TextState:
        """Last hidden states."""
        encoder = encoders["text_encoder"]
        output = encoder.encode(prompts, placeholders, hidden_states=False)
        return TextState(output.last_hidden_state.to(encoder.model.dtype))

    def denoise(
        self,
        denoiser: nn.Module,
        x_t: Float[Tensor, "batch c h w"],
        t: Int[Tensor, " batch"],
        text: TextState,
        pixels_per_latent: int,
    ) -> Float[Tensor, "batch c h w"]:
        """The UNet at x_t, t and the prompts."""
        output: Tensor = denoiser(x_t, t, **conditions(text), return_dict=False)[0]
        return output

    def sites(self, denoiser: nn.Module, which: str) -> tuple[Site, ...]:
        """See `palp.base.families.unet.SITES`."""
        return unet_sites(denoiser, which)
