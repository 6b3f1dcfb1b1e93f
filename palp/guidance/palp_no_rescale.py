"""PALP without the paper's rescaling: an ablation of the paper."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from palp.guidance.palp import direction
from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, register
from palp.guidance.terms import pull

SMALLEST_A = 1e-3  # schedules with zero-terminal SNR end in a = 0


@register("palp_no_rescale")
def palp_no_rescale(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
    """As `palp`, times s / a: Eq. 6 as it stands, largest at high noise. Section 5, ablation."""
    stretch = (draw.s / draw.a.clamp(min=SMALLEST_A)).flatten()
    d = direction(draw, denoisers, settings, draw.noise)
    return pull(draw.pred, d, draw.weight * stretch)
