"""Loading, refusing, fingerprints and autoencoders."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderTiny
from safetensors.torch import save_file

import palp.base
import palp.base.device
import palp.base.load
from palp.base import load_base
from palp.base.device import find_device
from palp.base.fingerprint import fingerprint
from palp.base.latents import pixels_per_latent
from palp.errors import BaseLoadError, InputError
from tests.original_layout import save_original
from tests.tiny import KINDS, Kind, save_tiny, tiny_base, tiny_pipeline

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
T = torch.tensor([10, 900])


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny SD 1.x pipeline, not to be changed."""
    return save_tiny("sd1", tmp_path_factory.mktemp("bases") / "sd1")


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_is_the_pipeline_it_came_from(kind: Kind, tmp_path: Path) -> None:
    base, memory = load_base(str(save_tiny(kind, tmp_path)), "cpu", "float32"), tiny_base(kind)
    assert base.fingerprint == memory.fingerprint
    assert base.schedule.prediction == ("v_prediction" if kind == "sd2-v" else "epsilon")
    x_t = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    outputs = [b.predict(x_t, T, b.encode_prompts(["a cat", ""])) for b in (base, memory)]
    torch.testing.assert_close(*outputs, **EXACT)
    for module in (base.unet, base.vae, *base.text_encoders.values()):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_each_process_of_several_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # the try whether it is there
    assert find_device(None) == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert find_device(None) == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # where each process sees only its own
    assert find_device(None) == torch.device("cuda:0")
    assert find_device("cuda:1") == torch.device("cuda:1")


def test_icons_is_the_folder_in_the_package(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palp.base.load, "ICONS_WEIGHTS", sd1)
    base = load_base(device="cpu")
    assert base.name == "icons"
    assert base.fingerprint == "icons:" + tiny_base("sd1").fingerprint.removeprefix("sd:")
    monkeypatch.setattr(palp.base.load, "ICONS_WEIGHTS", tmp_path / "gone")
    with pytest.raises(BaseLoadError, match=r"no embedded base.*reinstall"):
        load_base(device="cpu")


def test_a_folder_built_as_icons_is_icons_too(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palp.base.load, "ICONS_WEIGHTS", sd1)
    again = copy_of(sd1, tmp_path)
    assert load_base(str(again), "cpu").fingerprint == load_base("icons", "cpu").fingerprint
    edit(again / "unet" / "config.json", act_fn="gelu")
    assert load_base(str(again), "cpu").name == "sd"


@pytest.mark.parametrize("name", ["model.ckpt", "model.BIN", "model.pt"])
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not even a pickle")
    with pytest.raises(BaseLoadError, match=rf"{name}, a pickle.*safetensors"):
        load_base(str(tmp_path / name), "cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_with_only_pickles_is_refused(part: str, sd1: Path, tmp_path: Path) -> None:
    folder = copy_of(sd1, tmp_path)
    (weights,) = (folder / part).glob("*.safetensors")
    pickle = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save({}, folder / part / pickle)
    weights.unlink()
    with pytest.raises(BaseLoadError, match="could not load base"):
        load_base(str(folder), "cpu")


def test_weights_of_half_precision_alone_are_taken(sd1: Path, tmp_path: Path) -> None:
    folder = copy_of(sd1, tmp_path)
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert load_base(str(folder), "cpu").fingerprint == load_base(str(sd1), "cpu").fingerprint


def test_a_missing_file_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(BaseLoadError, match="check the path"):
        load_base("sd15.safetensors", "cpu")


@pytest.mark.parametrize("source", ["no/such/folder", "../escape", "/nowhere", ""])
def test_what_is_no_source_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseLoadError):
        load_base(source, "cpu")


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # what HF_HUB_OFFLINE=1 sets
    with pytest.raises(BaseLoadError, match=r"someone/something: the hub does not answer.*local folder"):
        load_base("someone/something", "cpu")


def test_other_pipelines_are_named(sd1: Path, tmp_path: Path) -> None:
    folder = copy_of(sd1, tmp_path)
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BaseLoadError, match=r"FluxPipeline.*SDXL"):
        load_base(str(folder), "cpu")


def test_inpainting_and_flow_matching_are_refused(sd1: Path, tmp_path: Path) -> None:
    folder = copy_of(sd1, tmp_path)
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="flow")
    with pytest.raises(BaseLoadError, match="flow"):
        load_base(str(folder), "cpu")
    pipeline = tiny_pipeline("sd1")
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(BaseLoadError, match="9 input channels"):
        palp.base.base_from_pipeline(pipeline, torch.device("cpu"), torch.float32)


def test_damaged_weights_are_one_sentence(sd1: Path, tmp_path: Path) -> None:
    folder = copy_of(sd1, tmp_path)
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseLoadError, match="could not load base") as error:
        load_base(str(folder), "cpu")
    assert "\n" not in str(error.value)


def test_an_original_single_file_is_the_pipeline_it_came_from(sd1: Path, tmp_path: Path) -> None:
    path = save_original(tiny_pipeline("sd1"), tmp_path / "original.safetensors")
    base, memory = load_base(str(path), "cpu", "float32", config=sd1), tiny_base("sd1")
    assert base.fingerprint == memory.fingerprint
    for module, expected in zip(
        (base.unet, base.vae, *base.text_encoders.values()),
        (memory.unet, memory.vae, *memory.text_encoders.values()),
        strict=True,
    ):
        assert module.state_dict().keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(module.state_dict()[name], tensor, **EXACT)
    states = [b.encode_prompts(["a cat"]) for b in (base, memory)]
    torch.testing.assert_close(states[0].hidden, states[1].hidden, **EXACT)


def test_single_files_that_are_none(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a cat")
    with pytest.raises(BaseLoadError, match=r"notes\.txt.*safetensors"):
        load_base(str(tmp_path / "notes.txt"), "cpu")
    (tmp_path / "damaged.safetensors").write_bytes(b"a cat")
    adapter = tmp_path / "adapter.safetensors"
    save_file({"unet.mid.lora_A.weight": torch.zeros(1, 2)}, adapter)
    for path in (tmp_path / "damaged.safetensors", adapter):
        for config in (sd1, None):
            with pytest.raises(BaseLoadError, match="could not load base"):
                load_base(str(path), "cpu", config=config)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float8"), ("abacus", None), ("cuda:99", None)])
def test_unknown_devices_and_types(device: str, dtype: str | None, sd1: Path) -> None:
    with pytest.raises(InputError, match="got"):
        load_base(str(sd1), device, dtype)


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_auto_type_on_a_cpu_follows_its_units(has_bfloat16: bool, sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palp.base.device, "_cpu_has_bfloat16", lambda: has_bfloat16)
    base = load_base(str(sd1), "cpu", "auto")
    assert base.dtype == (torch.bfloat16 if has_bfloat16 else torch.float32)
    assert base.weights_dtype == base.vae.dtype == torch.float32


def test_fingerprint_sees_weights_and_configuration_only() -> None:
    unet = tiny_pipeline("sd1").unet
    mark = fingerprint(unet)
    assert len(mark) == 32
    assert fingerprint(tiny_pipeline("sd1").unet.to(torch.bfloat16)) == mark
    unet.register_to_config(_name_or_path="/somewhere/else")
    assert fingerprint(unet) == mark
    with torch.no_grad():
        unet.conv_out.bias[0] += 1
    assert fingerprint(unet) != mark
    assert fingerprint(tiny_pipeline("sd2").unet) != mark
    unet = tiny_pipeline("sd1").unet
    unet.register_to_config(norm_eps=1e-6)
    assert fingerprint(unet) != mark


def test_fingerprint_is_the_same_whatever_type_is_loaded(sd1: Path) -> None:
    marks = {load_base(str(sd1), "cpu", dtype).fingerprint for dtype in ("float32", "bfloat16", "float16")}
    assert len(marks) == 1


@pytest.mark.parametrize("shift", [None, 0.5])
def test_latents_are_those_of_the_pipelines_autoencoder(shift: float | None) -> None:
    base = tiny_base("sd1")
    base.vae.register_to_config(shift_factor=shift)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = base.encode_images(images)
    with torch.no_grad():
        z = base.vae.encode(images).latent_dist.mode()
        decoded = base.vae.decode(z).sample
    torch.testing.assert_close(latents, (z - (shift or 0)) * 0.18215, rtol=1e-5, atol=1e-6)
    assert latents.shape[1:] == base.latent_shape
    torch.testing.assert_close(base.decode_latents(latents), decoded.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert base.decode_latents(latents * 1e4).abs().max() <= 1


def tiny_autoencoders() -> list[tuple[Any, str]]:
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
        "latent_channels": 4,
    }
    taesd = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), **common)
    blocks: dict[str, Any] = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "block_out_channels": (8, 16),
            "layers_per_block": (1, 1),
            "block_types": "ResBlock",
        }.items()
    }
    deep = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.5,
        **blocks,
    )
    return [(taesd, "latents"), (deep, "latent")]


@pytest.mark.parametrize(("vae", "field"), tiny_autoencoders())
def test_other_autoencoders_go_both_ways(vae: Any, field: str) -> None:
    base = replace(tiny_base("sd1"), vae=vae.eval())
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = base.encode_images(images)
    with torch.no_grad():
        z = getattr(vae.encode(images), field)
        decoded = vae.decode(z).sample
    torch.testing.assert_close(latents, z * vae.config.scaling_factor, **EXACT)
    torch.testing.assert_close(base.decode_latents(latents), decoded.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert 16 // latents.shape[-1] == pixels_per_latent(vae)


def test_public_names() -> None:
    assert set(palp.base.__all__) == {
        "SITES",
        "Base",
        "NoiseSchedule",
        "Placeholders",
        "Shown",
        "TextShape",
        "TextState",
        "base_from_pipeline",
        "load_base",
        "sample",
    }
