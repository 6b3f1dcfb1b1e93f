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
from palp.draw import Sampling
from palp.errors import InputError
from palp.guidance import Prompt, find_rule

__all__ = ["draw_composed"]


def draw_composed(
    base: Base,
    adapter: Adapter,
    prompts: Mapping[Prompt, str],
    seeds: Sequence[int],
    rule: str,
    gamma: float,
    sampling: Sampling,
) -> Float[Tensor, "seeds 3 H W"]:
    """Sample with a rule's target in place of a model's prediction, at more than twice the cost.

    v = n + w (target(x_t, t; γ) − n),    n = v_S(∅)

    with w the guidance scale: classifier-free guidance of the subject's model S, whose conditional half is the
    target. At γ = 0 "composed" draws y_P with S, and "regional" y.

    Args:
        adapter: S.
        prompts: those that the rule asks for.
        seeds: one a picture.
        rule: of the residual form.
        sampling: steps, w, scheduler.

    Raises:
        InputError: a rule without a target.
    """
    target = find_rule(rule).target
    if target is None:
        raise InputError(f"the rule {rule!r} has no target to sample with: choose one of the residual form")
    bank = AdapterBank(base.unet, adapter.spec, 1)
    bank.write(0, adapter)
    with torch.no_grad():
        texts = base.encode_prompts(["", *prompts.values()], adapter.placeholders)
    models = _Frozen(base, bank, {name: texts[[row]] for row, name in enumerate(("null", *prompts))})

    def guide(x_t: Float[Tensor, "rows c h w"], t: Int[Tensor, "rows"]) -> Float[Tensor, "rows c h w"]:
        (null,) = models.teacher(x_t, t, "null")
        return null + sampling.guidance * (target(x_t, t, models, gamma) - null)

    bank.attach()
    try:
        return sample(
            base, texts[:1], texts[:1], seeds, steps=sampling.steps, scheduler=sampling.scheduler, guide=guide
        ).cpu()
    finally:
        bank.detach()


@dataclass(frozen=True, eq=False)
class _Frozen:
    """The base and the subject's model as a target asks them, in native form: a target's weights sum to one."""

    model: Base
    bank: AdapterBank
    texts: Mapping[Prompt, TextState]

    def base(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Without the adapter."""
        n = len(prompts)
        text = TextState.cat([self.texts[prompt].repeat(len(x_t)) for prompt in prompts])
        return self.model.predict(x_t.repeat(n, 1, 1, 1), t.repeat(n), text).chunk(n)

    def teacher(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """With it."""
        with self.bank.route(torch.zeros(len(prompts) * len(x_t), dtype=torch.long)):
            return self.base(x_t, t, *prompts)

    student = teacher  # nothing is in training
