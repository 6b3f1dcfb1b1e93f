"""The low-rank branch of one layer, for batches whose samples go through different slots of a bank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Branch", "Routing", "common_run"]


@dataclass(frozen=True)
class Routing:
    """A batch cut into equal runs of one slot each.

    Args:
        batch: samples.
        rows: the slot of each run.
        index: the same on the bank's device; None if they are all slots of the bank in their order.
        scale: of every sample, or one a sample; times alpha / rank.
    """

    batch: int
    rows: tuple[int, ...]
    index: Tensor | None
    scale: Float[Tensor, "batch 1 1"] | float


class Branch:
    """What a bank adds to one layer: scale · B[slot] (A[slot] x).

    Without gradients, the factors of a routing are kept as they go into the products (picked, cast, transposed) until
    the routing changes or somebody writes into the slots: between denoising steps neither happens, and on an
    accelerator picking and casting would be most of what a step launches here. Where all that is picked is zero, as at
    the sites that no adapter of the batch has, nothing is added: a bank of many sites costs what is in it.

    Args:
        down: A of every slot.
        up: B of every slot.
    """

    def __init__(self, down: Float[nn.Parameter, "slots rank in"], up: Float[nn.Parameter, "slots out rank"]) -> None:
        self._own = down, up
        self._versioned = not (down.is_inference() or up.is_inference())  # whether a write into them can be told
        self._kept: tuple[tuple[object, ...], tuple[Tensor, Tensor] | None] | None = None

    def add(
        self,
        output: Float[Tensor, "batch *tokens out"],
        x: Float[Tensor, "batch *tokens in"],
        routing: Routing,
        lent: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "batch *tokens out"]:
        """The layer's output and the branch's; without gradients in place, for nobody else has the output yet.

        Args:
            output: of the layer itself.
            x: its input.
            lent: factors to take in place of the bank's own.
        """
        with_gradients = torch.is_grad_enabled()
        if self._versioned and lent is None and not with_gradients and not torch.compiler.is_compiling():
            factors = self._ready(routing, output.dtype)
        else:
            factors = _routed(*(lent or self._own), routing, output.dtype)
        if factors is None:
            return output
        down, up = factors
        runs, scale = len(down), routing.scale
        inner = torch.bmm(x.to(output.dtype).reshape(runs, -1, x.shape[-1]), down)
        if isinstance(scale, Tensor):
            inner = (inner.view(routing.batch, -1, inner.shape[-1]) * scale).view_as(inner).to(output.dtype)
            scale = 1.0
        plain = output.reshape(runs, -1, output.shape[-1])
        add_product = torch.baddbmm if with_gradients else Tensor.baddbmm_
        return add_product(plain, inner, up, alpha=scale).view_as(output)

    def _ready(self, routing: Routing, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """The factors of a routing; None if their product is zero."""
        # A write counts a version; a move to another device or type, which counts none, is another address.
        now = (routing.rows, dtype, *((own._version, own.data_ptr()) for own in self._own))
        if self._kept is None or self._kept[0] != now:
            down, up = _routed(*self._own, routing, dtype)
            self._kept = now, (down, up) if bool(up.any()) else None
        return self._kept[1]


def common_run(slots: Sequence[int]) -> int:
    """The largest n such that the slots are runs of n equal ones."""
    cuts = [i for i in range(1, len(slots)) if slots[i] != slots[i - 1]]
    return math.gcd(len(slots), *cuts)


def _routed(
    down: Float[Tensor, "slots rank in"], up: Float[Tensor, "slots out rank"], routing: Routing, dtype: torch.dtype
) -> tuple[Float[Tensor, "runs in rank"], Float[Tensor, "runs rank out"]]:
    if routing.index is not None:
        down, up = down.index_select(0, routing.index), up.index_select(0, routing.index)
    return down.to(dtype).mT, up.to(dtype).mT
