"""An evaluation made ready: held-out prompts chosen; rivals are trained, or read from the work folder, when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from palp.base.fingerprint import weights_fingerprint
from palp.corpus import Corpus, CorpusPrompt
from palp.draw import Sampling
from palp.evaluate.shelf import Bar
from palp.learn import Report
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
    steps: int = Sampling.steps,
) -> HyperStudy:
    """A study of so many held-out prompts, evenly over the kinds of novelty.

    Args:
        refine: steps of the row "refined"; 0 for none.
        multi_steps: of the adapter for all prompts.
        subjects: held-out subjects to draw; None is all.
        steps: denoising steps of every picture.

    Raises:
        AdapterMismatchError: hypernetwork, corpus and base do not belong together.
        InputError: the corpus has no held-out prompts or subjects.
    """
    check_corpus(base, corpus)
    predictor = Predictor(base, hypernet)
    hypernet.spec.check(corpus.spec)
    train, held = split_prompts(corpus)
    chosen = evenly(held, prompts)
    identity = _identity(hypernet, corpus)
    rivals = _Rivals(predictor, corpus, train, chosen, multi_steps, refine, work, identity[:16], bar)
    cast = Cast(predictor, corpus, rivals.multi, rivals.refined if refine else None)
    sampling = Sampling(steps, guidance_scale(base.name))
    drawn = f"{base.arithmetic}-{weights_fingerprint(base.vae)}-{judge.identity}"
    return HyperStudy(
        cast, judge, chosen, seeds, sampling, work, f"{identity}-{drawn}-{refine}-{multi_steps}", bar, subjects
    )


@dataclass(frozen=True, eq=False)
class _Rivals:
    """Those that must be trained, each when it is first asked for, and kept in the work folder."""

    predictor: Predictor
    corpus: Corpus
    train: Sequence[CorpusPrompt]
    held: Sequence[CorpusPrompt]
    multi_steps: int
    refine: int
    folder: Path
    identity: str
    bar: Bar

    def multi(self) -> Adapter:
        """One adapter for all training prompts."""

        def make(report: Report) -> list[Adapter]:
            base, steps = self.predictor.base, self.multi_steps
            return [multi_prompt_adapter(base, self.corpus, self.train, steps, report)]

        return self._kept([f"multi-{self.multi_steps}"], "learning one adapter for all prompts", make)[0]

    def refined(self) -> dict[str, Adapter]:
        """By prompt key, the predictions trained on."""

        def make(report: Report) -> list[Adapter]:
            return refined_adapters(self.predictor, self.corpus, self.held, self.refine, report)

        names = [f"refined-{self.refine}-{n}" for n in range(len(self.held))]
        adapters = self._kept(names, "training predictions on", make)
        return {prompt.key: adapter for prompt, adapter in zip(self.held, adapters, strict=True)}

    def _kept(self, names: Sequence[str], title: str, make: Callable[[Report], Sequence[Adapter]]) -> list[Adapter]:
        paths = [self.folder / f"{name}-{self.identity}.safetensors" for name in names]
        if not all(path.is_file() for path in paths):
            with self.bar(title) as report:
                made = make(report)
            for path, adapter in zip(paths, made, strict=True):
                adapter.save(path)
        return [Adapter.load(path) for path in paths]


def evenly(prompts: Sequence[CorpusPrompt], count: int) -> list[CorpusPrompt]:
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
