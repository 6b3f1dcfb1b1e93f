"""A base of a few thousand parameters, without diffusers or transformers: imported and run in a moment."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from palp.adapter import Site
from palp.base import Base, NoiseSchedule, Placeholders, TextShape, TextState
from palp.base.schedule import Prediction
from palp.base.tokens import PromptEncoder

WIDTH, TEXT, TOKENS, CHANNELS, SIDE = 8, 6, 12, 4, 4


class LightUnet(nn.Module):
    """Self- and cross-attention once over the pixels, between two mixings of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=SIDE, in_channels=CHANNELS)
        self.before, self.after = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS)
        self.block = nn.ModuleDict({"attn1": _attention(WIDTH), "attn2": _attention(TEXT)})

    @property
    def dtype(self) -> torch.dtype:
        return self.before.weight.dtype

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        states = self.before(x.flatten(2).mT) + t[:, None, None] / 1000
        for name, seen in (("attn1", None), ("attn2", text)):
            part: Any = self.block[name]
            other = states if seen is None else seen
            weights = (part["to_q"](states) @ part["to_k"](other).mT).softmax(-1)
            states = states + part["to_out"](weights @ part["to_v"](other))
        out: Tensor = self.after(states.tanh()).mT.reshape(x.shape) + 0 * x
        return out


def _attention(width: int) -> nn.ModuleDict:
    sizes = {"to_q": WIDTH, "to_k": width, "to_v": width, "to_out": WIDTH}
    return nn.ModuleDict({name: nn.Linear(size, WIDTH, bias=False) for name, size in sizes.items()})


class LightVae(nn.Module):
    """A latent is a pixel, with its mean as a fourth channel; no weights."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        values = {"block_out_channels": (1,), "scaling_factor": 1.0, "shift_factor": None}
        self.config = SimpleNamespace(**values, get=values.get)

    def encode(self, pictures: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=torch.cat([pictures, pictures.mean(1, keepdim=True)], dim=1))


class LightFamily:
    """Words are random vectors; a `palp.base.families.Family`."""

    name = "light"
    pipeline_class = "none"

    @classmethod
    def match(cls, parts: Mapping[str, Any]) -> LightFamily | None:
        return None

    def text_shape(self, encoders: Mapping[str, PromptEncoder]) -> TextShape:
        return TextShape(TOKENS, TEXT, None)

    def encode(
        self, encoders: Mapping[str, PromptEncoder], prompts: Sequence[str], placeholders: Sequence[Placeholders]
    ) -> TextState:
        rows = [_words(prompt, known) for prompt, known in zip(prompts, placeholders, strict=True)]
        return TextState(torch.stack(rows))

    def denoise(self, denoiser: nn.Module, x_t: Tensor, t: Tensor, text: TextState, pixels_per_latent: int) -> Tensor:
        output: Tensor = denoiser(x_t, t, text.hidden)
        return output

    def sites(self, denoiser: nn.Module, which: str) -> tuple[Site, ...]:
        return tuple(
            Site(name, layer.in_features, layer.out_features)
            for name, layer in denoiser.named_modules()
            if isinstance(layer, nn.Linear) and ".attn" in name
        )


def _words(prompt: str, known: Placeholders) -> Tensor:
    row = torch.zeros(TOKENS, TEXT)
    for place, word in enumerate(re.findall(r"\[\w+\]|\w+", prompt)[:TOKENS]):
        seed = torch.Generator().manual_seed(zlib.crc32(word.encode()))
        row[place] = known[word]["text_encoder"][0] if word in known else torch.randn(TEXT, generator=seed)
    return row


def light_base(prediction: Prediction = "v_prediction", seed: int = 0) -> Base:
    """The same each time for a seed, which is also in the fingerprint."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = LightUnet().requires_grad_(False).eval()
    table = nn.Embedding(3, TEXT)
    model = SimpleNamespace(get_input_embeddings=lambda: table)
    alphas = torch.linspace(0.999, 0.01, 1000)
    return Base(
        name="light",
        fingerprint=f"light:{seed}",
        family=LightFamily(),
        unet=unet,
        vae=LightVae(),
        encoders={"text_encoder": PromptEncoder("text_encoder", None, model)},
        schedule=NoiseSchedule(alphas, prediction),
        scheduler_config={},
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
