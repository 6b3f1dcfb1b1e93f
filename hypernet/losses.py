"""The losses of a hypernetwork: pure, one value a sample, unreduced.

Weight side: over sites of relative size, from r × r Gram matrices, so that no choice of factors of the same ΔW
changes them. Behaviour side: on the change that an adapter makes to the denoiser's output, of which a model's
noise and v form are multiples, so that relative errors are the same in both.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from hypernet.factors import Factors, cross_products, products

__all__ = [
    "centred_cosines",
    "contrastive",
    "delta_error",
    "direction_error",
    "energy",
    "margin",
    "norm_error",
    "relative_error",
    "trust",
]

TINY = 1e-12  # added to squared norms


def delta_error(predicted: Factors, target: Factors) -> Float[Tensor, "batch sites"]:
    """‖ΔŴ − ΔW‖² / ‖ΔW‖² of each site; 1 for predicting nothing."""
    theirs = products(target, target)
    error = products(predicted, predicted) - 2 * products(predicted, target) + theirs
    return error.clamp(min=0) / (theirs + TINY)


def direction_error(predicted: Factors, target: Factors) -> Float[Tensor, "batch sites"]:
    """1 − cos(ΔŴ, ΔW) of each site."""
    size = (products(predicted, predicted) + TINY).sqrt() * (products(target, target) + TINY).sqrt()
    return 1 - products(predicted, target) / size


def norm_error(predicted: Factors, target: Factors) -> Float[Tensor, "batch sites"]:
    """(log ‖ΔŴ‖ / ‖ΔW‖)² of each site."""
    mine, theirs = products(predicted, predicted), products(target, target)
    return (0.5 * ((mine + TINY).log() - (theirs + TINY).log())).square()


def centred_cosines(left: Factors, right: Factors, mean: Factors) -> Float[Tensor, "left right"]:
    """cos(ΔW_i − M, ΔW'_j − M) over all sites at once, M the corpus' mean: that has no direction of its own.

    Args:
        mean: one adapter.
    """
    across = cross_products(left, right).sum(2)
    to_left, to_right = cross_products(left, mean).sum(2), cross_products(mean, right).sum(2)
    centre = products(mean, mean).sum()
    sizes = [
        (products(side, side).sum(1) - 2 * to.flatten() + centre).clamp(min=TINY).sqrt()
        for side, to in ((left, to_left), (right, to_right))
    ]
    return (across - to_left - to_right + centre) / (sizes[0][:, None] * sizes[1])


def contrastive(
    cosines: Float[Tensor, "batch batch"], same: Bool[Tensor, "batch batch"], temperature: float
) -> Float[Tensor, "batch"]:
    """−log softmaxⱼ(cos_ij / τ) at j = i, over the prompts of other clusters and the own one (InfoNCE).

    Args:
        cosines: of predictions and the corpus' adapters, centred.
        same: pairs of one cluster, which are no negatives.
    """
    own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    logits = (cosines / temperature).masked_fill(same & ~own, -torch.inf)
    return -logits.log_softmax(1).diagonal()


def energy(change: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
    """‖change‖² / dims."""
    return change.square().flatten(1).mean(1)


def relative_error(change: Float[Tensor, "rows c h w"], target: Float[Tensor, "rows c h w"]) -> Float[Tensor, "rows"]:
    """‖change − target‖² / ‖target‖²; 1 for an adapter that does nothing, in noise and in v form."""
    return energy(change - target) / (energy(target) + TINY)


def margin(own: Float[Tensor, "rows"], other: Float[Tensor, "rows"], wanted: float) -> Float[Tensor, "rows"]:
    """max(0, wanted + own − other): the own prompt's adapter must err less than another prompt's, by so much."""
    return (wanted + own - other).clamp(min=0)


def trust(log_odds: Float[Tensor, "batch"], known: Bool[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Cross-entropy of "this is a prompt of the corpus' kind"."""
    return functional.binary_cross_entropy_with_logits(log_odds, known.float(), reduction="none")
