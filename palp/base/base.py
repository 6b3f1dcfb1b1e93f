"""One interface over text-to-image bases. Nobody outside this package asks which family a base is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palp.adapter import Site
from palp.base import latents as pictures
from palp.base.families import Family
from palp.base.schedule import NoiseSchedule
from palp.base.text import Placeholders, TextShape, TextState
from palp.base.tokens import PromptEncoder
from palp.errors import InputError


@dataclass(frozen=True, eq=False)
class Shown:
    """A subject as a base is shown it: latents of pictures, and the words for what stands beside it there."""

    latents: Float[Tensor, "pictures c h w"]
    beside: str


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen text-to-image model: prompts to states, noisy latents to predictions, pictures to latents.

    Arguments:
        name: "icons" for the embedded base and others built like it, else its family.
        fingerprint: name and hash of the denoiser's configuration and weights.
        family: how this kind of pipeline works.
        unet, vae: denoiser and autoencoder.
        encoders: text encoders with their tokenizers, by the names that placeholders use.
        schedule: noise levels and kind of prediction.
        scheduler_config: diffusers configuration that samplers are built from.
        device: where everything is.
        dtype: of arithmetic; on a CPU the autocast type.
        place: pictures of one subject to the same with it where the base's own things stand, best to learn from;
            None: the base does not mind.
        company: pictures of one subject to the same beside things that the base knows, its `repr` says how; None:
            alone is enough.
    """

    name: str
    fingerprint: str
    family: Family
    unet: Any
    vae: Any
    encoders: Mapping[str, PromptEncoder]
    schedule: NoiseSchedule
    scheduler_config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    place: Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n 3 H W"]] | None = None
    company: Callable[[Base, Float[Tensor, "n 3 H W"]], Sequence[Shown]] | None = None

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """Text encoders by name."""
        return {name: encoder.model for name, encoder in self.encoders.items()}

    @property
    def tokenizers(self) -> dict[str, Any]:
        """Tokenizers by the name of their text encoder."""
        return {name: encoder.tokenizer for name, encoder in self.encoders.items()}

    @property
    def weights_dtype(self) -> torch.dtype:
        """Of the text encoders and of what enters the denoiser; another than `dtype` where arithmetic is autocast."""
        return next(iter(self.encoders.values())).embedding.weight.dtype

    @property
    def arithmetic(self) -> str:
        """The name of `dtype`, as files have it: "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the default latents."""
        side = self.unet.config.sample_size
        return (self.unet.config.in_channels, side, side)

    @property
    def resolution(self) -> int:
        """Side of the default picture in pixels."""
        return self.latent_shape[1] * pictures.pixels_per_latent(self.vae)

    @property
    def text_shape(self) -> TextShape:
        """Sizes of one encoded prompt."""
        return self.family.text_shape(self.encoders)

    def sites(self, which: str = "attention") -> tuple[Site, ...]:
        """LoRA sites by a choice of `SITES`, named as in `unet.named_modules()`; "all": wherever an adapter may be."""
        return self.family.sites(self.unet, which)

    def embedding_shapes(self) -> dict[str, int]:
        """Width of a placeholder vector, by text encoder."""
        return {name: encoder.embedding.embedding_dim for name, encoder in self.encoders.items()}

    def word_embedding(self, word: str) -> dict[str, Tensor]:
        """Mean token embedding of `word`, by text encoder: the start of a placeholder. Float32, [dim]."""
        return {name: encoder.word_embedding(word) for name, encoder in self.encoders.items()}

    def encode_prompts(
        self, prompts: Sequence[str], placeholders: Placeholders | Sequence[Placeholders] | None = None
    ) -> TextState:
        """Text states of `prompts`, differentiable in the placeholders' vectors.

        Arguments:
            prompts: one a row; may hold [V], [V1], …
            placeholders: for all prompts, or a sequence with one mapping a prompt.

        Raises:
            UnknownPlaceholderError: a prompt holds a placeholder that it was not given.
        """
        if placeholders is None or isinstance(placeholders, Mapping):
            placeholders = [placeholders or {}] * len(prompts)
        if isinstance(prompts, str) or len(prompts) == 0 or len(placeholders) != len(prompts):
            raise InputError(
                f"got prompts {prompts!r} with {len(placeholders)} placeholder mappings, expected a list of "
                "prompts and one mapping a prompt; give one mapping for all, or as many as prompts"
            )
        with self._arithmetic():
            return self.family.encode(self.encoders, prompts, placeholders)

    def project(self, text: TextState) -> TextState:
        """`text` with the keys and values of every cross-attention, which `predict` then need not make at every step.

        An adapter's part is in them: call both inside the same route of the same bank, and project again when the
        adapter changes.
        """
        hidden = text.hidden.to(self.weights_dtype)
        with self._arithmetic():
            layers = {site.name: self.unet.get_submodule(site.name) for site in self.sites("cross-kv")}
            return replace(text, projected={name: layer(hidden) for name, layer in layers.items()})

    def predict(
        self, x_t: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"], text: TextState
    ) -> Float[Tensor, "batch c h w"]:
        """Native output of the denoiser (noise or v), float32, differentiable."""
        weights = self.weights_dtype
        pooled = None if text.pooled is None else text.pooled.to(weights)
        state = replace(text, hidden=text.hidden.to(weights), pooled=pooled)
        with self._arithmetic():
            size = pictures.pixels_per_latent(self.vae)
            return self.family.denoise(self.unet, x_t.to(weights), t, state, size).float()

    def predict_noise(
        self, x_t: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"], text: TextState
    ) -> Float[Tensor, "batch c h w"]:
        """`predict` in noise form."""
        return self.schedule.to_noise(self.predict(x_t, t, text), x_t, t)

    def encode_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled latents of pictures in [-1, 1]: the mode of the posterior. No gradients."""
        return pictures.encode_images(self.vae, images.to(self.device))

    def decode_latents(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Pictures in [-1, 1], clamped. No gradients."""
        return pictures.decode_latents(self.vae, latents)

    def freeze(self) -> None:
        """No gradients for any weight, evaluation mode everywhere."""
        for module in (self.unet, self.vae, *self.text_encoders.values()):
            module.requires_grad_(False).eval()

    def _arithmetic(self) -> AbstractContextManager[object]:
        """Autocast where weights are wider than the arithmetic."""
        if self.weights_dtype == self.dtype:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)
