"""An evaluation made ready: held-out prompts chosen, rivals trained or read from the work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from hypernet.evaluate.judge import Judge
from hypernet.evaluate.rivals import multi_prompt_adapter, refined_adapters
from hypernet.evaluate.rows import Cast
from hypernet.evaluate.study import HyperStudy
from hypernet.material import check_corpus, corpus_hash, split_prompts
from hypernet.model import Hypernetwork
from hypernet.predict import Predictor
from palp.adapter import Adapter
from palp.base import Base
from palp.corpus import Corpus, CorpusPrompt
from palp.draw import Sampling
from palp.evaluate.shelf import Bar
from palp.recipes import guidance_scale

__all__ = ["open_study"]


def open_study(
    base: Base,
    hypernet: Hypernetwork,
    corpus: Corpus,
    judge: Judge,
    work: Path,
    bar: Bar,
    *,
    prompts: int,
    seeds: int,
    refine: int,
    multi_steps: int,
    subjects: int | None = None,
) -> HyperStudy:
    """A study of so many held-out prompts, evenly over the kinds of novelty.

    Args:
        refine: steps of the row "refined"; 0 for none.
        multi_steps: of the adapter for all prompts.
        subjects: held-out subjects to draw; None is all.

    Raises:
        AdapterMismatchError: hypernetwork, corpus and base do not belong together.
        InputError: the corpus has no held-out prompts or subjects.
    """
    check_corpus(base, corpus)
    predictor = Predictor(base, hypernet)
    hypernet.spec.check(corpus.spec)
    train, held = split_prompts(corpus)
    chosen = _evenly(held, prompts)
    identity = _identity(hypernet, corpus)

    def kept(name: str, make: Callable[[], Adapter]) -> Adapter:
        path = work / f"{name}-{identity[:16]}.safetensors"
        if not path.is_file():
            make().save(path)
        return Adapter.load(path)

    def train_multi() -> Adapter:
        with bar("learning one adapter for all prompts") as report:
            return multi_prompt_adapter(base, corpus, train, multi_steps, report)

    multi = kept(f"multi-{multi_steps}", train_multi)
    refined = {}
    if refine:
        with bar("training predictions on") as report:
            refined = refined_adapters(predictor, corpus, chosen, refine, report)
    cast = Cast(predictor, corpus, multi, refined)
    sampling = Sampling(guidance=guidance_scale(base.name))
    return HyperStudy(cast, judge, chosen, seeds, sampling, work, f"{identity}-{refine}-{multi_steps}", bar, subjects)


def _evenly(prompts: Sequence[CorpusPrompt], count: int) -> list[CorpusPrompt]:
    """So many, taking turns among the splits; all if there are fewer."""
    by_split: dict[str, list[CorpusPrompt]] = {}
    for prompt in prompts:
        by_split.setdefault(prompt.split, []).append(prompt)
    turns = [part[turn] for turn in range(len(prompts)) for part in by_split.values() if turn < len(part)]
    return turns[:count]


def _identity(hypernet: Hypernetwork, corpus: Corpus) -> str:
    digest = hashlib.sha256(corpus_hash(corpus).encode())
    for name, tensor in hypernet.state_dict().items():
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
