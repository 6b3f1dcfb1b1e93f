"""Many adapters of one spec as tensors with a leading dimension, and what can be said of ΔW from factors alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec
from palp.bank import AdapterBank, key

__all__ = ["Factors", "cross_products", "product", "products"]


@dataclass(frozen=True, eq=False)
class Factors:
    """A and B of a batch of adapters; unlike an `Adapter`'s they may have a history.

    Args:
        spec: sites, rank, alpha, base.
        down: A by site, [batch rank in].
        up: B by site, [batch out rank].
    """

    spec: AdapterSpec
    down: Mapping[str, Float[Tensor, "batch rank in"]]
    up: Mapping[str, Float[Tensor, "batch out rank"]]

    def __len__(self) -> int:
        return len(next(iter(self.down.values())))

    def __getitem__(self, rows: slice | Int[Tensor, "rows"] | list[int]) -> Factors:
        """Some of the adapters."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Factors:
        """On another device, in float32."""
        return self._map(lambda tensor: tensor.to(device, torch.float32))

    def scaled(self, strength: Float[Tensor, "batch"]) -> Factors:
        """Every ΔW times its adapter's strength."""
        return replace(self, up={site: up * strength[:, None, None] for site, up in self.up.items()})

    def adapter(self, row: int, metadata: Mapping[str, str] | None = None) -> Adapter:
        """One of them, a copy on the CPU in the spec's type, without placeholders."""
        down, up = (
            {site: tensor[row].detach().to("cpu", self.spec.torch_dtype, copy=True) for site, tensor in side.items()}
            for side in (self.down, self.up)
        )
        return Adapter(self.spec, down, up, {}, dict(metadata or {}))

    @torch.no_grad()
    def write(self, bank: AdapterBank, slots: Sequence[int]) -> None:
        """Copy them into slots of a bank, in place, without a detour over `Adapter`.

        Raises:
            AdapterMismatchError: the bank has another spec.
        """
        bank.spec.check(self.spec)
        index = torch.tensor(slots, device=bank.device)
        for site in self.down:
            for own, new in ((bank.down, self.down), (bank.up, self.up)):
                rows = own[key(site)]
                rows.index_copy_(0, index, new[site].to(rows))

    def tensors(self) -> list[Tensor]:
        """All of them, A before B, in the order of the sites."""
        return [*self.down.values(), *self.up.values()]

    @staticmethod
    def stack(adapters: Sequence[Adapter]) -> Factors:
        """Adapters of one spec side by side, in float32.

        Raises:
            AdapterMismatchError: their specs differ.
        """
        spec = replace(adapters[0].spec, dtype="float32")
        for adapter in adapters:
            spec.check(adapter.spec)
        down, up = (
            {site.name: torch.stack([getattr(a, side)[site.name].float() for a in adapters]) for site in spec.sites}
            for side in ("down", "up")
        )
        return Factors(spec, down, up)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Factors:
        down, up = ({site: change(tensor) for site, tensor in side.items()} for side in (self.down, self.up))
        return Factors(self.spec, down, up)


def products(left: Factors, right: Factors) -> Float[Tensor, "batch sites"]:
    """⟨ΔW, ΔW'⟩ of each pair and site, from rank × rank matrices: ⟨BA, B'A'⟩ = ⟨BᵀB', AA'ᵀ⟩.

    ΔW is never formed, and no choice of factors of the same ΔW changes the result.
    """
    scale = left.spec.scale * right.spec.scale
    sites = [product((left.down[site], left.up[site]), (right.down[site], right.up[site])) for site in left.down]
    return scale * torch.stack(sites, dim=1)


def product(
    left: tuple[Float[Tensor, "*batch rank in"], Float[Tensor, "*batch out rank"]],
    right: tuple[Float[Tensor, "*batch other in"], Float[Tensor, "*batch out other"]],
) -> Float[Tensor, "*batch"]:
    """⟨BA, B'A'⟩ of (A, B) and (A', B')."""
    (down, up), (other_down, other_up) = left, right
    return ((up.mT @ other_up) * (down @ other_down.mT)).sum((-2, -1))


def cross_products(left: Factors, right: Factors) -> Float[Tensor, "left right sites"]:
    """⟨ΔW_i, ΔW'_j⟩ of everyone with everyone, by site."""
    scale = left.spec.scale * right.spec.scale
    sites = []
    for site in left.down:
        outer = torch.einsum("ior,jos->ijrs", left.up[site], right.up[site])
        inner = torch.einsum("irc,jsc->ijrs", left.down[site], right.down[site])
        sites.append((outer * inner).sum((2, 3)))
    return scale * torch.stack(sites, dim=2)
