"""PALP with another noise in x̂_t: an ablation of the paper."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from palp.guidance.palp import direction
from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, register
from palp.guidance.terms import pull


@register("palp_fresh_noise")
def palp_fresh_noise(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
    """As `palp`, and x̂_t = a x̂0 + s ε' with an ε' of its own. Section 5, ablation."""
    return pull(draw.pred, direction(draw, denoisers, settings, draw.fresh_noise), draw.weight)
