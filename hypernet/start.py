"""Where a hypernetwork starts: the corpus' mean, its principal directions, and how strong its adapters are.

Factors of equal ΔW = B A differ by any invertible r × r matrix. Before they are averaged, each adapter's are
brought into one frame that depends on ΔW alone: Q, an orthonormal basis of the rows that the corpus shares,

    A' = Q P,    B' = B A A'ᵀ (A' A'ᵀ)⁻¹,    P the projector on the rows of A

so B' A' = B A. With one initial A for the whole corpus, A' hardly differs from Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.factors import Factors, products
from hypernet.model import Hypernetwork
from palp.adapter import Adapter, Site

__all__ = ["mean_adapter", "start_from", "weighted_adapter"]

LIMIT = 0.99  # quantile of the corpus' norms that no prediction exceeds
FILL = 0.1  # size of directions beyond the corpus' own, as a share of its first
PINV = 1e-6  # relative size below which a direction of A' A'ᵀ counts as none


def start_from(hypernet: Hypernetwork, adapters: Sequence[Adapter]) -> None:
    """Give a new hypernetwork the mean, the principal directions and the limits of these adapters, in place.

    The directions are those of largest variance among the centred [A'; B'] of each site, A' weighed so that
    both move ΔW equally; found through the Gram matrix, as adapters are fewer than their values.

    Raises:
        AdapterMismatchError: adapters of another spec.
    """
    hypernet.spec.check(adapters[0].spec)
    factors = Factors.stack(adapters)
    norms = products(factors, factors).clamp(min=0).sqrt()
    limits = torch.quantile(norms, LIMIT, dim=0).tolist()
    for number, site in enumerate(hypernet.spec.sites):
        down, up = in_one_frame(factors.down[site.name].double(), factors.up[site.name].double())
        mean, basis = _principal(down, up, hypernet.config.basis, number)
        hypernet.set_site(number, mean, basis, limits[number])


def in_one_frame(
    down: Float[Tensor, "n rank in"], up: Float[Tensor, "n out rank"]
) -> tuple[Float[Tensor, "n rank in"], Float[Tensor, "n out rank"]]:
    """A' and B' of each adapter: the same ΔW, whatever its factors were."""
    rows = torch.linalg.qr(down.mT).Q  # [n in rank], orthonormal columns
    frame = _frame((rows @ rows.mT).mean(0), down.shape[1])
    framed = frame @ rows @ rows.mT
    gram = torch.linalg.pinv(framed @ framed.mT, rtol=PINV, hermitian=True)
    return framed, up @ (down @ framed.mT) @ gram


def _frame(projector: Float[Tensor, "in in"], rank: int) -> Float[Tensor, "rank in"]:
    """An orthonormal basis of the projector's leading eigenspace, the same for every way to span it."""
    basis = torch.linalg.eigh(projector).eigenvectors[:, -rank:].mT
    anchor = torch.randn(rank, len(projector), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(anchor.to(basis) @ basis.mT)
    frame: Tensor = left @ right @ basis
    return frame


def _principal(
    down: Float[Tensor, "n rank in"], up: Float[Tensor, "n out rank"], count: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean, and `count` directions, each as long as the corpus' deviation along it."""
    n, rank, _ = down.shape
    weight = (up.square().sum() / (n * rank)).sqrt().clamp(min=1e-12)  # ‖dB Q‖ = ‖dB‖, ‖B dA‖ ~ weight ‖dA‖
    values = torch.cat([(weight * down).flatten(1), up.flatten(1)], dim=1)
    centred = values - values.mean(0)
    variances, vectors = torch.linalg.eigh(centred @ centred.T)
    vectors = vectors[:, -count:].flip(1)
    signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    kept = variances[-count:].flip(0) > 1e-10 * variances[-1].clamp(min=1e-300)
    directions = (vectors * signs).T[kept] @ centred / n**0.5
    directions = torch.cat([directions, _more(directions, values.shape[1], count - len(directions), seed)])
    split = down[0].numel()
    parts = {
        "down": (directions[:, :split] / weight).view(-1, *down.shape[1:]),
        "up": directions[:, split:].view(-1, *up.shape[1:]),
    }
    return {"down": down.mean(0), "up": up.mean(0)}, parts


def _more(directions: Tensor, size: int, count: int, seed: int) -> Float[Tensor, "count size"]:
    """Small random directions, where the corpus has fewer than were asked for."""
    noise = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    length = directions[0].norm() if len(directions) else torch.tensor(0.0)
    filled: Tensor = (FILL * length / size**0.5 * noise.to(directions)).to(directions)
    return filled


def mean_adapter(adapters: Sequence[Adapter], rank: int) -> Adapter:
    """The mean ΔW of adapters, exact up to its best approximation of this rank.

    Raises:
        AdapterMismatchError: their specs differ.
    """
    return weighted_adapter(adapters, [1 / len(adapters)] * len(adapters), rank)


def weighted_adapter(adapters: Sequence[Adapter], weights: Sequence[float], rank: int) -> Adapter:
    """Σ weight · ΔW, exact up to its best approximation of this rank; alpha equals the rank.

    Raises:
        AdapterMismatchError: their specs differ.
    """
    spec = adapters[0].spec
    down, up = {}, {}
    for adapter in adapters:
        spec.check(adapter.spec)
    for site in spec.sites:
        ups = [
            weight * spec.scale * adapter.up[site.name].float()
            for adapter, weight in zip(adapters, weights, strict=True)
        ]
        downs = [adapter.down[site.name].float() for adapter in adapters]
        down[site.name], up[site.name] = _best(torch.cat(ups, dim=1) @ torch.cat(downs), site, rank)
    return Adapter(replace(spec, rank=rank, alpha=float(rank), dtype="float32"), down, up)


def _best(delta: Float[Tensor, "out in"], site: Site, rank: int) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    down, up = torch.zeros(rank, site.in_features), torch.zeros(site.out_features, rank)
    n = min(rank, len(values))
    down[:n], up[:, :n] = right[:n], left[:, :n] * values[:n]
    return down, up
