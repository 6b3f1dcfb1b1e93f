"""What the denoiser needs from prompts, and the placeholders that may stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Placeholders: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""`"[V]" -> {"text_encoder": [vectors dim]}`, one entry a text encoder; tensors may require gradients."""


class TextShape(NamedTuple):
    """Sizes of one row of a `TextState`; `pooled` is None for families without a pooled embedding."""

    tokens: int
    hidden: int
    pooled: int | None


@dataclass(frozen=True, eq=False)
class TextState:
    """Encoded prompts, one a row.

    Arguments:
        hidden: states of the tokens, what cross-attention reads.
        pooled: one vector a prompt, SDXL only.
    """

    hidden: Float[Tensor, "batch tokens dim"]
    pooled: Float[Tensor, "batch pooled"] | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> TextState:
        """Some rows, in the order of `index`."""
        return TextState(self.hidden[index], None if self.pooled is None else self.pooled[index])

    @staticmethod
    def cat(states: Sequence[TextState]) -> TextState:
        """The rows of all `states` one after the other."""
        pooled = [state.pooled for state in states if state.pooled is not None]
        return TextState(torch.cat([state.hidden for state in states]), torch.cat(pooled) if pooled else None)

    def repeat(self, n: int) -> TextState:
        """Every row `n` times, copies side by side."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(n, dim=0)
        return TextState(self.hidden.repeat_interleave(n, dim=0), pooled)

    def detach(self) -> TextState:
        """The same values without their history."""
        return TextState(self.hidden.detach(), None if self.pooled is None else self.pooled.detach())
