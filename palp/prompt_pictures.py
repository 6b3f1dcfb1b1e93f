"""The base's own pictures of a prompt, to train its adapter on in the place of the subjects' pictures.

Noised pictures of y_c are what a sampler meets on its way to the prompt, with its style, its place and what stands
beside the subject, none of which a subject's own pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from palp.base import Base
from palp.draw import Picture, Sampling, batch_size, draw
from palp.recipes import guidance_scale
from palp.train import JobSubject

__all__ = ["clean_latents", "on_latents"]

AT_LEAST = 4  # pictures of a prompt, over all subjects
STEPS = 8  # denoising steps of each
SEEDS = 1000  # apart, so that no two seeds of a job share a picture


def clean_latents(base: Base, members: Sequence[JobSubject], seed: int) -> Float[Tensor, "subjects pictures c h w"]:
    """The base's own pictures of y_c with the class word of each subject, as latents; the same for a seed."""
    each = -(-AT_LEAST // len(members))
    texts = [member.prompts.clean for member in members for _ in range(each)]
    pictures = [Picture(text, seed * SEEDS + number) for number, text in enumerate(texts)]
    drawn = draw(base, pictures, Sampling(STEPS, guidance_scale(base.name)))
    with torch.no_grad():
        parts = [base.encode_images(part.to(base.device)) for part in drawn.split(batch_size(base))]
    latents = torch.cat(parts).float().cpu()
    return latents.view(len(members), each, *latents.shape[1:])


def on_latents(
    members: Sequence[JobSubject], latents: Float[Tensor, "subjects pictures c h w"]
) -> tuple[JobSubject, ...]:
    """The same subjects, each on its own row of pictures."""
    return tuple(replace(member, latents=own, source="") for member, own in zip(members, latents, strict=True))
