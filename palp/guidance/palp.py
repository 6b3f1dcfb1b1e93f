"""Prompt-aligned personalization, Eq. 6 and 7."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, register
from palp.guidance.terms import guided, pull


@register("palp")
def palp(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
    """−w ⟨G^α_base(x̂_t, y_c) − G^β_student(x̂_t, y_P), pred⟩ / dims, x̂_t = a x̂0 + s ε with the ε of x_t.

    ∂x̂0/∂θ = −(s / a) ∂pred/∂θ (Eq. 7); times a / s, the paper's rescaling, the update is uniform over t. The
    gradient in pred is −w d / dims: descent moves the prediction toward the base's guided noise. Section 4.2.
    """
    return pull(draw.pred, direction(draw, denoisers, settings, draw.noise), draw.weight)


def direction(
    draw: Draw, denoisers: Denoisers, settings: GuidanceSettings, noise: Float[Tensor, "batch c h w"]
) -> Float[Tensor, "batch c h w"]:
    """d = G^α_base(x̂_t, y_c) − G^β_student(x̂_t, y_P), both at x̂_t = a x̂0 + s noise."""
    x_t = draw.a * draw.x0_pred + draw.s * noise
    toward = guided(denoisers.base, x_t, draw.t, "clean", settings.alpha)
    away = guided(denoisers.student, x_t, draw.t, "personal", settings.beta)
    return toward - away
