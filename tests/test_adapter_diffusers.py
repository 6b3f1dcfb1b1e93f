"""The adapter's file in plain diffusers: the same pictures as the bank and as merged weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from palp.adapter import Adapter
from palp.bank import AdapterBank
from tests.adapters import Tolerance, merged, random_adapter, spec_of
from tests.tiny import tiny_pipeline

WIDTHS = {"sd1": {"text_encoder": 32}, "sdxl": {"text_encoder": 48, "text_encoder_2": 32}}
PIXELS: Tolerance = {
    "rtol": 0,
    "atol": 2e-5,
}  # pixels in [0, 1]; products summed in another order
EMBEDDINGS_UNUSED = "safe to ignore"  # what diffusers says of any LoRA that leaves the text encoder alone


def _picture(pipeline: Any, prompt: str) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    images: Tensor = pipeline(prompt, num_inference_steps=3, generator=rng, output_type="pt").images
    return images


def _load_words(pipeline: Any, files: dict[str, Path]) -> None:
    for word, file in files.items():
        if not hasattr(pipeline, "text_encoder_2"):
            pipeline.load_textual_inversion(file)
            continue
        vectors = load_file(file)
        pipeline.load_textual_inversion(vectors["clip_l"], token=word)
        second = {"text_encoder": pipeline.text_encoder_2, "tokenizer": pipeline.tokenizer_2}
        pipeline.load_textual_inversion(vectors["clip_g"], token=word, **second)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_plain_diffusers_draws_what_the_bank_and_merged_weights_draw(
    kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = tiny_pipeline(kind)
    adapter = random_adapter(spec_of(pipeline.unet), 1, {"[V]": WIDTHS[kind]})
    adapter.save(tmp_path / "adapter.safetensors")
    loaded = Adapter.load(tmp_path / "adapter.safetensors")

    plain = tiny_pipeline(kind)
    with caplog.at_level(logging.WARNING):
        logging.getLogger("diffusers").addHandler(caplog.handler)
        plain.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert [record.message for record in caplog.records if EMBEDDINGS_UNUSED not in record.message] == []
    files = loaded.export_embeddings(tmp_path / "words")
    assert files == {"[V]": tmp_path / "words" / "V.safetensors"}
    _load_words(plain, files)
    expected = _picture(plain, "a photo of [V]")

    _load_words(pipeline, files)
    bare = _picture(pipeline, "a photo of [V]")
    bank = AdapterBank(pipeline.unet, adapter.spec, slots=3).attach()
    bank.write(1, loaded)
    with bank.route(torch.tensor([1, 1])):  # both halves of classifier-free guidance
        torch.testing.assert_close(_picture(pipeline, "a photo of [V]"), expected, **PIXELS)
    bank.detach()
    pipeline.unet = merged(pipeline.unet, loaded)
    torch.testing.assert_close(_picture(pipeline, "a photo of [V]"), expected, **PIXELS)
    assert (bare - expected).abs().max() > 100 * PIXELS["atol"]


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_words_reach_the_encoders(kind: Any, tmp_path: Path) -> None:
    pipeline = tiny_pipeline(kind)
    adapter = random_adapter(spec_of(pipeline.unet), 1, {"[V]": WIDTHS[kind]})
    _load_words(pipeline, adapter.export_embeddings(tmp_path))
    for name, vectors in adapter.placeholders["[V]"].items():
        table = getattr(pipeline, name).get_input_embeddings().weight
        torch.testing.assert_close(table[-2:], vectors, rtol=0, atol=0)


def test_a_file_can_be_hot_swapped(tmp_path: Path) -> None:
    """diffusers refuses to hot-swap a file with "text_encoder" in a key, so ours has none."""
    pipeline = tiny_pipeline("sd1")
    for seed in (1, 2):
        adapter = random_adapter(spec_of(pipeline.unet), seed, {"[V]": WIDTHS["sd1"]})
        adapter.save(tmp_path / f"{seed}.safetensors")
    pipeline.load_lora_weights(tmp_path, weight_name="1.safetensors", adapter_name="a")
    pipeline.load_lora_weights(tmp_path, weight_name="2.safetensors", adapter_name="a", hotswap=True)
    alone = tiny_pipeline("sd1")
    alone.load_lora_weights(tmp_path, weight_name="2.safetensors")
    torch.testing.assert_close(_picture(pipeline, "a cat"), _picture(alone, "a cat"), rtol=0, atol=0)
