"""Composed-score distillation at the inference prompt: ours, for the residual form."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from palp.guidance.rule import Denoisers, Draw, GuidanceSettings, register
from palp.guidance.terms import squared_error


@register("composed", student_prompt="target", residual=True)
def composed(draw: Draw, denoisers: Denoisers, settings: GuidanceSettings) -> Float[Tensor, "batch"]:
    """w ‖G(x_t, y; S+D) − [G(x_t, y_P; S) + γ (G_base(x_t, y_c) − G_base(x_t, photo))]‖² / dims.

    What the subject's model says of its own picture, plus the base's own change from photo to target. Both
    sides have weights that sum to one, so with w the loss is the same in the noise and in the v form.
    """
    (subject,) = denoisers.teacher(draw.x_t, draw.t, "personal")
    clean, photo = denoisers.base(draw.x_t, draw.t, "clean", "photo")
    return draw.weight * squared_error(draw.pred, subject + settings.gamma * (clean - photo))
