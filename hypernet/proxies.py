"""How good a hypernetwork is on prompts and subjects that it never saw, without drawing a picture.

G and S of the results table are about pictures' scores; here they are about the change Δ that an adapter makes to
the denoiser's output, which is what those scores come from and costs a thousandth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.factors import Factors
from hypernet.losses import energy
from hypernet.stage import Samples, Stage

__all__ = ["Changes", "Proxies", "changes", "measure"]


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
    """

    gain: float
    gain_of_mean: float
    cosine: float
    cosine_of_other: float
    specificity: float
    specificity_of_corpus: float

    @property
    def score(self) -> float:
        """What the best checkpoint is chosen by: gain plus specificity. A mean adapter gets its gain alone."""
        return self.gain + self.specificity


@dataclass(frozen=True, eq=False)
class Changes:
    """What adapters change in the denoiser's output, sample by sample.

    Args:
        wanted, wanted_other: the corpus' adapter of the sample's prompt, and of another prompt.
        own, other: the predictions for these.
        mean: the corpus' mean adapter.
    """

    wanted: Float[Tensor, "rows c h w"]
    wanted_other: Float[Tensor, "rows c h w"]
    own: Float[Tensor, "rows c h w"]
    other: Float[Tensor, "rows c h w"]
    mean: Float[Tensor, "rows c h w"]

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


@torch.no_grad()
def measure(stage: Stage, samples: list[Samples], predict: Predict, target: list[Factors], mean: Factors) -> Proxies:
    """The proxies over batches of samples.

    Args:
        stage: attached, with the held-out subjects.
        predict: the factors of a batch's prompts.
        target: the corpus' adapters of each batch's prompts.
        mean: the corpus' mean, one adapter.
    """
    parts = [changes(stage, batch, predict, wanted, mean) for batch, wanted in zip(samples, target, strict=True)]
    return _summary(Changes.cat(parts))


@torch.no_grad()
def changes(stage: Stage, samples: Samples, predict: Predict, target: Factors, mean: Factors) -> Changes:
    """The changes of one batch of samples; see `measure`."""
    predicted, alone = predict(samples), stage.alone(samples)
    n = len(target)
    following = (samples.batch.rows + 1) % n
    return Changes(
        wanted=stage.native(samples, target) - alone,
        wanted_other=stage.native(samples, target, following) - alone,
        own=stage.native(samples, predicted) - alone,
        other=stage.native(samples, predicted, following) - alone,
        mean=stage.native(samples, mean[[0] * n]) - alone,
    )


def _summary(found: Changes) -> Proxies:
    total = found.energy.sum().clamp(min=1e-20)
    return Proxies(
        gain=float(1 - found.missed(found.own).sum() / total),
        gain_of_mean=float(1 - found.missed(found.mean).sum() / total),
        cosine=float(_cosines(found.own, found.wanted).mean()),
        cosine_of_other=float(_cosines(found.other, found.wanted).mean()),
        specificity=float(found.told_apart.sum() / total),
        specificity_of_corpus=float(found.corpus_told_apart.sum() / total),
    )


def _cosines(left: Float[Tensor, "rows c h w"], right: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
    return torch.cosine_similarity(left.flatten(1), right.flatten(1), dim=1)
