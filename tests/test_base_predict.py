"""The denoiser behind `predict` against the pipelines' own UNet calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from palp.base import SITES, Base
from palp.base.attention import fused, use_block_attention, written_out
from palp.errors import InputError
from tests.tiny import KINDS, Kind, tiny_base, tiny_pipeline

ROUNDED: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # float32, another order of summation in attention
T = torch.tensor([0, 500, 999])
PROMPTS = ["a photo of a cat", "", "cat"]


def noisy(base: Base) -> torch.Tensor:
    return torch.randn(len(T), *base.latent_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_predict_is_the_pipelines_unet_call(kind: Kind) -> None:
    base, pipeline = tiny_base(kind), tiny_pipeline(kind)
    x_t, text = noisy(base), base.encode_prompts(PROMPTS)
    conditions: dict[str, Any] = {}
    if kind == "sdxl":
        size = pipeline._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, text_encoder_projection_dim=32)
        conditions = {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": size.repeat(len(T), 1)}}
    with torch.no_grad():
        expected = pipeline.unet(x_t, T, text.hidden, **conditions).sample
    output = base.predict(x_t, T, text)
    torch.testing.assert_close(output, expected, **ROUNDED)
    other_prompts = base.predict(x_t, T, text[[1, 2, 0]])
    assert (other_prompts - output).abs().max() > 100 * ROUNDED["atol"]


@pytest.mark.parametrize("kind", KINDS)
def test_noise_form_is_the_schedules(kind: Kind) -> None:
    base = tiny_base(kind)
    x_t, text = noisy(base), base.encode_prompts(PROMPTS)
    output, noise = base.predict(x_t, T, text), base.predict_noise(x_t, T, text)
    alphas = base.schedule.alphas_cumprod[T][:, None, None, None]
    expected = alphas.sqrt() * output + (1 - alphas).sqrt() * x_t if kind == "sd2-v" else output
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_latents_text_and_nothing_frozen(kind: Kind) -> None:
    base = tiny_base(kind)
    x_t, text = noisy(base).requires_grad_(), base.encode_prompts(PROMPTS)
    text.hidden.requires_grad_()
    base.predict(x_t, T, text).square().sum().backward()
    assert x_t.grad is not None
    assert text.hidden.grad is not None
    assert (x_t.grad.flatten(1).abs().sum(1) > 0).all()
    assert (text.hidden.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in base.unet.parameters())
    assert not base.unet.training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", [AttnProcessor, AttnProcessor2_0])
@pytest.mark.parametrize("mix", [written_out, fused])
def test_block_attention_is_diffusers_and_its_gradient(kind: Kind, reference: type, mix: Any) -> None:
    base = tiny_base(kind)
    x_t, text = noisy(base).requires_grad_(), base.encode_prompts(PROMPTS)
    results = []
    for ours in (True, False):
        if ours:
            use_block_attention(base.unet, mix)
        else:
            base.unet.set_attn_processor(reference())
        output = base.predict(x_t, T, text)
        results.append((output, *torch.autograd.grad(output.square().sum(), x_t)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **ROUNDED)


def test_small_latents_on_a_cpu_take_attention_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {p.mix for p in tiny_base("sd1").unet.attn_processors.values()} == {written_out}
    monkeypatch.setattr("palp.base.load.WRITTEN_OUT_LATENT_SIDE", 7)
    assert {p.mix for p in tiny_base("sd1").unet.attn_processors.values()} == {fused}


@pytest.mark.parametrize("kind", KINDS)
def test_sites_are_attention_projections_and_the_feed_forward_layers_way_out(kind: Kind) -> None:
    base = tiny_base(kind)
    modules = dict(base.unet.named_modules())
    blocks = [name for name in modules if name.endswith((".attn1", ".attn2"))]
    assert blocks
    cross = [name for name in blocks if name.endswith(".attn2")]
    expected = {
        "attention": {f"{b}.{p}" for b in blocks for p in ("to_q", "to_k", "to_v", "to_out.0")},
        "cross": {f"{b}.{p}" for b in cross for p in ("to_q", "to_k", "to_v", "to_out.0")},
        "cross-kv": {f"{b}.{p}" for b in cross for p in ("to_k", "to_v")},
    }
    ways_out = {name for name in modules if name.endswith(".ff.net.2")}
    assert len(ways_out) == len(cross)
    expected |= {"cross-kv-ff": expected["cross-kv"] | ways_out, "all": expected["attention"] | ways_out}
    assert expected.keys() == set(SITES)
    for which, names in expected.items():
        sites = base.sites(which)
        assert {site.name for site in sites} == names
        assert len(sites) == len(names)
        for site in sites:
            layer = modules[site.name]
            assert isinstance(layer, nn.Linear)
            assert (site.out_features, site.in_features) == layer.weight.shape
    with pytest.raises(InputError, match="cross-kv"):
        base.sites("everything")


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_arithmetic_is_near_and_answers_in_float32(kind: Kind) -> None:
    exact, half = tiny_base(kind), tiny_base(kind, torch.bfloat16)
    assert half.weights_dtype == torch.float32
    held = {m.weight.dtype for m in half.unet.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert held == {torch.bfloat16}
    x_t = noisy(exact)
    expected = exact.predict(x_t, T, exact.encode_prompts(PROMPTS))
    output = half.predict(x_t, T, half.encode_prompts(PROMPTS))
    assert output.dtype == torch.float32
    error = (output - expected).norm() / expected.norm()
    assert 0 < error < 0.05  # bfloat16 keeps 8 bits; zero would mean that it was not used
