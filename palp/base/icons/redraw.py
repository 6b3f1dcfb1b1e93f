"""Latents as the denoiser makes them, beside the pictures that they should show: what the decoder is trained on, too.

A picture's own latents, noised and denoised again from part of the way, show the same picture with the denoiser's
grain and seams. A decoder that has seen such pairs takes these away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from palp.base import Base
from palp.base.icons import GUIDANCE
from palp.base.sample import classifier_free, denoise, initial_noise, make_scheduler

STEPS = 20
BATCH = 32


@torch.no_grad()
def redrawn(
    base: Base, latents: Float[Tensor, "n c h w"], captions: Sequence[str], steps: int
) -> Float[Tensor, "n c h w"]:
    """The latents noised up to the last `steps` of 20 DDIM steps, and denoised again with their captions and guidance.

    The seed of a picture's noise is its number.

    Arguments:
        steps: 1 to 20.
    """
    parts = []
    for start in range(0, len(latents), BATCH):
        part = latents[start : start + BATCH].float().to(base.device)
        seeds = range(start, start + len(part))
        parts.append(_redrawn(base, part, captions[start : start + BATCH], seeds, steps).cpu())
    return torch.cat(parts)


def _redrawn(base: Base, latents: Tensor, captions: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
    text, null = base.encode_prompts(captions), base.encode_prompts([""] * len(captions))
    sampler = make_scheduler(base, "ddim", STEPS)
    guide = classifier_free(base, text, null, GUIDANCE)
    times = sampler.timesteps[-steps:]
    t = torch.full((len(seeds),), int(times[0]), device=base.device)
    return denoise(sampler, times, base.schedule.add_noise(latents, initial_noise(base, seeds), t), guide)
