"""A subject beside things that the base knows: the left half of each picture is the user's, the right half the base's.

The two of a pair stand at places of their own and smaller than a thing alone, and there they are other latent codes
(see `placement`): a subject that was learned alone only is hardly itself beside a second thing. Pictures of different
sources side by side, with a caption that names both, are what SVDiff (Han et al. 2023, arXiv 2303.11305, Section 3.3)
learns several subjects from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from palp.base.base import Base, Shown
from palp.base.icons import GUIDANCE
from palp.base.icons.grammar import Scene, caption
from palp.base.icons.placement import PAIRED, moved_to
from palp.base.sample import classifier_free, denoise, initial_noise, make_scheduler

COMPANIONS = ("clock", "tree", "penguin", "house", "banana", "snowman", "pizza", "horse")
SOMEBODY = "cat"  # stands on the left until the subject takes its place
STEPS = 20


@dataclass(frozen=True)
class Company:
    """Shows a subject on the left of one thing after another; `palp.base.Base.company` of the embedded base.

    Arguments:
        things: concepts of the base.
    """

    things: tuple[str, ...] = COMPANIONS

    def __call__(self, base: Base, pictures: Float[Tensor, "n 3 H W"]) -> tuple[Shown, ...]:
        """One picture for each thing, in turns from the subject's own; none where it is not found in them.

        Arguments:
            base: of the kind `icons`.
            pictures: of one subject, in [-1, 1]; 128 pixels a side.
        """
        found = [picture for picture in moved_to(pictures, PAIRED) if picture is not None]
        if not found:
            return ()
        own = base.encode_images(torch.stack(found))
        half = own.shape[-1] // 2
        return tuple(
            Shown(torch.cat([own[[turn % len(own)], ..., :half], pair[None, ..., half:]], dim=-1), f"next to a {thing}")
            for turn, (thing, pair) in enumerate(zip(self.things, pairs(base, self.things), strict=True))
        )


_drawn: dict[tuple[object, ...], Tensor] = {}  # the same for every subject


def pairs(base: Base, things: tuple[str, ...]) -> Float[Tensor, "things c h w"]:
    """Latents of somebody beside each thing, as the base draws them; drawn once in a process."""
    key = base.fingerprint, base.arithmetic, base.device, things
    if key not in _drawn:
        _drawn[key] = _draw(base, things)
    return _drawn[key]


@torch.no_grad()
def _draw(base: Base, things: tuple[str, ...]) -> Float[Tensor, "things c h w"]:
    captions = [caption(Scene(SOMEBODY, companion=thing)) for thing in things]
    text, null = base.encode_prompts(captions), base.encode_prompts([""] * len(captions))
    sampler = make_scheduler(base, "ddim", STEPS)
    noise = initial_noise(base, range(len(captions))) * sampler.init_noise_sigma
    return denoise(sampler, sampler.timesteps, noise, classifier_free(base, text, null, GUIDANCE))
