"""The decoder's start: the exact inverse of the linear encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from palp.base.icons.codec import build_autoencoder, from_patches, patch_matrix, set_encoder, to_patches
from palp.base.icons.dataset import to_tensor
from palp.base.icons.inverse import grown, set_decoder, spare_blocks
from palp.base.icons.mirrored import encoder_basis
from tests.icons import renders

LOSS_DB = 0.1  # against the linear decoder; the encoder's bases are not quite even and odd; 0.00 is seen


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return to_tensor(renders(12))


@pytest.fixture(scope="module")
def vae() -> AutoencoderTiny:
    torch.manual_seed(0)
    built = build_autoencoder()
    set_encoder(built, renders(24))
    return built


def spanned(vae: AutoencoderTiny, pictures: Tensor) -> Tensor:
    """What the encoder's components can say of pictures: the linear decoder, from black upwards."""
    weights, _ = patch_matrix(vae)
    return from_patches(to_patches(pictures + 1) @ weights @ torch.linalg.pinv(weights)) - 1


def psnr(got: Tensor, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio, dB."""
    return float(-10 * ((got.clamp(-1, 1) - pictures) / 2).square().mean().log10())


def test_the_components_are_even_or_odd(vae: AutoencoderTiny) -> None:
    patterns = encoder_basis(vae)[0].patterns
    for mirrored in (patterns[:, :, ::-1], patterns[:, ::-1]):
        overlap = (patterns * mirrored).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(np.abs(overlap), 1, atol=1e-4)


def test_decoding_inverts_the_encoder(vae: AutoencoderTiny, pictures: Tensor) -> None:
    set_decoder(vae, to_tensor(renders(12, seed=100)))
    with torch.no_grad():
        got = vae.decode(vae.encode(pictures).latents).sample
    assert psnr(got, pictures) > psnr(spanned(vae, pictures), pictures) - LOSS_DB


def test_spare_blocks_pass_their_input_on(vae: AutoencoderTiny, pictures: Tensor) -> None:
    set_decoder(vae, pictures)
    spare = spare_blocks(vae)
    assert len(spare) == sum(vae.config["num_decoder_blocks"]) - 3 - 4  # that wander, that flip
    for block in spare:
        positive = torch.rand(1, 72, 8, 8)
        assert torch.equal(block(positive), positive)


def test_a_grown_decoder_does_what_the_smaller_one_did(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        patch.setattr("palp.base.icons.codec.DECODER_BLOCKS", (4, 2, 2, 1, 1))
        small = build_autoencoder()
    set_encoder(small, renders(24))
    set_decoder(small, pictures)
    for block in spare_blocks(small):
        torch.nn.init.normal_(block.conv[4].weight, std=1e-3)  # as if it had been trained
    taller = grown(small)
    assert len(spare_blocks(taller)) > len(spare_blocks(small))
    with torch.no_grad():
        latents = small.encode(pictures).latents
        assert torch.equal(taller.encode(pictures).latents, latents)
        torch.testing.assert_close(taller.decode(latents).sample, small.decode(latents).sample, rtol=0, atol=1e-5)
    assert grown(taller).config["num_decoder_blocks"] == taller.config["num_decoder_blocks"]
