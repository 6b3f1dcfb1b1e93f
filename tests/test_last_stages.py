"""The shipped decoder done short gives the pictures that diffusers decodes; a damaged file is one sentence."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from palp.base import load_base
from palp.base.icons.codec import build_autoencoder, scaling_factor
from palp.base.icons.decoder import last_stages
from palp.base.icons.grammar import Scene
from palp.base.last_stages import FILE, LastStages, ShortDecoder, shorten
from palp.base.load import ICONS_WEIGHTS
from palp.errors import BaseLoadError
from palp.evaluate.protocol import renders

LEVEL = 2 / 255


@pytest.fixture(scope="module")
def plain() -> AutoencoderTiny:
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(ICONS_WEIGHTS / "vae", torch_dtype=torch.float32)
    return vae


@torch.no_grad()
def test_the_shipped_base_decodes_short_what_diffusers_decodes(plain: AutoencoderTiny) -> None:
    base = load_base("icons", "cpu", "float32")
    assert isinstance(base.vae.decoder, ShortDecoder)
    latents = base.encode_images(torch.cat([renders(Scene("fox", "comic", "city"), [0]), renders(Scene("car"), [1])]))
    expected = plain.decode(latents / scaling_factor(plain)).sample.clamp(-1, 1)
    torch.testing.assert_close(base.decode_latents(latents), expected, atol=LEVEL / 4, rtol=0)


def test_the_shipped_file_is_what_the_shipped_decoder_does(plain: AutoencoderTiny) -> None:
    shipped, read_off = LastStages.read(ICONS_WEIGHTS / "vae" / FILE), last_stages(plain)
    assert (shipped.layers, shipped.stages) == (read_off.layers, read_off.stages)
    torch.testing.assert_close(dict(shipped.named_buffers()), dict(read_off.named_buffers()), atol=1e-4, rtol=0)


def test_the_file_of_other_stages_is_left_alone(plain: AutoencoderTiny, tmp_path: Path) -> None:
    other: Any = copy.deepcopy(plain)
    taller: Any = build_autoencoder()
    with torch.no_grad():
        other.decoder.layers[-1].bias += 0.1
    shutil.copy(ICONS_WEIGHTS / "vae" / FILE, tmp_path)
    shorten(other, tmp_path)
    assert not isinstance(other.decoder, ShortDecoder)
    shorten(taller, tmp_path)
    assert not isinstance(taller.decoder, ShortDecoder)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ICONS_WEIGHTS, tmp_path / "icons"))
    (folder / "vae" / FILE).write_bytes(b"not safetensors")
    with pytest.raises(BaseLoadError, match="could not load base"):
        load_base(str(folder), "cpu")
