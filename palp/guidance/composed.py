"""Composed-score distillation at the inference prompt: ours, for the residual form."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from palp.guidance.distil import distils
from palp.guidance.rule import Denoisers


@distils("composed")
def composed(
    x_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"], denoisers: Denoisers, gamma: float
) -> Float[Tensor, "batch c h w"]:
    """G(x_t, y_P; S) + γ (G_base(x_t, y_c) − G_base(x_t, photo)).

    What the subject's model says of its own picture, plus the base's own change from photo to target.
    """
    (subject,) = denoisers.teacher(x_t, t, "personal")
    clean, photo = denoisers.base(x_t, t, "clean", "photo")
    return subject + gamma * (clean - photo)
