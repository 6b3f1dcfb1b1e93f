"""One query a site reads the prompt's tokens."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ReadingBlock"]


class ReadingBlock(nn.Module):
    """Cross-attention from the sites to the tokens, then an MLP; pre-norm, residual.

    Plain matrix products: exporters may specialise scaled-dot-product attention to the lengths they see, and
    on a CPU its backward pass is slow at such sizes.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, states: Float[Tensor, "batch sites width"], tokens: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch sites width"]:
        """The states with what they read."""
        query = self._split(self.query(self.norm(states)))
        key, value = (self._split(part) for part in self.key_value(tokens).chunk(2, dim=-1))
        weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        states = states + self.out((weights @ value).transpose(1, 2).flatten(2))
        out: Tensor = states + self.mlp(self.norm_mlp(states))
        return out

    def _split(self, x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch heads n head"]:
        split: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split
