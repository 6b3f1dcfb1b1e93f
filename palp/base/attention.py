"""Attention in a denoiser's transformer blocks, to which the text's keys and values may be handed ready-made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Heads: TypeAlias = Float[Tensor, "batch heads _ head_dim"]


class BlockAttention:
    """Processor for the attention in UNet transformer blocks: softmax(q kᵀ / √d) v.

    Arguments:
        name: of the attention module in the denoiser.
        mix: (q, k, v) -> softmax(q kᵀ / √d) v; `fused`, or `written_out`.
    """

    def __init__(self, name: str, mix: Callable[[Heads, Heads, Heads], Heads]) -> None:
        self.mix = mix
        self._to_k, self._to_v = f"{name}.to_k", f"{name}.to_v"

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "batch tokens dim"],
        encoder_hidden_states: Float[Tensor, "batch context cross"] | None = None,
        attention_mask: None = None,
        projected: Mapping[str, Float[Tensor, "batch context _"]] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Output of the attention module `attn`.

        It reads `encoder_hidden_states`, or else its own input. `projected` holds outputs of layers, by their names in
        the denoiser: keys and values that are there are not made again.
        """
        assert attention_mask is None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        given = projected or {}
        query = attn.to_q(hidden_states)
        key = given[self._to_k] if self._to_k in given else attn.to_k(context)
        value = given[self._to_v] if self._to_v in given else attn.to_v(context)
        mixed = self.mix(*(_heads(attn, states) for states in (query, key, value))).transpose(1, 2).flatten(2)
        for module in attn.to_out:
            mixed = module(mixed)
        return mixed


def written_out(query: Heads, key: Heads, value: Heads) -> Heads:
    """Three matrix products: on a CPU at few tokens their backward pass beats that of the fused kernel."""
    weights = ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).softmax(-1)
    mixed: Tensor = weights @ value
    return mixed


def fused(query: Heads, key: Heads, value: Heads) -> Heads:
    """Torch's kernel."""
    return functional.scaled_dot_product_attention(query, key, value)


def _heads(attn: Any, states: Tensor) -> Heads:
    batch, tokens, _ = states.shape
    return states.view(batch, tokens, attn.heads, -1).transpose(1, 2)


def use_block_attention(unet: nn.Module, mix: Callable[[Heads, Heads, Heads], Heads]) -> None:
    """Give the attention of all transformer blocks of `unet` the processor `BlockAttention`, in place."""
    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            module.set_processor(BlockAttention(name, mix))
