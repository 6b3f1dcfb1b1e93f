"""Rules that distil a target at the inference prompt, over a frozen subject adapter: the residual form."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, Rule, Target, add_rule
from palp.guidance.terms import squared_error


def distils(name: str) -> Callable[[Target], Target]:
    """Decorator: the function is the target of the rule `name`, whose loss is w ‖G(x_t, y; S+D) − target‖² / dims."""

    def add(target: Target) -> Target:
        def loss(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
            goal = target(draw.x_t, draw.t, denoisers, settings.gamma)
            return draw.weight * squared_error(draw.pred, goal)

        add_rule(Rule(name, loss, "target", target))
        return target

    return add
