"""Score distillation sampling, on the personalised model's estimate x̂0."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, register
from palp.guidance.terms import guided, pull


@register("sds")
def sds(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
    """−w ⟨G^α_base(x̂_t, y_c) − ε, pred⟩ / dims, x̂_t = a x̂0 + s ε; rescaled as `palp`.

    Eq. 4; Poole et al., arXiv 2209.14988.
    """
    x_t = draw.a * draw.x0_pred + draw.s * draw.noise
    toward = guided(denoisers.base, x_t, draw.t, "clean", settings.alpha)
    return pull(draw.pred, toward - draw.noise, draw.weight)
