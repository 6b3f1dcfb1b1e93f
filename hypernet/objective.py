"""The loss of a step, term by term."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypernet import losses
from hypernet.draws import HyperBatch
from hypernet.factors import Factors
from hypernet.model import Prediction
from hypernet.recipe_loss import RecipeLoss
from hypernet.settings import HyperSettings
from hypernet.stage import Samples, Stage
from palp.guidance import Rule
from palp.train import TrainSettings

__all__ = ["Terms"]


class Terms:
    """The terms of one batch, each evaluated when it is asked for; what they share is evaluated once.

    Args:
        stage: attached.
        batch: the draw.
        prediction: for the batch's prompts, and after them for prompts that no corpus has.
        target: the corpus' adapters of the batch's prompts; None where no term asks for them.
        mean: the corpus' mean, one adapter.
        rule: of the corpus' recipe.
        recipe: the numbers of it.
        settings: margin and temperature.
    """

    def __init__(
        self,
        stage: Stage,
        batch: HyperBatch,
        prediction: Prediction,
        target: Factors | None,
        mean: Factors,
        rule: Rule,
        recipe: TrainSettings,
        settings: HyperSettings,
    ) -> None:
        self._stage, self._batch, self._corpus, self._mean = stage, batch, target, mean
        self._rule, self._recipe, self._settings = rule, recipe, settings
        self._log_odds = prediction.log_odds
        self._predicted = prediction.factors[: len(batch.prompts)]

    def __call__(self, weights: Mapping[str, float]) -> dict[str, Float[Tensor, ""]]:
        """The mean of each term that has a weight."""
        terms: dict[str, Callable[[], Tensor]] = {
            "delta": lambda: losses.delta_error(self._predicted, self._target),
            "direction": lambda: losses.direction_error(self._predicted, self._target),
            "norm": lambda: losses.norm_error(self._predicted, self._target),
            "contrastive": self._contrastive,
            "behaviour": lambda: self._error,
            "shuffled": self._shuffled,
            "recipe": lambda: self._recipe_loss(self._output),
            "recipe_shuffled": self._recipe_shuffled,
            "trust": lambda: losses.trust(self._log_odds, self._known),
        }
        return {name: terms[name]().mean() for name in weights}

    def _contrastive(self) -> Float[Tensor, "prompts"]:
        clusters = [prompt.cluster for prompt in self._batch.prompts]
        same = torch.tensor([[one == other for other in clusters] for one in clusters], device=self._log_odds.device)
        cosines = losses.centred_cosines(self._predicted, self._target, self._mean)
        return losses.contrastive(cosines, same, self._settings.temperature)

    def _shuffled(self) -> Float[Tensor, "rows"]:
        """The margin between each prompt's own adapter and another prompt's, on the own prompt's samples."""
        error = losses.relative_error(self._output_of_other - self._alone, self._wanted)
        return losses.margin(self._error, error, self._settings.margin)

    def _recipe_shuffled(self) -> Float[Tensor, "rows"]:
        """The same in the recipe's loss, which alone teaches what all prompts share before what is each one's own."""
        own, other = self._recipe_loss(self._output), self._recipe_loss(self._output_of_other)
        return losses.margin(own, other, self._settings.recipe_margin)

    def _recipe_loss(self, output: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
        """The corpus' own loss, as if the predicted adapters were being trained; without any it is 1 on average."""
        return self._loss(output) / self._loss(self._alone).mean()

    @property
    def _target(self) -> Factors:
        assert self._corpus is not None
        return self._corpus

    @cached_property
    def _samples(self) -> Samples:
        return self._stage.samples(self._batch)

    @cached_property
    def _output(self) -> Float[Tensor, "rows c h w"]:
        return self._stage.native(self._samples, self._predicted)

    @cached_property
    def _output_of_other(self) -> Float[Tensor, "rows c h w"]:
        return self._stage.native(self._samples, self._predicted, self._batch.rows_of_others)

    @cached_property
    def _loss(self) -> RecipeLoss:
        return RecipeLoss(self._stage.base.schedule, self._samples, self._rule, self._recipe)

    @cached_property
    def _alone(self) -> Float[Tensor, "rows c h w"]:
        return self._stage.alone(self._samples)

    @cached_property
    def _wanted(self) -> Float[Tensor, "rows c h w"]:
        """What the corpus' adapters change."""
        with torch.no_grad():
            return self._stage.native(self._samples, self._target) - self._alone

    @cached_property
    def _error(self) -> Float[Tensor, "rows"]:
        return losses.relative_error(self._output - self._alone, self._wanted)

    @property
    def _known(self) -> Bool[Tensor, "batch"]:
        return torch.arange(len(self._log_odds), device=self._log_odds.device) < len(self._batch.prompts)
