"""What the rules share: classifier-free guidance, and the loss whose gradient is a given direction."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from palp.guidance.rule import Prompt

Ask = Callable[..., tuple[Tensor, ...]]


def guided(
    ask: Ask, x_t: Float[Tensor, "batch c h w"], t: Tensor, prompt: Prompt, scale: float
) -> Float[Tensor, "batch c h w"]:
    """G^scale = (1 − scale) G(∅) + scale G(prompt), Eq. 5; a branch of weight zero is not evaluated.

    Args:
        ask: one of the `Denoisers`.
    """
    if scale == 1:
        return ask(x_t, t, prompt)[0]
    if scale == 0:
        return ask(x_t, t, "null")[0]
    null, text = ask(x_t, t, "null", prompt)
    return null + scale * (text - null)


def pull(
    pred: Float[Tensor, "batch c h w"],
    direction: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """−w ⟨direction, pred⟩ / dims: descent moves `pred` along `direction`, to which no gradient flows."""
    return -weight * (direction.detach() * pred).flatten(1).mean(1)


def squared_error(pred: Float[Tensor, "batch c h w"], target: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch"]:
    """‖pred − target‖² / dims."""
    return (pred - target).square().flatten(1).mean(1)
