"""Prompts with placeholders: token ids as textual inversion makes them, vectors put in while embedding."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palp.base.text import Placeholders
from palp.errors import InputError, UnknownPlaceholderError

logger = logging.getLogger(__name__)

PLACEHOLDER = re.compile(r"\[V\d*\]")


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids and the vectors that replace the embeddings at some of them.

    Arguments:
        ids: token ids with start, end and padding.
        mask: 1 up to the end token, 0 on padding.
        places: row and column of every vector.
        vectors: the learned vectors, in the order of `places`; None where a batch has none.
    """

    ids: Int[Tensor, "batch tokens"]
    mask: Int[Tensor, "batch tokens"]
    places: Int[Tensor, "places 2"]
    vectors: Float[Tensor, "places dim"] | None


@dataclass(frozen=True, eq=False)
class PromptEncoder:
    """One CLIP text encoder with its tokenizer; `name` is the key of its vectors in `Placeholders`."""

    name: str
    tokenizer: Any
    model: Any

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding table."""
        table = self.model.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    def encode(self, prompts: Sequence[str], placeholders: Sequence[Placeholders], hidden_states: bool) -> Any:
        """The encoder's own output on `prompts`, differentiable in the placeholders."""
        batch = self.tokenise(prompts, placeholders)
        wants_mask = getattr(self.model.config, "use_attention_mask", False)
        with embeddings_replaced(self.embedding, batch):
            return self.model(
                batch.ids,
                attention_mask=batch.mask if wants_mask else None,
                output_hidden_states=hidden_states,
            )

    def word_embedding(self, word: str) -> Float[Tensor, " dim"]:
        """Mean of the embeddings of the tokens of `word`, float32: a start for [V]."""
        ids = self._ids(word)
        if not ids:
            raise InputError(f"word {word!r} has no tokens; give a word with letters or digits, such as 'cat'")
        return self.embedding.weight[ids].detach().float().mean(0)

    def tokenise(self, prompts: Sequence[str], placeholders: Sequence[Placeholders]) -> TokenBatch:
        """Token ids of `prompts` padded to the tokenizer's length, as after `load_textual_inversion`.

        Arguments:
            prompts: one a row.
            placeholders: what each prompt may use, one mapping a prompt.

        Raises:
            UnknownPlaceholderError: a prompt holds a placeholder that its mapping lacks.
        """
        length, device = self.tokenizer.model_max_length, self.embedding.weight.device
        contents = [self._content(*pair) for pair in zip(prompts, placeholders, strict=True)]
        padding = [length - 2 - len(content) for content in contents]
        learned = [
            (row, column, token)
            for row, content in enumerate(contents)
            for column, token in enumerate(content, start=1)
            if isinstance(token, Tensor)
        ]
        places = torch.tensor([place[:2] for place in learned], dtype=torch.long, device=device)
        return TokenBatch(
            ids=torch.tensor([self._framed(*pair) for pair in zip(contents, padding, strict=True)], device=device),
            mask=torch.tensor([[1] * (length - free) + [0] * free for free in padding], device=device),
            places=places.reshape(-1, 2),
            vectors=torch.stack([vector for _, _, vector in learned]).to(device) if learned else None,
        )

    def _content(self, prompt: str, known: Placeholders) -> list[int | Tensor]:
        """Ids of the words of `prompt` with, at each placeholder, its vectors in order; cut to what fits."""
        content: list[int | Tensor] = []
        end = 0
        for match in PLACEHOLDER.finditer(prompt):
            content += self._ids(prompt[end : match.start()])
            content += list(self._vectors(match.group(), known))
            end = match.end()
        content += self._ids(prompt[end:])
        fits = self.tokenizer.model_max_length - 2
        if len(content) > fits:
            logger.warning("prompt cut to its first %d tokens of %d: %r", fits, len(content), prompt)
        return content[:fits]

    def _framed(self, content: list[int | Tensor], padding: int) -> list[int]:
        """Ids with start, end and padding, and a stand-in where a vector will be.

        The stand-in must lose the search for the end token that CLIP pools at: by value (`eos_token_id`) or,
        in configurations older than the added-token fix, by the highest id. The start token does.
        """
        bos, eos, pad = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        ids = [bos if isinstance(token, Tensor) else token for token in content]
        return [bos, *ids, eos, *[pad] * padding]

    def _vectors(self, placeholder: str, known: Placeholders) -> Float[Tensor, "vectors dim"]:
        """The vectors of `placeholder` for this encoder, checked."""
        if placeholder not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UnknownPlaceholderError(
                f"prompt uses {placeholder}, but the known placeholders are: {names}; "
                "use one of these or give an adapter that has it"
            )
        vectors, dim = known[placeholder].get(self.name), self.embedding.embedding_dim
        if vectors is None:
            raise InputError(
                f"placeholder {placeholder} has vectors for {sorted(known[placeholder])}, expected "
                f"{self.name!r} among them; use an adapter made for this base"
            )
        if vectors.ndim != 2 or vectors.shape[1] != dim:
            raise InputError(
                f"placeholder {placeholder} has shape {tuple(vectors.shape)} for {self.name!r}, "
                f"expected [vectors, {dim}]; use an adapter made for this base"
            )
        return vectors

    def _ids(self, text: str) -> list[int]:
        return list(_ids(self.tokenizer, text))


@lru_cache(maxsize=4096)  # a training asks for the same prompts at every step
def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


@contextmanager
def embeddings_replaced(table: nn.Embedding, batch: TokenBatch) -> Iterator[None]:
    """Within, `table` answers with the vectors of `batch` at their places."""
    if batch.vectors is None:
        yield
        return
    places, vectors = batch.places.unbind(1), batch.vectors
    hook = table.register_forward_hook(
        lambda module, inputs, output: output.index_put(places, vectors.to(output.dtype))
    )
    try:
        yield
    finally:
        hook.remove()
