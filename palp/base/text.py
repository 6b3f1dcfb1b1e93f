"""What the denoiser needs from prompts, and the placeholders that may stand in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        projected: keys and values of cross-attention, by the name of the layer that makes them of `hidden`; None where
            the denoiser is to make them itself. They hold for one state of the denoiser and its adapters.
    """

    hidden: Float[Tensor, "batch tokens dim"]
    pooled: Float[Tensor, "batch pooled"] | None = None
    projected: Mapping[str, Float[Tensor, "batch tokens _"]] | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> TextState:
        """Some rows, in the order of `index`."""
        return self._each(lambda rows: rows[index])

    @staticmethod
    def cat(states: Sequence[TextState]) -> TextState:
        """The rows of all `states` one after the other; projected if all of them are."""
        pooled = [state.pooled for state in states if state.pooled is not None]
        known = [state.projected for state in states if state.projected is not None]
        projected = {layer: torch.cat([one[layer] for one in known]) for layer in known[0]} if known else None
        return TextState(
            torch.cat([state.hidden for state in states]),
            torch.cat(pooled) if pooled else None,
            projected if len(known) == len(states) else None,
        )

    def repeat(self, n: int) -> TextState:
        """Every row `n` times, copies side by side."""
        return self._each(lambda rows: rows.repeat_interleave(n, dim=0))

    def detach(self) -> TextState:
        """The same values without their history."""
        return self._each(Tensor.detach)

    def _each(self, change: Callable[[Tensor], Tensor]) -> TextState:
        """The same change to every tensor."""
        known = self.projected
        return TextState(
            change(self.hidden),
            None if self.pooled is None else change(self.pooled),
            None if known is None else {layer: change(rows) for layer, rows in known.items()},
        )
