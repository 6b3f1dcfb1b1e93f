"""Pictures drawn again by the denoiser: near what they were, and nearer from less noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from palp.base import Base, load_base
from palp.base.icons.decoder import DecoderSettings, DecoderTraining
from palp.base.icons.grammar import Scene, caption
from palp.base.icons.redraw import redrawn
from palp.base.load import ICONS_WEIGHTS
from palp.evaluate.protocol import renders as rendered
from tests.icons import renders

SCENES = [Scene("fox", place="beach"), Scene("car", "comic", "city")]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("icons", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def latents(base: Base) -> Tensor:
    return base.encode_images(torch.cat([rendered(scene, [0]) for scene in SCENES]))


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).square().mean())


def test_from_less_noise_it_stays_nearer_and_from_some_it_is_not_the_same(base: Base, latents: Tensor) -> None:
    captions = [caption(scene) for scene in SCENES]
    far, near = (redrawn(base, latents, captions, steps) for steps in (12, 2))
    assert 0 < distance(near, latents) < distance(far, latents) < latents.square().mean()
    assert torch.equal(redrawn(base, latents, captions, 2), near)


def test_a_step_of_the_decoder_has_its_share_of_redrawn_pictures() -> None:
    vae = AutoencoderTiny.from_pretrained(ICONS_WEIGHTS / "vae", torch_dtype=torch.float32)
    again = torch.full((2, 64, 8, 8), 7.0)
    settings = DecoderSettings(batch=10, redrawn=0.3)
    training = DecoderTraining(vae, renders(6), settings, torch.device("cpu"), again)
    shown, latents = training._draw(np.random.default_rng(0), torch.Generator().manual_seed(0))
    assert (shown.shape, latents.shape) == ((10, 3, 128, 128), (10, 64, 8, 8))
    assert [bool((row == 7).all()) for row in latents] == [False] * 7 + [True] * 3
