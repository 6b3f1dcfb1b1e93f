"""Names that only the base's training knows: learned vectors in the place of a caption's noun.

A user's [V] is such a name, learned later: several vectors that begin as the class word. A base that learned thousands
of names in its training can take one more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer

from palp.base.icons.grammar import concepts
from palp.base.icons.guise import THING, catalogue
from palp.base.icons.tokenizer import MAX_TOKENS
from palp.base.tokens import TokenBatch

PLACE = "[V]"  # where a caption's noun stands that is a name
VECTORS = 4  # of a name


def tokens_of(tokenizer: CLIPTokenizer, captions: Sequence[str], names: Sequence[int]) -> Int[Tensor, "captions 32"]:
    """Token ids, padded; the vectors of a name have ids from the vocabulary's end on.

    Arguments:
        captions: each with `PLACE` in it if it has a name.
        names: numbers of guises in the catalogue, -1 for none.
    """
    halves = [half for caption in captions for half in caption.partition(PLACE)[::2]]
    ids = tokenizer(halves, add_special_tokens=False).input_ids
    vocabulary, start, end = len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = torch.full((len(captions), MAX_TOKENS), int(end), dtype=torch.int16)
    for row, before, after, name in zip(rows, ids[::2], ids[1::2], names, strict=True):
        vectors = [vocabulary + VECTORS * name + k for k in range(VECTORS if name >= 0 else 0)]
        content = [start, *before, *vectors, *after][: MAX_TOKENS - 1]
        row[: len(content)] = torch.tensor(content, dtype=torch.int16)
    return rows


class Names(nn.Embedding):
    """The vectors of all names, `VECTORS` rows each."""

    def __init__(self, width: int) -> None:
        super().__init__(VECTORS * len(catalogue()), width)

    @torch.no_grad()
    def start(self, tokenizer: CLIPTokenizer, words: nn.Embedding) -> None:
        """Let every name begin as the word of what it is a guise of; what no word names, as the mean of all words."""
        of_word = {word: words.weight[_ids(tokenizer, word)].mean(dim=0) for word in concepts()}
        of_word[THING] = torch.stack(list(of_word.values())).mean(dim=0)
        rows = torch.stack([of_word[word] for word, _ in catalogue()])
        self.weight.copy_(rows.repeat_interleave(VECTORS, dim=0))

    def looked_up(self, tokens: Int[Tensor, "batch tokens"], vocabulary: int, stand_in: int) -> TokenBatch:
        """The batch with a stand-in where a name's vectors will be, and these."""
        named = tokens >= vocabulary
        vectors: Float[Tensor, "places dim"] = self(tokens[named] - vocabulary)
        ids = tokens.masked_fill(named, stand_in)
        return TokenBatch(ids=ids, mask=torch.ones_like(ids), places=named.nonzero(), vectors=vectors)


def _ids(tokenizer: CLIPTokenizer, word: str) -> list[int]:
    return list(tokenizer(word, add_special_tokens=False).input_ids)
