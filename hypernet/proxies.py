"""How good a hypernetwork is on prompts and subjects that it never saw, without drawing a picture.

G and S of the results table are about pictures' scores; here they are about the denoiser's output, which is what
those scores come from and costs a thousandth: the change Δ that an adapter makes to it, and the recipe's own loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.factors import Factors
from hypernet.losses import energy
from hypernet.recipe_loss import RecipeLoss
from hypernet.stage import Samples, Stage
from palp.guidance import Rule
from palp.train import TrainSettings

__all__ = ["Changes", "Exam", "Proxies"]


@dataclass(frozen=True)
class Proxies:
    """Of held-out prompts, on held-out subjects.

    Args:
        gain: 1 − Σ‖Δ̂ − Δ‖² / Σ‖Δ‖², Δ the corpus adapters' change: 1 is the oracle, 0 is doing nothing.
        gain_of_mean: the same of the corpus' mean adapter.
        cosine: mean cosine of Δ̂ and Δ.
        cosine_of_other: the same with another prompt's prediction.
        specificity: share of Δ that the own prediction recovers less that of another's, Σ⟨Δ̂ − Δ̂', Δ⟩ / Σ‖Δ‖²;
            0 for a mean adapter.
        specificity_of_corpus: the same of the corpus' own adapters: all that there is to tell apart.
        recipe_gain: share of the recipe's own loss that the prediction takes away, 1 − Σ loss / Σ loss of the subjects
            alone. What generalises may take away more than the corpus' adapters, which each saw a few hundred samples.
        recipe_gain_of_other: the same of another prompt's prediction.
        recipe_gain_of_corpus: the same of the corpus' adapters.
    """

    gain: float
    gain_of_mean: float
    cosine: float
    cosine_of_other: float
    specificity: float
    specificity_of_corpus: float
    recipe_gain: float
    recipe_gain_of_other: float
    recipe_gain_of_corpus: float

    @property
    def score(self) -> float:
        """What the best checkpoint is chosen by: G + S in the recipe's loss. A mean adapter gets its G alone."""
        return self.recipe_gain + (self.recipe_gain - self.recipe_gain_of_other)


@dataclass(frozen=True, eq=False)
class Changes:
    """What adapters change in the denoiser's output, and what is left of the recipe's loss, sample by sample.

    Args:
        wanted, wanted_other: the corpus' adapter of the sample's prompt, and of another prompt.
        own, other: the predictions for these.
        mean: the corpus' mean adapter.
        left: the recipe's loss with the own prediction.
        left_by_other, left_by_corpus, left_alone: with another prompt's, the corpus' adapter, and none.
    """

    wanted: Float[Tensor, "rows c h w"]
    wanted_other: Float[Tensor, "rows c h w"]
    own: Float[Tensor, "rows c h w"]
    other: Float[Tensor, "rows c h w"]
    mean: Float[Tensor, "rows c h w"]
    left: Float[Tensor, "rows"]
    left_by_other: Float[Tensor, "rows"]
    left_by_corpus: Float[Tensor, "rows"]
    left_alone: Float[Tensor, "rows"]

    @staticmethod
    def cat(parts: Sequence[Changes]) -> Changes:
        """Those of all parts, one after another."""
        names = [field.name for field in fields(Changes)]
        return Changes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    @property
    def energy(self) -> Float[Tensor, "rows"]:
        """‖Δ‖² / dims."""
        return energy(self.wanted)

    def missed(self, change: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
        """‖change − Δ‖² / dims."""
        return energy(change - self.wanted)

    @property
    def told_apart(self) -> Float[Tensor, "rows"]:
        """⟨Δ̂ − Δ̂', Δ⟩ / dims."""
        return ((self.own - self.other) * self.wanted).flatten(1).mean(1)

    @property
    def corpus_told_apart(self) -> Float[Tensor, "rows"]:
        """⟨Δ − Δ', Δ⟩ / dims."""
        return ((self.wanted - self.wanted_other) * self.wanted).flatten(1).mean(1)


Predict = Callable[[Samples], Factors]


@dataclass(frozen=True, eq=False)
class Exam:
    """How predictions are measured.

    Args:
        stage: attached, with the held-out subjects.
        rule: of the corpus' recipe.
        recipe: the numbers of it.
        mean: the corpus' mean, one adapter.
    """

    stage: Stage
    rule: Rule
    recipe: TrainSettings
    mean: Factors

    @torch.no_grad()
    def measure(self, samples: list[Samples], predict: Predict, target: list[Factors]) -> Proxies:
        """The proxies over batches of samples.

        Args:
            predict: the factors of a batch's prompts.
            target: the corpus' adapters of each batch's prompts.
        """
        return _summary(Changes.cat([self.changes(*part, predict) for part in zip(samples, target, strict=True)]))

    @torch.no_grad()
    def changes(self, samples: Samples, target: Factors, predict: Predict) -> Changes:
        """The changes of one batch of samples; see `measure`."""
        stage, predicted, n = self.stage, predict(samples), len(target)
        others = samples.batch.rows_of_others
        alone, own, other, wanted = (
            stage.alone(samples),
            stage.native(samples, predicted),
            stage.native(samples, predicted, others),
            stage.native(samples, target),
        )
        left = RecipeLoss(stage.base.schedule, samples, self.rule, self.recipe)
        return Changes(
            wanted=wanted - alone,
            wanted_other=stage.native(samples, target, others) - alone,
            own=own - alone,
            other=other - alone,
            mean=stage.native(samples, self.mean[[0] * n]) - alone,
            left=left(own),
            left_by_other=left(other),
            left_by_corpus=left(wanted),
            left_alone=left(alone),
        )


def _summary(found: Changes) -> Proxies:
    total, alone = found.energy.sum().clamp(min=1e-20), found.left_alone.sum().clamp(min=1e-20)
    return Proxies(
        gain=float(1 - found.missed(found.own).sum() / total),
        gain_of_mean=float(1 - found.missed(found.mean).sum() / total),
        cosine=float(_cosines(found.own, found.wanted).mean()),
        cosine_of_other=float(_cosines(found.other, found.wanted).mean()),
        specificity=float(found.told_apart.sum() / total),
        specificity_of_corpus=float(found.corpus_told_apart.sum() / total),
        recipe_gain=float(1 - found.left.sum() / alone),
        recipe_gain_of_other=float(1 - found.left_by_other.sum() / alone),
        recipe_gain_of_corpus=float(1 - found.left_by_corpus.sum() / alone),
    )


def _cosines(left: Float[Tensor, "rows c h w"], right: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
    return torch.cosine_similarity(left.flatten(1), right.flatten(1), dim=1)
