"""How near predicted adapters are to the corpus' in weights: graded by what a mean adapter would get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hypernet.factors import Factors, cross_products, products
from palp.evaluate.intervals import Estimate, estimate, ratio

__all__ = ["paraphrase_measures", "weight_measures"]

TINY = 1e-12


@torch.no_grad()
def weight_measures(
    predicted: Factors, oracle: Factors, training: Factors, clusters: Sequence[str]
) -> dict[str, Estimate]:
    """Over held-out prompts, all sites at once, centred by the mean M of the training prompts' adapters.

    centred_cosine: cos(ΔŴ − M, ΔW − M); below 0.2 the predictions have collapsed. r2: 1 − Σ‖ΔŴ − ΔW‖² / Σ‖M − ΔW‖².
    retrieval: 1 where the own oracle is nearer (centred cosine) than any other's. spread_ratio: √(Σ‖ΔŴ − mean ΔŴ‖² /
    Σ‖ΔW − mean ΔW‖²); below 0.5 the predictions have collapsed. norm_ratio: mean of ‖ΔŴ‖ / ‖ΔW‖ over sites.
    nearest_training, oracle_nearest_training: largest centred cosine to a training prompt's adapter; a prediction much
    nearer than the oracle is a copy.

    Args:
        predicted, oracle: of the same prompts.
        training: the training prompts' adapters, or an even selection of them.
        clusters: of the prompts; intervals resample them.
    """
    p, o, t = (_Centred(side, training) for side in (predicted, oracle, training))
    own = p.with_(o)
    misses, scale = p.squares - 2 * own.diagonal() + o.squares, o.squares
    cosines = own / (p.squares[:, None] * o.squares + TINY).sqrt()
    norms = (products(predicted, predicted) / (products(oracle, oracle) + TINY)).clamp(min=0).sqrt().mean(1)
    hits = (cosines.argmax(1) == torch.arange(len(own), device=own.device)).double()
    near = {name: _nearest(side, t) for name, side in (("nearest_training", p), ("oracle_nearest_training", o))}
    means = {"centred_cosine": cosines.diagonal(), "retrieval": hits, "norm_ratio": norms, **near}
    return {
        **{name: estimate(_array(values), clusters) for name, values in means.items()},
        "r2": ratio(_array(scale - misses), _array(scale), clusters),
        "spread_ratio": _root(ratio(_array(p.spread()), _array(o.spread()), clusters)),
    }


@torch.no_grad()
def paraphrase_measures(
    paraphrases: Factors, known: Factors, training: Factors, clusters: Sequence[str]
) -> dict[str, Estimate]:
    """Whether predictions agree for prompts that say the same, centred by the mean of the training prompts' adapters.

    paraphrase_agreement: cosine of a paraphrase's prediction to that of the training prompt whose meaning it has.
    paraphrase_control: its mean cosine to those of the other training prompts here. paraphrase_retrieval: 1 where its
    own training prompt's is the nearest.

    Args:
        paraphrases, known: predictions for two or more paraphrases and, in the same order, their training prompts.
        training: the training prompts' adapters, or an even selection of them.
        clusters: of the pairs; intervals resample them.
    """
    p, k = _Centred(paraphrases, training), _Centred(known, training)
    cosines = p.with_(k) / (p.squares[:, None] * k.squares + TINY).sqrt()
    own, n = cosines.diagonal(), len(cosines)
    found = {
        "paraphrase_agreement": own,
        "paraphrase_control": (cosines.sum(1) - own) / (n - 1),
        "paraphrase_retrieval": (cosines.argmax(1) == torch.arange(n, device=cosines.device)).double(),
    }
    return {name: estimate(_array(values), clusters) for name, values in found.items()}


class _Centred:
    """Inner products of adapters less the training mean, from those of the adapters themselves."""

    def __init__(self, factors: Factors, training: Factors) -> None:
        self.factors, self._training = factors, training
        self._to_mean = cross_products(factors, training).sum(2).double().mean(1)
        self._mean_square = cross_products(training, training).sum(2).double().mean()
        own = products(factors, factors).sum(1).double()
        self.squares = (own - 2 * self._to_mean + self._mean_square).clamp(min=0)

    def with_(self, other: _Centred) -> Float[Tensor, "mine theirs"]:
        """⟨ΔW_i − M, ΔW'_j − M⟩."""
        across = cross_products(self.factors, other.factors).sum(2).double()
        return across - self._to_mean[:, None] - other._to_mean + self._mean_square

    def spread(self) -> Float[Tensor, "mine"]:
        """‖ΔW_i − mean over these‖²."""
        inner = self.with_(self)
        return (inner.diagonal() - 2 * inner.mean(1) + inner.mean()).clamp(min=0)


def _nearest(side: _Centred, training: _Centred) -> Float[Tensor, "mine"]:
    return (side.with_(training) / (side.squares[:, None] * training.squares + TINY).sqrt()).amax(1)


def _array(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array


def _root(square: Estimate) -> Estimate:
    value, low, high = (max(number, 0.0) ** 0.5 for number in (square.value, square.low, square.high))
    return Estimate(value, low, high, square.n)
