"""Sampling against the whole pipelines of diffusers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from palp.base import Base, sample
from palp.base.sample import SCHEDULERS, classifier_free, initial_noise, make_scheduler
from palp.errors import InputError
from tests.tiny import KINDS, Kind, tiny_base, tiny_pipeline

ALONE_OR_BATCHED: dict[str, Any] = {"rtol": 0.0, "atol": 1e-4}  # what `sample` promises, float32
ROUNDED: dict[str, Any] = {
    "rtol": 1e-3,
    "atol": 1e-4,
}  # float32 through several steps, attention sums in another order

ORACLES: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
SEEDS, STEPS = [3, 4], 4

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


def pictures(base: Base, seeds: list[int], **options: Any) -> Tensor:
    text, null = base.encode_prompts(["a photo of a cat"]), base.encode_prompts([""])
    return sample(base, text, null, seeds, steps=STEPS, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_sample_is_the_pipeline(kind: Kind, scheduler: str, guidance: float) -> None:
    base, pipeline = tiny_base(kind), tiny_pipeline(kind)
    pipeline.scheduler = ORACLES[scheduler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    latents: list[Tensor] = []
    expected = pipeline(
        ["a photo of a cat"] * len(SEEDS),
        latents=initial_noise(base, SEEDS),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="pt",
        callback_on_step_end=lambda pipe, step, t, state: latents.append(state["latents"]) or {},  # type: ignore[func-returns-value]
    ).images
    ours: list[Tensor] = []
    images = pictures(base, SEEDS, scheduler=scheduler, guidance=guidance, callback=lambda step, x: ours.append(x))
    assert len(ours) == len(latents) == STEPS
    for got, want in zip(ours, latents, strict=True):
        torch.testing.assert_close(got, want, **ROUNDED)
    torch.testing.assert_close(images, expected * 2 - 1, **ROUNDED)
    assert images.std() > 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_picture_is_the_same_alone_or_in_a_batch(kind: Kind, scheduler: str) -> None:
    base = tiny_base(kind)
    batch = pictures(base, [7, 1, 7, 5], scheduler=scheduler)
    torch.testing.assert_close(batch[1:2], pictures(base, [1], scheduler=scheduler), **ALONE_OR_BATCHED)
    torch.testing.assert_close(batch[0], batch[2], **ALONE_OR_BATCHED)
    assert (batch[0] - batch[3]).abs().max() > 0.05


def test_every_seed_may_have_its_prompt() -> None:
    base = tiny_base("sdxl")
    text, null = base.encode_prompts(["a photo of a cat", "cat"]), base.encode_prompts([""])
    both = sample(base, text, null, [1, 1], steps=STEPS)
    alone = sample(base, text[1:], null, [1], steps=STEPS)
    torch.testing.assert_close(both[1:], alone, **ALONE_OR_BATCHED)
    assert (both[0] - both[1]).abs().max() > 10 * ALONE_OR_BATCHED["atol"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_guide_replaces_guidance_and_sees_the_bases_noise_levels(kind: Kind, scheduler: str) -> None:
    base = tiny_base(kind)
    text, null = (base.encode_prompts([prompt]).repeat(2) for prompt in ("a photo of a cat", ""))
    usual = classifier_free(base, text, null, 7.5)
    noise = initial_noise(base, [8, 9])
    seen: list[int] = []
    x0 = initial_noise(base, [5, 6])

    def oracle(x_t: Tensor, t: Tensor) -> Tensor:
        """Knows noise and picture: every x_t must then lie on the schedule's line between them."""
        nonlocal x0, noise
        if not seen and base.schedule.a(t)[0] > 0:
            x0 = (x_t - base.schedule.s(t) * noise) / base.schedule.a(t)
        elif not seen:
            noise = x_t
        seen.append(int(t[0]))
        torch.testing.assert_close(x_t, base.schedule.add_noise(x0, noise, t), rtol=1e-3, atol=1e-3)
        return base.schedule.target(x0, noise, t)

    sample(base, text, null, SEEDS, steps=8, scheduler=scheduler, guide=oracle)
    assert len(set(seen)) == 8
    guided = sample(base, text, null, SEEDS, steps=STEPS, scheduler=scheduler, guide=usual)
    torch.testing.assert_close(guided, pictures(base, SEEDS, scheduler=scheduler), **ALONE_OR_BATCHED)


@pytest.mark.parametrize("spacing", [{}, {"timestep_spacing": "linspace"}])
def test_timesteps_stay_whole(spacing: dict[str, str]) -> None:
    base = tiny_base("sd1")
    config = {key: value for key, value in base.scheduler_config.items() if key != "timestep_spacing"}
    base = replace(base, scheduler_config=config | spacing)
    for name in SCHEDULERS:
        timesteps = make_scheduler(base, name, 7).timesteps.float()
        torch.testing.assert_close(timesteps, timesteps.round(), rtol=0, atol=0)


def test_latents_are_never_clipped() -> None:
    base = tiny_base("sd1")
    base = replace(base, scheduler_config={**base.scheduler_config, "clip_sample": True, "thresholding": True})
    for name in SCHEDULERS:
        config = make_scheduler(base, name, 5).config
        assert not config.get("clip_sample", False)
        assert not config.get("thresholding", False)


def test_wrong_requests() -> None:
    base = tiny_base("sd1")
    text = base.encode_prompts(["a cat", "cat", "to"])
    with pytest.raises(InputError, match=r"heun.*ddim"):
        sample(base, text[:1], text[:1], [1], scheduler="heun")
    with pytest.raises(InputError, match="3 prompts and 2 seeds"):
        sample(base, text, text[:1], [1, 2])
    with pytest.raises(InputError, match="no seeds"):
        sample(base, text[:1], text[:1], [])
    for steps in (0, 1001):
        with pytest.raises(InputError, match=f"{steps} steps, expected 1 to 1000"):
            sample(base, text[:1], text[:1], [1], steps=steps)
