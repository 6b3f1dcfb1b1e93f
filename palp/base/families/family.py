"""What a kind of pipeline must tell us. A DiT or flow-matching family would be another such class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from palp.adapter import Site
from palp.base.text import Placeholders, TextShape, TextState
from palp.base.tokens import PromptEncoder


@runtime_checkable
class Family(Protocol):
    """How a kind of pipeline encodes prompts, is called, and where LoRA goes."""

    name: str
    """Prefix of fingerprints."""
    pipeline_class: str
    """Name of the diffusers pipeline that loads it."""

    @classmethod
    def match(cls, parts: Mapping[str, Any]) -> Family | None:
        """The family of a pipeline with these parts (`model_index.json`), None if it is of another kind."""

    def text_shape(self, encoders: Mapping[str, PromptEncoder]) -> TextShape:
        """Sizes of one encoded prompt."""

    def encode(
        self,
        encoders: Mapping[str, PromptEncoder],
        prompts: Sequence[str],
        placeholders: Sequence[Placeholders],
    ) -> TextState:
        """Encoded prompts, differentiable in the placeholders."""

    def denoise(
        self,
        denoiser: nn.Module,
        x_t: Float[Tensor, "batch c h w"],
        t: Int[Tensor, " batch"],
        text: TextState,
        pixels_per_latent: int,
    ) -> Float[Tensor, "batch c h w"]:
        """Native output of the denoiser."""

    def sites(self, denoiser: nn.Module, which: str) -> tuple[Site, ...]:
        """LoRA sites of the choice `which`, in module order."""
