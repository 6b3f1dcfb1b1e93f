"""Drawing with adapters: one batch, one bank, and each picture goes through its own adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from palp.adapter import Adapter
from palp.bank import AdapterBank
from palp.base import Base, sample
from palp.base.sample import Guide, classifier_free
from palp.compose import in_one_frame
from palp.errors import InputError
from palp.opening import Opening, opening_ends, opening_prompt

__all__ = ["Picture", "Sampling", "batch_size", "batches_of", "draw"]

BATCH = 16
"""Pictures in one call of the sampler, at least."""
LATENTS = 16_384
"""Cells of latents that a GPU is given at once: small pictures keep it busy only if they are many."""


@dataclass(frozen=True)
class Picture:
    """What to draw.

    Args:
        prompt: may hold the adapter's words.
        seed: of the noise.
        adapter: None for the bare base.
        opening: the adapter in the opening, which is drawn at `opening_prompt`; None for no opening.
    """

    prompt: str
    seed: int
    adapter: Adapter | None = None
    opening: Adapter | None = None


@dataclass(frozen=True)
class Sampling:
    """How to draw.

    Args:
        steps: of denoising.
        guidance: classifier-free guidance scale.
        scheduler: "ddim" | "dpm++2m" | "euler".
        opening: of pictures that have one.

    Raises:
        InputError: a guidance scale that is not finite.
    """

    steps: int = 20
    guidance: float = 7.5
    scheduler: str = "ddim"
    opening: Opening = field(default_factory=Opening)

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
        adapter.check(base.fingerprint, base.sites("all"))
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
    adapters = _distinct(pictures)
    bank = AdapterBank.holding(base.unet, in_one_frame(adapters), spare=1).attach() if adapters else None
    null = base.encode_prompts([""])
    try:
        drawn = sample(
            base,
            null,
            null,
            [picture.seed for picture in pictures],
            steps=sampling.steps,
            scheduler=sampling.scheduler,
            guide=_guide(base, bank, pictures, sampling),
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


def _guide(base: Base, bank: AdapterBank | None, pictures: Sequence[Picture], sampling: Sampling) -> Guide:
    """Classifier-free guidance at the prompts through their adapters, and before that at what opens them."""
    whole = [(picture.prompt, picture.adapter) for picture in pictures]
    opens = [
        (opening_prompt(picture.prompt), picture.opening) if picture.opening else (picture.prompt, picture.adapter)
        for picture in pictures
    ]
    guide_at, opening = partial(_guide_at, base, bank, _distinct(pictures)), sampling.opening
    then = guide_at(whole, [sampling.guidance] * len(pictures))
    if not opening.share or opens == whole:
        return then
    scales = [opening.guided(sampling.guidance) if picture.opening else sampling.guidance for picture in pictures]
    first, ends = guide_at(opens, scales), opening_ends(len(base.schedule), opening.share)
    return lambda x_t, t: (first if int(t[0]) >= ends else then)(x_t, t)


@torch.no_grad()
def _guide_at(
    base: Base,
    bank: AdapterBank | None,
    adapters: Sequence[Adapter],
    rows: Sequence[tuple[str, Adapter | None]],
    scales: Sequence[float],
) -> Guide:
    """Classifier-free guidance at prompts, each through its adapter; the rows without text come first."""
    slots = [len(adapters) if adapter is None else adapters.index(adapter) for _, adapter in rows]
    through = torch.tensor(slots if set(scales) == {1} else slots + slots)
    words = [{} if adapter is None else adapter.placeholders for _, adapter in rows]
    text = base.encode_prompts([prompt for prompt, _ in rows], words)
    null = base.encode_prompts([""]).repeat(len(rows))

    def routed() -> AbstractContextManager[None]:
        return nullcontext() if bank is None else bank.route(through)

    with routed():
        guide = classifier_free(base, text, null, scales)

    def at(x_t: Tensor, t: Tensor) -> Tensor:
        with routed():
            return guide(x_t, t)

    return at


def _distinct(pictures: Sequence[Picture]) -> list[Adapter]:
    named = [adapter for picture in pictures for adapter in (picture.adapter, picture.opening)]
    return list(dict.fromkeys(adapter for adapter in named if adapter is not None))
