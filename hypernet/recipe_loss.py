"""The loss that a corpus' adapters were trained by, for whatever a denoiser says."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.losses import energy
from hypernet.stage import Samples
from palp.base import NoiseSchedule
from palp.guidance import Rule
from palp.train import TrainSettings
from palp.train.draws import Batch
from palp.train.losses import draw_of

__all__ = ["RecipeLoss"]


class RecipeLoss:
    """w ‖output − goal‖² / dims of each sample of a batch, the goal what the corpus' rule distils there.

    Args:
        schedule: of the base.
        samples: on a stage that is attached.
        rule: of the corpus' recipe, in the residual form.
        recipe: its numbers; a prior is not among the losses here, see `hypernet.material.check_corpus`.
    """

    @torch.no_grad()
    def __init__(self, schedule: NoiseSchedule, samples: Samples, rule: Rule, recipe: TrainSettings) -> None:
        assert rule.target is not None  # a corpus' adapters are residual
        self._schedule, self._samples, self._min_snr = schedule, samples, recipe.min_snr
        self._goal = rule.target(samples.x_t, samples.batch.t, samples.denoisers, recipe.gamma)

    def __call__(self, output: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
        """The loss of a denoiser's own output at y; differentiable."""
        batch, samples = self._samples.batch, self._samples
        trained = Batch(samples.denoisers.subjects, batch.x0, batch.noise, batch.fresh_noise, batch.t)
        draw = draw_of(self._schedule, trained, samples.x_t, output)
        loss = draw.weight * energy(draw.pred - self._goal)
        return loss if self._min_snr is None else loss * self._schedule.min_snr_weight(batch.t, self._min_snr)
