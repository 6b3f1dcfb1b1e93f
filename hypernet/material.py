"""What a hypernetwork is trained on: a corpus, checked and split, and a network that starts from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch

from hypernet.config import HyperConfig
from hypernet.model import Hypernetwork
from hypernet.prompts import encode_clean
from hypernet.stage import recipe_settings
from hypernet.start import start_from
from hypernet.trust import fit_gate, fit_trust, nonsense
from palp.adapter import Adapter
from palp.base import Base, TextState
from palp.corpus import Corpus, CorpusPrompt
from palp.errors import AdapterMismatchError, InputError

__all__ = ["check_corpus", "corpus_hash", "settle_trust", "split_prompts", "started"]

START_VALUES = 1_000_000_000  # numbers of the corpus that the start may look at: 4 GB
CHUNK = 64  # prompts in one call of the text encoder
FORMS = ("{} [V]", "[V] {}")  # of nonsense about a subject


def split_prompts(corpus: Corpus) -> tuple[list[CorpusPrompt], list[CorpusPrompt]]:
    """The corpus' training prompts and its held-out ones, of all kinds of novelty."""
    train = [prompt for prompt in corpus.prompts if prompt.split == "train"]
    return train, [prompt for prompt in corpus.prompts if prompt.split != "train"]


def corpus_hash(corpus: Corpus) -> str:
    """sha256 over recipe, prompts, subjects and adapters: what two runs must share to be one."""
    prompts = [[prompt.key, prompt.text, prompt.split] for prompt in corpus.prompts]
    subjects = [[subject.name, subject.class_word, subject.held_out] for subject in corpus.subjects]
    content = json.dumps(
        [corpus.base, dict(corpus.recipe), prompts, subjects, corpus.content], sort_keys=True, default=str
    )
    return hashlib.sha256(content.encode()).hexdigest()


def started(
    base: Base, corpus: Corpus, prompts: Sequence[CorpusPrompt], config: HyperConfig, seed: int
) -> Hypernetwork:
    """A new hypernetwork with the mean, directions, limits and gate of these prompts of a corpus."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        strength = recipe_settings(corpus.recipe).subject_scale
        hypernet = Hypernetwork(corpus.spec, base.text_shape, config, strength)
    values = sum(corpus.spec.rank * (site.in_features + site.out_features) for site in corpus.spec.sites)
    adapters: list[Adapter] = [corpus.adapter(p.key) for p in _spread(prompts, max(2, START_VALUES // values))]
    start_from(hypernet, adapters)
    fit_gate(hypernet, _read(base, corpus, [p.text for p in prompts]).hidden.cpu())
    return hypernet


def settle_trust(base: Base, corpus: Corpus, hypernet: Hypernetwork, seed: int) -> None:
    """Fit a trained hypernetwork's reliability to the corpus' training prompts and to nonsense, in place.

    Nonsense comes as it is, and twice with a subject, after it and before it: a class word makes nothing a prompt.
    """
    prompts = [prompt.text for prompt in split_prompts(corpus)[0]]
    random = np.random.default_rng([seed, 1])
    other = [base.encode_prompts(["", *nonsense(random, CHUNK - 1)]) for _ in range(0, len(prompts), CHUNK)]
    other += [_read(base, corpus, [form.format(text) for text in nonsense(random, len(prompts))]) for form in FORMS]
    hypernet.to(base.device)
    fit_trust(hypernet, _read(base, corpus, prompts), TextState.cat(other))


def _read(base: Base, corpus: Corpus, texts: Sequence[str]) -> TextState:
    """The prompts, with the training subjects' class words in turns."""
    words = sorted({subject.class_word for subject in corpus.subjects if not subject.held_out})
    nouns = [words[i % len(words)] for i in range(len(texts))]
    parts = [encode_clean(base, texts[i : i + CHUNK], nouns[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
    return TextState.cat(parts)


def check_corpus(base: Base, corpus: Corpus) -> None:
    """Raise AdapterMismatchError if it is of another base, InputError if there is too little in it to train on."""
    train, held = split_prompts(corpus)
    if corpus.base != base.fingerprint or corpus.spec.base != base.fingerprint:
        raise AdapterMismatchError(
            f"the corpus was built on {corpus.base}, and the base at hand is {base.fingerprint}: "
            "load the corpus' own base"
        )
    if recipe_settings(corpus.recipe).prior_weight:
        raise InputError(
            "the corpus' recipe has a prior_weight, a term that the recipe's own loss, which training ends with, is "
            "without here: build the corpus without it"
        )
    held_subjects = sum(subject.held_out for subject in corpus.subjects)
    counts = {
        "training prompts": (len(train), 2),
        "held-out prompts": (len(held), 2),
        "training subjects": (len(corpus.subjects) - held_subjects, 1),
        "held-out subjects": (held_subjects, 1),
    }
    for name, (there, needed) in counts.items():
        if there < needed:
            raise InputError(f"the corpus has {there} {name}, and at least {needed} are needed: build a larger one")


def _spread(prompts: Sequence[CorpusPrompt], most: int) -> list[CorpusPrompt]:
    """At most so many, evenly spread."""
    return [prompts[round(i * len(prompts) / most)] for i in range(most)] if len(prompts) > most else list(prompts)
