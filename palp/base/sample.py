"""Pictures from noise, through the samplers of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from palp.base.base import Base
from palp.base.text import TextState
from palp.errors import InputError

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "euler": ("EulerDiscreteScheduler", {}),
}
"""Samplers by name: class of diffusers, options beside the base's configuration."""

Guide = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def sample(
    base: Base,
    text: TextState,
    null: TextState,
    seeds: Sequence[int],
    *,
    steps: int = 20,
    guidance: float = 7.5,
    scheduler: str = "ddim",
    guide: Guide | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "batch 3 H W"]:
    """Pictures in [-1, 1], one a seed.

    out = null + guidance (text − null), both halves in one call of the denoiser. Every seed has its own CPU
    generator, so a picture is the same alone or in a batch: within 1e-4 in float32, as batched kernels round
    differently.

    Arguments:
        text, null: states of the prompts and of the empty prompt; one row serves all seeds.
        seeds: one a picture.
        steps: denoising steps.
        guidance: scale; at 1 only `text` is evaluated.
        scheduler: "ddim", "dpm++2m" or "euler".
        guide: instead of classifier-free guidance, gives the native output for (x_t, t), x_t in the variance-
            preserving form of `NoiseSchedule`, t int64 [batch].
        callback: called after each step with its number from 0 and the sampler's latents.

    Raises:
        InputError: an unknown scheduler, steps that the base does not have, no seeds, or rows that do not match them.
    """
    sampler = make_scheduler(base, scheduler, steps)
    guide = guide or classifier_free(base, _rows(text, seeds), _rows(null, seeds), guidance)
    latents = initial_noise(base, seeds) * sampler.init_noise_sigma
    return base.decode_latents(denoise(sampler, sampler.timesteps, latents, guide, callback))


@torch.no_grad()
def denoise(
    sampler: Any,
    timesteps: Tensor,
    latents: Float[Tensor, "batch c h w"],
    guide: Guide,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "batch c h w"]:
    """Latents through some of the sampler's timesteps, in its own scale; the arguments are as in `sample`."""
    for step, timestep in enumerate(timesteps):
        x_t = sampler.scale_model_input(latents, timestep)
        t = torch.full((len(latents),), int(timestep), device=latents.device)
        latents = sampler.step(guide(x_t, t), timestep, latents, return_dict=False)[0]
        if callback is not None:
            callback(step, latents)
    return latents


def initial_noise(base: Base, seeds: Sequence[int]) -> Float[Tensor, "batch c h w"]:
    """Unit noise, each row from its own seed on the CPU."""
    if len(seeds) == 0:
        raise InputError("got no seeds, expected one a picture; give at least one")
    rows = [torch.randn(base.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(base.device)


def classifier_free(base: Base, text: TextState, null: TextState, guidance: float | Sequence[float]) -> Guide:
    """Classifier-free guidance as one batched call of the denoiser; the text's keys and values are made here, once.

    Args:
        guidance: the scale, or one a sample; 1 for all of them asks the denoiser for nothing but the text.
    """
    scales = [guidance] if isinstance(guidance, int | float) else guidance
    if set(scales) == {1}:
        alone = base.project(text)
        return lambda x_t, t: base.predict(x_t, t, alone)
    both = base.project(TextState.cat([null, text]))
    scale = torch.tensor(scales, device=base.device)[:, None, None, None]

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        without, with_text = base.predict(x_t.repeat(2, 1, 1, 1), t.repeat(2), both).chunk(2)
        return without + scale * (with_text - without)

    return guide


def make_scheduler(base: Base, name: str, steps: int) -> Any:
    """A sampler of diffusers with the base's configuration, set to `steps`.

    Latents are never clipped. Spacing "linspace" becomes "leading": timesteps stay whole, so that x_t sits at
    a noise level of the base's own schedule.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise InputError(f"got scheduler {name!r}, expected one of {', '.join(SCHEDULERS)}; choose one of these")
    check_steps(base, steps)
    class_name, options = SCHEDULERS[name]
    config = {key: value for key, value in base.scheduler_config.items() if key != "_class_name"}
    config |= {"clip_sample": False, "thresholding": False, **options}
    if config.get("timestep_spacing", "linspace") == "linspace":
        config["timestep_spacing"] = "leading"
    sampler = getattr(diffusers, class_name).from_config(config)
    sampler.set_timesteps(steps, device=base.device)
    return sampler


def check_steps(base: Base, steps: int) -> None:
    """Raise InputError unless the base's schedule has so many steps."""
    most = len(base.schedule)
    if not 1 <= steps <= most:
        raise InputError(f"got {steps} steps, expected 1 to {most}, which the base was trained with; 20 is usual")


def _rows(state: TextState, seeds: Sequence[int]) -> TextState:
    """`state` with a row a seed."""
    if len(state) == 1:
        return state.repeat(len(seeds))
    if len(state) != len(seeds):
        raise InputError(f"got {len(state)} prompts and {len(seeds)} seeds; give one prompt, or one a seed")
    return state
