"""The autoencoder: an encoder that is principal components of patches, whatever computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from palp.base.icons.codec import (
    CHANNELS,
    build_autoencoder,
    encode,
    from_patches,
    patch_latents,
    patch_matrix,
    save_autoencoder,
    set_encoder,
    to_patches,
)
from palp.base.icons.dataset import to_tensor
from tests.icons import renders

CODE_ERROR = 3e-3  # of a latent of size about one, a tenth inside, through nine float32 convolutions; 9e-4 is seen
LINEAR_PSNR_DB = 21.0  # on pictures that the encoder was not set from; 22.9 is seen with 64 to set it from


@pytest.fixture(scope="module")
def vae() -> AutoencoderTiny:
    torch.manual_seed(0)
    built = build_autoencoder()
    set_encoder(built, renders(64))
    return built.eval()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return to_tensor(renders(8, seed=1000))


def test_patches_are_cells_in_reading_order() -> None:
    pictures = torch.rand(2, 3, 128, 128)
    patches = to_patches(pictures)
    assert patches.shape == (2, 64, 768)
    assert torch.equal(patches[1, 8 * 2 + 5].reshape(16, 16, 3), pictures[1, :, 32:48, 80:96].permute(1, 2, 0))
    assert torch.equal(from_patches(patches), pictures)
    assert torch.equal(to_patches(from_patches(patches)), patches)
    finer = to_patches(pictures, 32)
    assert finer.shape == (2, 1024, 48)
    assert torch.equal(finer[1, 32 * 2 + 5].reshape(4, 4, 3), pictures[1, :, 8:12, 20:24].permute(1, 2, 0))


def test_the_convolutions_are_the_patch_matrix(vae: AutoencoderTiny, pictures: Tensor) -> None:
    expected = encode(vae, pictures)
    assert expected.shape == (8, CHANNELS, 8, 8)
    torch.testing.assert_close(patch_latents(pictures, patch_matrix(vae)), expected, atol=CODE_ERROR, rtol=0)


def test_a_latent_cell_is_its_patch_alone(vae: AutoencoderTiny, pictures: Tensor) -> None:
    changed = pictures.clone()
    changed[:, :, 48:64, 16:32] = -changed[:, :, 48:64, 16:32]
    moved = (encode(vae, changed) - encode(vae, pictures)).abs().amax(dim=(0, 1)) > CODE_ERROR
    assert moved.nonzero().tolist() == [[3, 1]]


def test_latents_have_unit_variance_and_no_mean(vae: AutoencoderTiny) -> None:
    pictures = to_tensor(renders(64))
    both_ways = torch.cat([pictures, pictures.flip(3)])
    latents = encode(vae, torch.cat([both_ways, both_ways.flip(2)]))
    assert float(latents.std()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(CHANNELS), atol=0.02, rtol=0)
    deviations = latents.std(dim=(0, 2, 3))
    assert bool((deviations.diff() < 0.01).all()), "channels are not in the order of their deviations"


def test_a_linear_decoder_already_shows_the_picture(vae: AutoencoderTiny, pictures: Tensor) -> None:
    weights, bias = patch_matrix(vae)
    codes = to_patches(pictures) @ weights
    rebuilt = from_patches(codes @ torch.linalg.pinv(weights)).clamp(-1, 1)
    error = ((rebuilt - pictures) / 2).square().mean(dim=(1, 2, 3))
    assert bias.shape == (CHANNELS,)
    assert float(-10 * error.mean().log10()) > LINEAR_PSNR_DB


def test_saving_and_loading_is_silent_and_exact(
    vae: AutoencoderTiny, tmp_path: Path, pictures: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    save_autoencoder(vae, tmp_path / "vae")
    loaded, notes = AutoencoderTiny.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not any(notes.values())
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
    assert "block_out_channels" not in caplog.text
    assert list(loaded.config["block_out_channels"]) == list(vae.config["block_out_channels"])
    assert torch.equal(encode(loaded, pictures), encode(vae, pictures))


def test_the_same_pictures_set_the_same_encoder() -> None:
    first, second = build_autoencoder(), build_autoencoder()
    pictures = renders(16)
    set_encoder(first, pictures)
    set_encoder(second, np.array(pictures))
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(second.encoder.state_dict()[name], value), name
