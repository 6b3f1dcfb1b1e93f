"""No guidance: the subject alone, as DreamBooth with a learned word (TI+DB)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, register


@register("none")
def none(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
    """Zero."""
    return draw.pred.new_zeros(len(draw.t))
