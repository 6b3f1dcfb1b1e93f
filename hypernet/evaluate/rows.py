"""The rows of the table: what each draws a subject that prompts were never trained on, at a prompt never trained on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.factors import Factors
from hypernet.material import split_prompts
from hypernet.predict import Predictor
from hypernet.prompts import encode_clean
from hypernet.stage import recipe_settings
from hypernet.start import mean_adapter, weighted_adapter
from hypernet.trust import nonsense
from palp.adapter import Adapter
from palp.corpus import Corpus, CorpusPrompt, CorpusSubject

__all__ = ["ALONE", "REQUIRED", "ROWS", "SCALING", "Cast", "Row", "alone"]

WIDER = 4  # mean and ridge adapters have so many times the corpus' rank
TEXT_DIRECTIONS = 16  # principal components of the text that the ridge regression sees
RIDGE = 0.3  # its penalty, as a share of a component's mean sum of squares
CHUNK = 64  # prompts in one call of the text encoder


class Cast:
    """Everyone whose adapters are compared.

    Args:
        predictor: the hypernetwork on its base.
        corpus: the adapters it learned from, and those of held-out prompts.
        multi: makes one adapter trained on all training prompts at once; called when a row asks for it.
        refined: makes, by prompt key, adapters trained on for a few steps from the prediction, likewise; None for none.
    """

    def __init__(
        self,
        predictor: Predictor,
        corpus: Corpus,
        multi: Callable[[], Adapter] | None = None,
        refined: Callable[[], Mapping[str, Adapter]] | None = None,
    ) -> None:
        self.predictor, self.corpus, self._multi, self._refined = predictor, corpus, multi, refined
        self.subject_scale = recipe_settings(corpus.recipe).subject_scale  # beside every prompt adapter
        self.train, self.held = split_prompts(corpus)
        self.oracle = lru_cache(maxsize=256)(corpus.adapter)

    @property
    def refines(self) -> bool:
        """Whether there are refined predictions."""
        return self._refined is not None

    @cached_property
    def multi(self) -> Adapter:
        """The one adapter for all prompts."""
        assert self._multi is not None, "this cast has no adapter for all prompts"
        return self._multi()

    @cached_property
    def refined(self) -> Mapping[str, Adapter]:
        """The refined predictions by prompt key."""
        return {} if self._refined is None else self._refined()

    @cached_property
    def mean(self) -> Adapter:
        """The mean of the training prompts' adapters."""
        return mean_adapter([self.oracle(prompt.key) for prompt in self.train], WIDER * self.corpus.spec.rank)

    def paraphrases(self) -> list[tuple[CorpusPrompt, CorpusPrompt]]:
        """Held-out paraphrases, each with the training prompt whose meaning it has."""
        known = {prompt.cluster: prompt for prompt in self.train}
        return [(prompt, known[prompt.cluster]) for prompt in self.held if prompt.cluster in known]

    def neighbour(self, prompt: CorpusPrompt, class_word: str) -> Adapter:
        """The adapter of the training prompt with the most similar text: cosine of centred mean token states."""
        x, known = self._text(prompt, class_word), self._known
        nearest = torch.cosine_similarity(known - known.mean(0), (x - known.mean(0))[None], dim=1).argmax()
        return self.oracle(self.train[int(nearest)].key)

    def ridge(self, prompt: CorpusPrompt, class_word: str) -> Adapter:
        """The mean plus a ridge regression from the text's principal components to ΔW."""
        known, centre = self._known, self._known.mean(0)
        _, _, directions = torch.linalg.svd(known - centre, full_matrices=False)
        z = (known - centre) @ directions[:TEXT_DIRECTIONS].T
        x = (self._text(prompt, class_word) - centre) @ directions[:TEXT_DIRECTIONS].T
        penalty = RIDGE * z.square().sum(0).mean() * torch.eye(z.shape[1], dtype=z.dtype)
        weights = z @ torch.linalg.solve(z.T @ z + penalty, x)  # they add up to zero: z is centred
        adapters = [self.oracle(known_prompt.key) for known_prompt in self.train]
        return weighted_adapter(adapters, (weights + 1 / len(weights)).tolist(), WIDER * self.corpus.spec.rank)

    def predicted(self, prompt: CorpusPrompt, class_word: str) -> Adapter | None:
        """As it would be served: nothing where the network abstains."""
        prediction = self.predictor.predict([prompt.text], [class_word])
        return prediction.factors.adapter(0) if bool(prediction.strength[0]) else None

    def raw(self, text: str, class_word: str) -> Adapter:
        """What the network predicts even where it would abstain."""
        return self.predictor.predict([text], [class_word]).factors.adapter(0)

    def other(self, prompt: CorpusPrompt) -> CorpusPrompt:
        """Another held-out prompt, of another cluster if there is one, the same each time."""
        start = self.held.index(prompt)
        following = [self.held[(start + i) % len(self.held)] for i in range(1, len(self.held))]
        return next((other for other in following if other.cluster != prompt.cluster), following[0])

    @cached_property
    def _known(self) -> Float[Tensor, "prompts dim"]:
        words = sorted({subject.class_word for subject in self.corpus.subjects if not subject.held_out})
        nouns = [words[i % len(words)] for i in range(len(self.train))]
        texts = [prompt.text for prompt in self.train]
        parts = [
            encode_clean(self.predictor.base, texts[i : i + CHUNK], nouns[i : i + CHUNK]).hidden.mean(1)
            for i in range(0, len(texts), CHUNK)
        ]
        return torch.cat(parts).double().cpu()

    def _text(self, prompt: CorpusPrompt, class_word: str) -> Float[Tensor, "dim"]:
        return encode_clean(self.predictor.base, [prompt.text], [class_word]).hidden.mean(1)[0].double().cpu()


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        label: what stands in it.
        adapter: the prompt adapter for a prompt and a subject; None for none.
        subject_scale: of the subject's adapter where it is alone; None, and beside a prompt's: the corpus' own.
        fixed: whether `adapter` is the same for every prompt.
    """

    label: str
    adapter: Callable[[Cast, CorpusPrompt, CorpusSubject], Adapter | None]
    subject_scale: float | None = 1.0
    fixed: bool = False


def _random_string(cast: Cast, prompt: CorpusPrompt, subject: CorpusSubject) -> Adapter:
    text = nonsense(np.random.default_rng(zlib.crc32(prompt.key.encode())), 1)[0]
    return cast.raw(f"{text} [V]", subject.class_word)


def _noise(cast: Cast, prompt: CorpusPrompt, subject: CorpusSubject) -> Adapter:
    """Random factors, every ΔW as strong as the predicted one."""
    like = cast.raw(prompt.text, subject.class_word)
    rng = torch.Generator().manual_seed(zlib.crc32(prompt.key.encode()))
    spec, norms = like.spec, like.norms()
    down = {s.name: torch.randn(spec.rank, s.in_features, generator=rng) for s in spec.sites}
    up = {s.name: torch.randn(s.out_features, spec.rank, generator=rng) for s in spec.sites}
    sizes = Adapter(spec, down, up).norms()
    return Adapter(spec, down, {site: up[site] * (norms[site] / sizes[site]) for site in up})


def _refined(cast: Cast, prompt: CorpusPrompt, subject: CorpusSubject) -> Adapter | None:
    return cast.refined.get(prompt.key)


ALONE = "alone"  # drawn only where no other row has the subject so strong
ROWS: Mapping[str, Row] = {
    "subject": Row("no prompt adapter", lambda cast, prompt, subject: None, fixed=True),
    "subject_0.8": Row("subject × 0.8", lambda cast, prompt, subject: None, 0.8, fixed=True),
    "subject_0.6": Row("subject × 0.6", lambda cast, prompt, subject: None, 0.6, fixed=True),
    ALONE: Row("subject as strong as beside a prompt's", lambda cast, prompt, subject: None, None, fixed=True),
    "noise": Row("noise of the same norm", _noise),
    "random_string": Row("predicted for a random string", _random_string),
    "mean": Row("corpus mean", lambda cast, prompt, subject: cast.mean, fixed=True),
    "multi_prompt": Row("one adapter for all prompts", lambda cast, prompt, subject: cast.multi, fixed=True),
    "neighbour": Row("nearest neighbour by text", lambda cast, p, s: cast.neighbour(p, s.class_word)),
    "pca_ridge": Row("mean + PCA-ridge", lambda cast, p, s: cast.ridge(p, s.class_word)),
    "other": Row("predicted for another prompt", lambda cast, p, s: cast.raw(cast.other(p).text, s.class_word)),
    "predicted": Row("predicted", lambda cast, p, s: cast.predicted(p, s.class_word)),
    "refined": Row("predicted, trained on", _refined),
    "oracle": Row("the corpus' adapter (oracle)", lambda cast, prompt, subject: cast.oracle(prompt.key)),
    "oracle_other": Row("the corpus' for another prompt", lambda cast, p, s: cast.oracle(cast.other(p).key)),
}
"""By name. The corpus' adapters were trained over other subjects than those drawn: the oracle is "transferred"."""
REQUIRED = ("subject", "mean", "neighbour", "predicted", "oracle")
SCALING = ("subject", "subject_0.8", "subject_0.6")
"""The line that scaling the subject down draws."""


def alone(cast: Cast) -> str:
    """The row without a prompt adapter whose subject is as strong as beside one: what the others are held against."""
    return next((name for name in SCALING if ROWS[name].subject_scale == cast.subject_scale), ALONE)


def stacked(cast: Cast, prompts: Sequence[CorpusPrompt], class_word: str) -> tuple[Factors, Factors]:
    """What is predicted for prompts, abstention aside, and the corpus' adapters."""
    predicted = [cast.raw(prompt.text, class_word) for prompt in prompts]
    return Factors.stack(predicted), Factors.stack([cast.oracle(prompt.key) for prompt in prompts])
