"""What a corpus of prompt adapters holds: the contract between `palp-hyper build-corpus` and the hypernetwork."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec

__all__ = ["Corpus", "CorpusPrompt", "CorpusSubject", "Split"]

Split = Literal["train", "paraphrase", "combination", "word", "longer"]


@dataclass(frozen=True)
class CorpusPrompt:
    """A prompt of the corpus.

    Args:
        key: unique in the corpus, of letters, digits, "-" and "_".
        text: the target prompt with the subject's slot, "a pencil sketch of [V] on a beach".
        elements: canonical words by element, {"style": "sketch", "place": "beach"}; empty for a user's own prompts.
        cluster: prompts of one meaning share it, paraphrases of each other above all; intervals resample clusters.
        split: "train", or what is new about it: the wording, the combination of words, a word, or how much it says.
    """

    key: str
    text: str
    elements: Mapping[str, str]
    cluster: str
    split: Split


@dataclass(frozen=True, eq=False)
class CorpusSubject:
    """A subject that prompt adapters are trained or tested over.

    Args:
        latents: of its pictures.
        adapter: the frozen subject adapter, which holds the placeholder [V].
        held_out: whether no prompt adapter was trained over it.
    """

    name: str
    class_word: str
    latents: Float[Tensor, "pictures c h w"]
    adapter: Adapter
    held_out: bool


@runtime_checkable
class Corpus(Protocol):
    """A corpus that is complete and verified, read lazily."""

    @property
    def base(self) -> str:
        """Fingerprint of the base."""
        ...

    @property
    def content(self) -> str:
        """A hash of its adapters and subjects."""
        ...

    @property
    def spec(self) -> AdapterSpec:
        """Of every prompt adapter in it."""
        ...

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings that its adapters were trained with: rule, steps, rank, seed, guidance, …"""
        ...

    @property
    def prompts(self) -> Sequence[CorpusPrompt]:
        """Those with an accepted adapter, in the order of their keys."""
        ...

    @property
    def fresh_prompts(self) -> Sequence[CorpusPrompt]:
        """Training prompts of the same grammar that it has no adapter for; none where its prompts are a user's file."""
        ...

    @property
    def subjects(self) -> Sequence[CorpusSubject]:
        """Training subjects and held-out ones."""
        ...

    def pictures(self, key: str) -> Float[Tensor, "subjects pictures c h w"] | None:
        """Latents that an adapter was trained on, by training subject; None where they are the subjects' own."""

    def adapter(self, key: str) -> Adapter:
        """The prompt adapter (residual form, no placeholders) of a prompt."""
        ...

    def metrics(self, key: str) -> Mapping[str, float]:
        """What the builder measured: gain over the subject alone, loss, norm."""
        ...
