"""What a prompt's adapter is trained on: the subjects' own pictures, or the base's pictures of the prompt.

The second kind is where a personalised model goes wrong: noised pictures of y_c are what a sampler meets on its way to
the prompt, with its style, its place and what stands beside the subject, none of which a subject's own pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from palp.atomic import atomic_write
from palp.base import Base
from palp.corpus.subjects import Teacher
from palp.draw import Picture, Sampling, batch_size, draw
from palp.recipes import guidance_scale
from palp.train import JobSubject

__all__ = ["clean_latents", "members"]

AT_LEAST = 4  # pictures of a prompt, over all subjects
STEPS = 8  # denoising steps of each
SEEDS = 1000  # apart, so that no two seeds of a corpus share a picture


def clean_latents(
    base: Base, prompt: str, teachers: Sequence[Teacher], seed: int
) -> Float[Tensor, "teachers pictures c h w"]:
    """The base's own pictures of y_c with the class word of each subject, as latents; the same for a seed."""
    each = -(-AT_LEAST // len(teachers))
    texts = [teacher.at(prompt).prompts.clean for teacher in teachers for _ in range(each)]
    pictures = [Picture(text, seed * SEEDS + number) for number, text in enumerate(texts)]
    drawn = draw(base, pictures, Sampling(STEPS, guidance_scale(base.name)))
    with torch.no_grad():
        parts = [base.encode_images(part.to(base.device)) for part in drawn.split(batch_size(base))]
    latents = torch.cat(parts).float().cpu()
    return latents.view(len(teachers), each, *latents.shape[1:])


def members(
    base: Base, prompt: str, teachers: Sequence[Teacher], pictures: str, seed: int, path: Path | None = None
) -> tuple[JobSubject, ...]:
    """A prompt over frozen subjects, as a residual job has them.

    Args:
        pictures: "subject" or "prompt".
        seed: of pictures of the prompt.
        path: of a file that keeps these; drawn if it is not there.
    """
    if pictures == "subject":
        return tuple(teacher.at(prompt) for teacher in teachers)
    if path is not None and path.is_file():
        latents = load_file(path)["latents"]
    else:
        latents = clean_latents(base, prompt, teachers, seed)
        if path is not None:
            with atomic_write(path) as temporary:
                temporary.write_bytes(serialize({"latents": latents.contiguous()}))
    return tuple(teacher.at(prompt, own) for teacher, own in zip(teachers, latents, strict=True))
