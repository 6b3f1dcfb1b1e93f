"""What predictions do to the denoiser's output and to the recipe's own loss, on all held-out prompts and subjects.

No picture is drawn, so that all held-out prompts of a corpus can be measured in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hypernet.draws import Draws, in_batches
from hypernet.factors import Factors
from hypernet.material import split_prompts
from hypernet.model import Hypernetwork
from hypernet.prompts import encode_clean
from hypernet.proxies import Changes, Exam, Predict
from hypernet.stage import Samples, Stage, recipe_rule, recipe_settings
from palp.adapter import Adapter
from palp.base import Base
from palp.corpus import Corpus, CorpusPrompt
from palp.evaluate.intervals import Estimate, ratio
from palp.evaluate.results import Row

__all__ = ["Examination", "gains", "of_each", "predicted_by", "row"]

SAMPLES = 8  # noised pictures of each held-out prompt
TOGETHER = 8  # held-out prompts measured at once
KEY = 424_242  # of the draws that are measured on: none of the training's, nor of its validation's


class Examination:
    """The same prompts, subjects, pictures, timesteps and noise for everyone."""

    def __init__(self, base: Base, corpus: Corpus) -> None:
        self._base, self._corpus = base, corpus
        held = split_prompts(corpus)[1]
        strangers = [subject for subject in corpus.subjects if subject.held_out]
        self._rule = recipe_rule(corpus.recipe)
        self._recipe = recipe_settings(corpus.recipe)
        self._stage = Stage(base, corpus.spec, strangers, TOGETHER, self._recipe.subject_scale)
        draws = Draws(held, strangers, self._recipe.t_range(len(base.schedule)), base.device, corpus.pictures)
        self._parts = in_batches(held, TOGETHER)
        self._batches = [draws.of([KEY, i], part, SAMPLES) for i, part in enumerate(self._parts)]

    @property
    def clusters(self) -> list[str]:
        """The cluster of each row of `changes`."""
        return [prompt.cluster for part in self._parts for prompt in part for _ in range(SAMPLES)]

    def changes(self, predict: Predict, mean: Adapter) -> Changes:
        """What someone's predictions change, and what they should.

        Args:
            mean: the corpus' mean adapter, of its rank.
        """
        exam = Exam(self._stage, self._rule, self._recipe, Factors.stack([mean]).to(self._base.device))
        with self._stage.attached():
            return Changes.cat([exam.changes(*asked, predict) for asked in self._asked()])

    def _asked(self) -> Iterator[tuple[Samples, Factors]]:
        for part, batch in zip(self._parts, self._batches, strict=True):
            target = Factors.stack([self._corpus.adapter(prompt.key) for prompt in part]).to(self._base.device)
            yield self._stage.samples(batch), target


def predicted_by(base: Base, hypernet: Hypernetwork) -> Predict:
    """A hypernetwork's predictions, also where it would abstain."""

    def predict(samples: Samples) -> Factors:
        batch = samples.batch
        read = encode_clean(base, [prompt.text for prompt in batch.prompts], batch.class_words)
        factors: Factors = hypernet(read).factors
        return factors

    return predict


def of_each(base: Base, find: Callable[[CorpusPrompt, str], Adapter]) -> Predict:
    """An adapter found for each prompt, which a class word fills [V] of."""

    def predict(samples: Samples) -> Factors:
        asked = zip(samples.batch.prompts, samples.batch.class_words, strict=True)
        return Factors.stack([find(prompt, word) for prompt, word in asked]).to(base.device)

    return predict


def row(found: Changes, clusters: Sequence[str]) -> Row:
    """G of prediction and of the mean adapter, S, and what the recipe's loss loses, with intervals by cluster."""
    total, alone = _array(found.energy), _array(found.left_alone)

    def share(kept: NDArray[np.float64]) -> Estimate:
        return ratio(kept, total, clusters)

    def less(left: torch.Tensor) -> Estimate:
        return ratio(alone - _array(left), alone, clusters)

    return {
        **gains(found, clusters),
        "gain_of_mean": share(total - _array(found.missed(found.mean))),
        "specificity": share(_array(found.told_apart)),
        "specificity_of_corpus": share(_array(found.corpus_told_apart)),
        "recipe_gain_of_other": less(found.left_by_other),
        "recipe_gain_of_corpus": less(found.left_by_corpus),
    }


def gains(found: Changes, clusters: Sequence[str], over: Changes | None = None) -> Row:
    """G in the denoiser's output and what the recipe's loss loses; over another's, sample by sample, where given."""
    total, alone = _array(found.energy), _array(found.left_alone)
    missed, left = (total, alone) if over is None else (_array(over.missed(over.own)), _array(over.left))
    return {
        "gain": ratio(missed - _array(found.missed(found.own)), total, clusters),
        "recipe_gain": ratio(left - _array(found.left), alone, clusters),
    }


def _array(values: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array
