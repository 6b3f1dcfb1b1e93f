"""The ONNX model against torch at sizes it was not traced at, and adapter files other programs read."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hypernet.export import OnnxHypernet, export_onnx, largest_difference
from hypernet.lora_files import lora_key, save_lora
from hypernet.shipped import SHIPPED
from palp.adapter import Adapter, AdapterSpec, Site
from palp.base import TextState
from palp.errors import AdapterFileError, AdapterMismatchError, InputError
from tests.adapters import random_adapter
from tests.commands import PALP_HYPER, refuses, succeeds
from tests.corpora import tiny_corpus, tiny_hypernet
from tests.light import light_base


def test_the_exported_model_is_the_network_at_any_size(tmp_path: Path) -> None:
    base = light_base()
    hypernet = tiny_hypernet(base, tiny_corpus(base), gain=1.0)
    path = tmp_path / "hypernet.onnx"
    assert export_onnx(hypernet, path) < 1e-4
    exported = OnnxHypernet(path)
    assert exported.providers[-1] == "CPUExecutionProvider"
    assert exported.spec == hypernet.spec
    text = TextState(torch.randn(5, 9, hypernet.text.hidden))  # a size that was neither traced nor checked
    factors, reliability = exported.predict(text)
    expected = hypernet(text)
    for got, wanted in zip(factors.tensors(), expected.factors.tensors(), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(reliability, expected.reliability, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        hypernet.gain.mul_(1.5)
    assert largest_difference(hypernet, exported) > 1e-3  # the check can fail
    with pytest.raises(AdapterMismatchError, match=r"light:0.*light:1"):
        exported.check_base(light_base(seed=1))
    exported.check_base(base)


def test_what_is_no_exported_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(AdapterFileError, match="no ONNX model"):
        OnnxHypernet(path)
    path.write_bytes(b"nothing")
    with pytest.raises(AdapterFileError, match="not a model"):
        OnnxHypernet(path)


SITE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def adapter_for(base: str) -> Adapter:
    spec = AdapterSpec(base, (Site(SITE, 6, 5), Site("mid_block.attentions.0.proj_in", 4, 4)), 2, 3.0)
    return replace(random_adapter(spec, 0), metadata={"prompt": "a sketch of [V]"})


@pytest.mark.parametrize("layout", ["kohya", "comfyui"])
def test_delta_w_survives_with_alpha(tmp_path: Path, layout: str) -> None:
    adapter = adapter_for("sd:1")
    path = tmp_path / "x.safetensors"
    save_lora(adapter, path, layout)  # type: ignore[arg-type]
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        notes = file.metadata()
    for site in adapter.spec.sites:
        key = "lora_unet_" + site.name.replace(".", "_")
        down, up, alpha = (tensors.pop(f"{key}.{part}") for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        torch.testing.assert_close(alpha / down.shape[0] * up @ down, adapter.delta_weight(site.name))
    assert tensors == {}
    assert notes["ss_network_dim"] == "2"
    assert notes["ss_network_alpha"] == "3.0"
    assert notes["ss_network_module"] == "networks.lora"
    assert notes["modelspec.title"] == "a sketch of [V]"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert notes["sshs_model_hash"] == hashlib.sha256(content[start:]).hexdigest()  # as kohya's scripts hash a file
    assert (notes["ss_base_model_version"], notes["ss_v2"]) == ("sd_v1", "False")
    assert notes["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_sdxl_blocks_have_their_original_names_for_kohya() -> None:
    rest = "transformer_blocks.3.attn2.to_k"
    names = {
        f"down_blocks.1.attentions.1.{rest}": "input_blocks_5_1",
        f"down_blocks.2.attentions.0.{rest}": "input_blocks_7_1",
        f"mid_block.attentions.0.{rest}": "middle_block_1",
        f"up_blocks.0.attentions.2.{rest}": "output_blocks_2_1",
        f"up_blocks.1.attentions.0.{rest}": "output_blocks_3_1",
    }
    for site, block in names.items():
        assert lora_key(site, "sdxl", "kohya") == f"lora_unet_{block}_transformer_blocks_3_attn2_to_k"
        assert lora_key(site, "sdxl", "comfyui") == "lora_unet_" + site.replace(".", "_")


def test_stable_diffusion_2_is_known_by_the_width_of_its_text(tmp_path: Path) -> None:
    site = Site("mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 1024, 4)
    save_lora(random_adapter(AdapterSpec("sd:1", (site,), 2, 3.0), 0), tmp_path / "x.safetensors", "kohya")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        notes = file.metadata()
    assert (notes["ss_base_model_version"], notes["ss_v2"]) == ("sd_v2", "True")
    assert "modelspec.architecture" not in notes


def test_refusals(tmp_path: Path) -> None:
    with_word = replace(adapter_for("sd:1"), placeholders={"[V]": {"text_encoder": torch.zeros(1, 4)}})
    with pytest.raises(InputError, match=r"cannot hold the word \[V\]"):
        save_lora(with_word, tmp_path / "x", "kohya")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--out", "x.safetensors", "--format", "kohya"),
            "--format kohya is for an adapter, and no --prompt was given",
        ),
        (("--out", "x.safetensors"), "what goes into a .onnx file"),
        (("--out", "x.onnx", "--prompt", "a sketch of [V]", "--class", "cat"), "what goes into a .safetensors file"),
        (("--out", "x.onnx", "--class", "cat"), "--prompt and --class belong together"),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(options: tuple[str, ...], sentence: str) -> None:
    assert sentence in refuses(PALP_HYPER, "export", "run", *options)


def test_an_adapter_of_a_prompt_too_far_off_is_said_to_change_nothing(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    asked = ("--out", out, "--prompt", "qwx vvv zzk [V] 77", "--class", "cat")
    assert "changes nothing" in succeeds(PALP_HYPER, "export", SHIPPED, *asked)
    assert not any(bool(up.any()) for up in Adapter.load(out).up.values())
