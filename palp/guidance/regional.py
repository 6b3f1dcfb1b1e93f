"""Regional distillation at the inference prompt: ours, for the residual form."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from palp.guidance.distil import distils
from palp.guidance.rule import Denoisers

CENTRE = 0.4  # share of the largest change at which a cell is half the subject's
STEEPNESS = 12.0  # of the way from the prompt's cells to the subject's


@distils("regional")
def regional(
    x_t: Float[Tensor, "batch c h w"], t: Int[Tensor, "batch"], denoisers: Denoisers, gamma: float
) -> Float[Tensor, "batch c h w"]:
    """G(x_t, y; S) + γ (1 − m) (G_base(x_t, y_c) − G(x_t, y; S)).

    Where the subject's adapter changes its class, m ≈ 1, its model has the say; elsewhere the base, which knows
    the prompt's every element, and to which a subject's adapter has nothing to add but its pictures' backgrounds.
    """
    subject, personal = denoisers.teacher(x_t, t, "target", "personal")
    clean, photo = denoisers.base(x_t, t, "clean", "photo")
    return subject + gamma * (1 - region(personal - photo)) * (clean - subject)


def region(change: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 1 h w"]:
    """Where a change is large, from 0 to 1: its size a cell, smoothed, between its least and its largest."""
    size = change.square().mean(dim=1, keepdim=True).sqrt()
    size = functional.avg_pool2d(size, 3, stride=1, padding=1, count_include_pad=False)
    low, high = size.amin(dim=(2, 3), keepdim=True), size.amax(dim=(2, 3), keepdim=True)
    share = (size - low) / (high - low).clamp(min=1e-8)
    return ((share - CENTRE) * STEEPNESS).sigmoid()
