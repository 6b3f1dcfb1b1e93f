"""Drawing with adapters: one batch, one bank, and each picture goes through its own adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from palp.adapter import Adapter
from palp.bank import AdapterBank
from palp.base import Base, sample
from palp.compose import in_one_frame
from palp.errors import InputError

__all__ = ["Picture", "Sampling", "batch_size", "batches_of", "draw"]

BATCH = 16
"""Pictures in one call of the sampler, at least."""
LATENTS = 16_384
"""Cells of latents that a GPU is given at once: small pictures keep it busy only if they are many."""


@dataclass(frozen=True)
class Picture:
    """What to draw: a prompt that may hold the adapter's words, a seed, and the adapter, None for the bare base."""

    prompt: str
    seed: int
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Sampling:
    """How to draw: denoising steps, classifier-free guidance scale, "ddim" | "dpm++2m" | "euler".

    Raises:
        InputError: a guidance scale that is not finite.
    """

    steps: int = 20
    guidance: float = 7.5
    scheduler: str = "ddim"

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise InputError(f"the guidance scale is {self.guidance}, and must be finite: 1 is none, 7.5 usual")


def draw(
    base: Base,
    pictures: Sequence[Picture],
    sampling: Sampling,
    callback: Callable[[], None] | None = None,
) -> Float[Tensor, "pictures 3 H W"]:
    """The pictures in [-1, 1], on the CPU; each is the same alone or among others.

    Args:
        callback: called after every denoising step of every batch.

    Raises:
        AdapterMismatchError: an adapter of another base.
        UnknownPlaceholderError: a prompt holds a word that its adapter has not learned.
        InputError: a scale so large that a picture is not finite.
    """
    for adapter in _distinct(pictures):
        adapter.check(base.fingerprint, base.sites())
    size = batch_size(base)
    batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    return torch.cat([_draw(base, batch, sampling, callback) for batch in batches])


def batch_size(base: Base) -> int:
    """Pictures in one call of the sampler, and adapters that one bank best trains for an evaluation."""
    cells = math.prod(base.latent_shape[1:])
    return BATCH if base.device.type == "cpu" else max(BATCH, LATENTS // cells)


def batches_of(base: Base, count: int) -> int:
    """How many batches `draw` makes of so many pictures."""
    return -(-count // batch_size(base))


def _draw(
    base: Base, pictures: Sequence[Picture], sampling: Sampling, callback: Callable[[], None] | None
) -> Float[Tensor, "pictures 3 H W"]:
    words = [picture.adapter.placeholders if picture.adapter else {} for picture in pictures]
    with torch.no_grad():
        text = base.encode_prompts([picture.prompt for picture in pictures], words)
        null = base.encode_prompts([""])
    adapters = _distinct(pictures)
    bank = _bank(base, adapters) if adapters else None
    try:
        with nullcontext() if bank is None else bank.route(_slots(pictures, adapters, sampling.guidance)):
            drawn = sample(
                base,
                text,
                null,
                [picture.seed for picture in pictures],
                steps=sampling.steps,
                guidance=sampling.guidance,
                scheduler=sampling.scheduler,
                callback=None if callback is None else lambda step, latents: callback(),
            ).cpu()
    finally:
        if bank is not None:
            bank.detach()
    if not drawn.isfinite().all():
        scales = "" if bank is None else " or the strength of an adapter"
        raise InputError(
            f"the pictures are not finite: the guidance scale of {sampling.guidance:g}{scales} is too large; "
            "choose a smaller one"
        )
    return drawn


def _bank(base: Base, adapters: Sequence[Adapter]) -> AdapterBank:
    """The adapters in their slots, and one empty slot after them: the bare base."""
    return AdapterBank.holding(base.unet, in_one_frame(adapters), spare=1).attach()


def _slots(pictures: Sequence[Picture], adapters: Sequence[Adapter], guidance: float) -> Tensor:
    """The slot of every row of the denoiser's batch: with guidance, the rows without text come first."""
    slots = [len(adapters) if p.adapter is None else adapters.index(p.adapter) for p in pictures]
    return torch.tensor(slots if guidance == 1 else slots + slots)


def _distinct(pictures: Sequence[Picture]) -> list[Adapter]:
    return list(dict.fromkeys(picture.adapter for picture in pictures if picture.adapter is not None))
