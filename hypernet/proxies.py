"""How good a hypernetwork is on prompts and subjects that it never saw, without drawing a picture.

G and S of the results table are about pictures' scores; here they are about the change Δ that an adapter makes to
the denoiser's output, which is what those scores come from and costs a thousandth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.factors import Factors
from hypernet.losses import energy
from hypernet.stage import Samples, Stage

__all__ = ["Proxies", "measure"]


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
    """

    gain: float
    gain_of_mean: float
    cosine: float
    cosine_of_other: float
    specificity: float

    @property
    def score(self) -> float:
        """What the best checkpoint is chosen by: gain plus specificity. A mean adapter gets its gain alone."""
        return self.gain + self.specificity


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
    parts: dict[str, list[Tensor]] = {name: [] for name in ("wanted", "own", "other", "mean")}
    for batch, wanted in zip(samples, target, strict=True):
        predicted, alone = predict(batch), stage.alone(batch)
        rows, n = batch.batch.rows, len(wanted)
        parts["wanted"].append(stage.native(batch, wanted) - alone)
        parts["own"].append(stage.native(batch, predicted) - alone)
        parts["other"].append(stage.native(batch, predicted, (rows + 1) % n) - alone)
        parts["mean"].append(stage.native(batch, mean[[0] * n]) - alone)
    return _summary(**{name: torch.cat(part) for name, part in parts.items()})


def _summary(wanted: Tensor, own: Tensor, other: Tensor, mean: Tensor) -> Proxies:
    total = energy(wanted).sum().clamp(min=1e-20)

    def gain(change: Tensor) -> float:
        return float(1 - energy(change - wanted).sum() / total)

    return Proxies(
        gain=gain(own),
        gain_of_mean=gain(mean),
        cosine=float(_cosines(own, wanted).mean()),
        cosine_of_other=float(_cosines(other, wanted).mean()),
        specificity=float(((own - other) * wanted).flatten(1).mean(1).sum() / total),
    )


def _cosines(left: Float[Tensor, "rows c h w"], right: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
    return torch.cosine_similarity(left.flatten(1), right.flatten(1), dim=1)
