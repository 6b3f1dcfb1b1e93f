"""Drawing by composing predictions while sampling: with what a rule of the residual form distils."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.adapter import Adapter
from palp.bank import AdapterBank
from palp.base import Base, TextState, sample
from palp.compose import in_one_frame
from palp.draw import Sampling
from palp.errors import InputError
from palp.guidance import Prompt, find_rule

__all__ = ["Composed", "draw_composed"]


@dataclass(frozen=True, eq=False)
class Composed:
    """What to draw.

    Args:
        prompts: those that the rule asks for.
        seed: of its noise.
        adapter: S.
    """

    prompts: Mapping[Prompt, str]
    seed: int
    adapter: Adapter


def draw_composed(
    base: Base, pictures: Sequence[Composed], rule: str, gamma: float, sampling: Sampling
) -> Float[Tensor, "pictures 3 H W"]:
    """Sample with a rule's target in place of a model's prediction, at more than twice the cost, in one batch.

    v = n + w (target(x_t, t; γ) − n),    n = v_S(∅)

    with w the guidance scale: classifier-free guidance of the subject's model S, whose conditional half is the
    target. At γ = 0 "composed" draws y_P with S, and "regional" y.

    Args:
        pictures: at least one; all have prompts of the same names.
        rule: of the residual form.
        sampling: steps, w, scheduler.

    Raises:
        InputError: a rule without a target.
    """
    target = find_rule(rule).target
    if target is None:
        raise InputError(f"the rule {rule!r} has no target to sample with: choose one of the residual form")
    models = _frozen(base, pictures)

    def guide(x_t: Float[Tensor, "rows c h w"], t: Int[Tensor, "rows"]) -> Float[Tensor, "rows c h w"]:
        (null,) = models.teacher(x_t, t, "null")
        return null + sampling.guidance * (target(x_t, t, models, gamma) - null)

    null, seeds = models.texts["null"], [picture.seed for picture in pictures]
    models.bank.attach()
    try:
        return sample(base, null, null, seeds, steps=sampling.steps, scheduler=sampling.scheduler, guide=guide).cpu()
    finally:
        models.bank.detach()


def _frozen(base: Base, pictures: Sequence[Composed]) -> _Frozen:
    adapters = list(dict.fromkeys(picture.adapter for picture in pictures))
    bank = AdapterBank.holding(base.unet, in_one_frame(adapters))
    words = [picture.adapter.placeholders for picture in pictures]
    with torch.no_grad():
        texts = {name: base.encode_prompts([p.prompts[name] for p in pictures], words) for name in pictures[0].prompts}
        texts["null"] = base.encode_prompts([""]).repeat(len(pictures))
    return _Frozen(base, bank, torch.tensor([adapters.index(p.adapter) for p in pictures]), texts)


@dataclass(frozen=True, eq=False)
class _Frozen:
    """The base and each row's subject model as a target asks them, in native form: a target's weights sum to one."""

    model: Base
    bank: AdapterBank
    slots: Int[Tensor, "rows"]
    texts: Mapping[Prompt, TextState]

    def base(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Without the adapter."""
        n = len(prompts)
        text = TextState.cat([self.texts[prompt] for prompt in prompts])
        return self.model.predict(x_t.repeat(n, 1, 1, 1), t.repeat(n), text).chunk(n)

    def teacher(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """With it."""
        with self.bank.route(self.slots.repeat(len(prompts))):
            return self.base(x_t, t, *prompts)

    student = teacher  # nothing is in training
