"""Small stand-ins for the embedded base's parts: the same shapes, narrower, a second each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

from palp.base.icons import architecture
from palp.base.icons.codec import CHANNELS, LATENT_SIDE
from palp.base.icons.dataset import render_example
from palp.base.icons.denoiser import LatentSet
from palp.base.icons.tokenizer import MAX_TOKENS, write_tokenizer

SMALL_WIDTHS = (32, 64)  # of the U-Net, in place of 160 and 256


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the U-Net with two million parameters and no more."""
    monkeypatch.setattr(architecture, "WIDTHS", SMALL_WIDTHS)


def tokenizer_in(folder: Path) -> CLIPTokenizer:
    """The embedded base's tokenizer, written to `folder` and read from it."""
    write_tokenizer(folder)
    return architecture.load_tokenizer(folder)


def renders(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures of random scenes, `[count, 128, 128, 3]`."""
    return np.stack([render_example(seed + index).picture for index in range(count)])


def latent_set(count: int = 8) -> LatentSet:
    """Random latents, covers and captions."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(2, 0.2, CHANNELS)[:, None, None]
    latents = spread * torch.randn(count, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)
    cover = torch.rand(count, LATENT_SIDE, LATENT_SIDE, generator=generator)
    tokens = torch.randint(0, 200, (count, 2, MAX_TOKENS), generator=generator).short()
    return LatentSet(latents.half(), cover.half(), tokens, torch.zeros(MAX_TOKENS).short())


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit for bit equal, names and values."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name
