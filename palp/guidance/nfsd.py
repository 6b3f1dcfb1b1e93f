"""Noise-free score distillation, on the personalised model's estimate x̂0."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, register
from palp.guidance.terms import pull

SMALL_NOISE = 0.2  # share of the timesteps below which G(∅) is all domain correction


@register("nfsd")
def nfsd(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
    """−w ⟨δ_D + α (G(y_c) − G(∅)), pred⟩ / dims at x̂_t; rescaled as `palp`.

    δ_D = G(∅) for t < 200 of 1000, else G(∅) − G(negative prompt). Katzir et al., arXiv 2310.17590.
    """
    x_t = draw.a * draw.x0_pred + draw.s * draw.noise
    null, clean, negative = denoisers.base(x_t, draw.t, "null", "clean", "negative")
    little = (draw.t < SMALL_NOISE * draw.timesteps)[:, None, None, None]
    domain = null - negative.where(~little, 0)
    return pull(draw.pred, domain + settings.alpha * (clean - null), draw.weight)
