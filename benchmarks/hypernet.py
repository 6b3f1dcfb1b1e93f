"""What a hypernetwork owes to its losses and to the size of its corpus: trained anew for each, as long as the others.

    python -m benchmarks.hypernet runs/icons/corpus --over losses    # docs/results/hypernet-losses-NAME.json
    python -m benchmarks.hypernet runs/icons/corpus --over corpus    # docs/results/hypernet-corpus-NAME.json

No picture is drawn: G and S are of the change in the denoiser's output (`hypernet.proxies`), on all held-out prompts
and subjects of the corpus. Steps on weights alone ask no denoiser; the case of these has `CHEAPER` times as many.
Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks import setting
from hypernet.config import HyperConfig
from hypernet.draws import Draws
from hypernet.factors import Factors
from hypernet.file import load_hypernet
from hypernet.learn import learn_hypernet
from hypernet.material import split_prompts
from hypernet.prompts import encode_clean
from hypernet.proxies import Changes, Exam
from hypernet.settings import CORPUS_TERMS, HyperSettings
from hypernet.stage import Samples, Stage, recipe_rule, recipe_settings
from palp.adapter import Adapter, AdapterSpec
from palp.base import Base, load_base
from palp.cli.progress import training_bar
from palp.corpus import Corpus, CorpusPrompt, CorpusSubject, open_corpus
from palp.evaluate.intervals import RESAMPLES, Estimate, ratio
from palp.evaluate.results import RESULTS, Row, table, write_results
from palp.learn import Watch

SIZES = (32, 64, 128, 256, 512)  # training prompts, as far as the corpus goes
CHEAPER = 4  # steps on weights alone take about so much less time
SAMPLES = 8  # noised pictures of each held-out prompt
TOGETHER = 8  # held-out prompts measured at once
KEY = 424_242  # of the draws that are measured on: none of the training's, nor of its validation's

Folder = Annotated[Path, typer.Argument(help="A finished corpus, of palp-hyper build-corpus.")]
Over = Annotated[Literal["losses", "corpus"], typer.Option(help="What differs between the trainings.")]
Steps = Annotated[int, typer.Option(min=20, help="Optimiser steps of each training.")]
Work = Annotated[Path, typer.Option(help="Folder of the trainings; the same command goes on from them.")]


@dataclass(frozen=True)
class Case:
    """One training: on how many prompts of the corpus, and how."""

    prompts: int
    settings: HyperSettings


class Part:
    """A corpus of which only some training prompts are taken, each as likely; the held-out ones are all there."""

    def __init__(self, corpus: Corpus, prompts: int) -> None:
        train, held = split_prompts(corpus)
        chosen = sorted(train, key=lambda prompt: zlib.crc32(prompt.key.encode()))[:prompts]
        self._corpus, self.prompts = corpus, sorted([*chosen, *held], key=lambda prompt: prompt.key)

    @property
    def base(self) -> str:
        """As the whole corpus'."""
        return self._corpus.base

    @property
    def spec(self) -> AdapterSpec:
        """As the whole corpus'."""
        return self._corpus.spec

    @property
    def recipe(self) -> Mapping[str, object]:
        """As the whole corpus'."""
        return self._corpus.recipe

    @property
    def subjects(self) -> Sequence[CorpusSubject]:
        """As the whole corpus'."""
        return self._corpus.subjects

    @property
    def fresh_prompts(self) -> Sequence[CorpusPrompt]:
        """As the whole corpus'."""
        return self._corpus.fresh_prompts

    def adapter(self, key: str) -> Adapter:
        """As the whole corpus'."""
        return self._corpus.adapter(key)

    def pictures(self, key: str) -> torch.Tensor | None:
        """As the whole corpus'."""
        return self._corpus.pictures(key)

    def metrics(self, key: str) -> Mapping[str, float]:
        """As the whole corpus'."""
        return self._corpus.metrics(key)


def cases(over: str, corpus: Corpus, steps: int) -> dict[str, Case]:
    """The trainings to compare, by name."""
    count = len(split_prompts(corpus)[0])
    if over == "corpus":
        sizes = [size for size in SIZES if size < count] + [count]
        return {f"{size} prompts": Case(size, _settings(steps, warm=steps // 3, tune=0)) for size in sizes}
    weights, off = steps * CHEAPER, {term: 0.0 for term in CORPUS_TERMS if term not in ("behaviour", "trust")}
    found = {
        "corpus weights": _settings(weights, warm=weights, tune=0),
        "corpus behaviour": _settings(steps, warm=0, tune=0, **off),
        "corpus weights and behaviour": _settings(steps, warm=steps // 3, tune=0),
        "recipe loss": _settings(steps, warm=0, tune=steps),
        "together, not told apart": _settings(steps, warm=steps // 6, tune=steps // 2, recipe_shuffled=0.0),
        "together": _settings(steps, warm=steps // 6, tune=steps // 2),
    }
    return {name: Case(count, settings) for name, settings in found.items()}


def _settings(steps: int, **values: Any) -> HyperSettings:
    """Measured four times on the way, never ended early; the best averaged weights are kept."""
    head = {"steps": steps, "warmup": steps // 10, "patience": 0, "validate_every": max(1, steps // 4)}
    return HyperSettings.from_mapping({**head, **values})


class Examination:
    """What every training is measured on: the held-out prompts and subjects, and the same noise."""

    def __init__(self, base: Base, corpus: Corpus) -> None:
        self._base, self._corpus = base, corpus
        self._held = split_prompts(corpus)[1]
        strangers = [subject for subject in corpus.subjects if subject.held_out]
        self._rule = recipe_rule(corpus.recipe)
        self._recipe, steps = recipe_settings(corpus.recipe), len(base.schedule)
        self._stage = Stage(base, corpus.spec, strangers, TOGETHER, self._recipe.subject_scale)
        t_range = round(self._recipe.t_min * steps), round(self._recipe.t_max * steps)
        draws = Draws(self._held, strangers, t_range, base.device, corpus.pictures)
        self._parts = [part for part in _parts(self._held) if len(part) > 1]
        self._batches = [draws.of([KEY, i], part, SAMPLES) for i, part in enumerate(self._parts)]

    @property
    def clusters(self) -> list[str]:
        """The cluster of each row of `changes`."""
        return [prompt.cluster for part in self._parts for prompt in part for _ in range(SAMPLES)]

    def changes(self, path: Path) -> Changes:
        """What a hypernetwork's predictions change, and what they should."""
        hypernet = load_hypernet(path)[0].to(self._base.device)
        mean = Factors.stack([hypernet.mean()]).to(self._base.device)

        def predict(samples: Samples) -> Factors:
            batch = samples.batch
            read = encode_clean(self._base, [prompt.text for prompt in batch.prompts], batch.class_words)
            factors: Factors = hypernet(read).factors
            return factors

        exam = Exam(self._stage, self._rule, self._recipe, mean)
        with self._stage.attached():
            return Changes.cat([exam.changes(*asked, predict) for asked in self._asked()])

    def _asked(self) -> Iterator[tuple[Samples, Factors]]:
        for part, batch in zip(self._parts, self._batches, strict=True):
            target = Factors.stack([self._corpus.adapter(prompt.key) for prompt in part]).to(self._base.device)
            yield self._stage.samples(batch), target


def row(found: Changes, clusters: Sequence[str]) -> Row:
    """G of prediction and of the mean adapter, S, and what the recipe's loss loses, with intervals by cluster."""
    total, alone = _array(found.energy), _array(found.left_alone)

    def share(kept: NDArray[np.float64]) -> Estimate:
        return ratio(kept, total, clusters)

    def less(left: torch.Tensor) -> Estimate:
        return ratio(alone - _array(left), alone, clusters)

    return {
        "gain": share(total - _array(found.missed(found.own))),
        "gain_of_mean": share(total - _array(found.missed(found.mean))),
        "specificity": share(_array(found.told_apart)),
        "specificity_of_corpus": share(_array(found.corpus_told_apart)),
        "recipe_gain": less(found.left),
        "recipe_gain_of_other": less(found.left_by_other),
        "recipe_gain_of_corpus": less(found.left_by_corpus),
    }


def exponent(found: Mapping[int, Changes], clusters: Sequence[str]) -> Estimate:
    """b of 1 − G = a N^(−b), N the number of training prompts: least squares in logarithms, resampled by cluster."""
    keys = np.unique([*clusters], return_inverse=True)[1]
    tops = np.stack([np.bincount(keys, weights=_array(one.missed(one.own))) for one in found.values()])
    bottoms = np.stack([np.bincount(keys, weights=_array(one.energy)) for one in found.values()])
    sizes = np.log(list(found))

    def fit(chosen: NDArray[np.int64]) -> float:
        missing = np.log(tops[:, chosen].sum(1) / bottoms[:, chosen].sum(1))
        return -float(np.polyfit(sizes, missing, 1)[0])

    count = int(tops.shape[1])
    random = np.random.default_rng(0)
    low, high = np.percentile([fit(random.integers(0, count, size=count)) for _ in range(RESAMPLES)], [2.5, 97.5])
    return Estimate(fit(np.arange(count)), float(low), float(high), count)


def main(
    folder: Folder,
    over: Over = "losses",
    source: setting.BaseOption = "icons",
    steps: Steps = 400,
    work: Work = Path("runs/hypernet-study"),
    out: setting.Out = None,
) -> None:
    """Train and measure each case."""
    base, corpus = load_base(source), open_corpus(folder)
    asked, exam, found = cases(over, corpus, steps), Examination(base, corpus), {}
    for name, case in asked.items():
        with training_bar(name) as report:
            run = work / f"{over}-{name.replace(' ', '-')}"
            watch = Watch(report)
            path = learn_hypernet(base, Part(corpus, case.prompts), HyperConfig(), case.settings, run, watch)
        found[name] = exam.changes(path)
    rows = {name: row(one, exam.clusters) for name, one in found.items()}
    path = out or RESULTS / f"hypernet-{over}-{base.name}.json"
    about = {"steps": {name: case.settings.steps for name, case in asked.items()}, "base": base.fingerprint}
    by_size = {asked[name].prompts: one for name, one in found.items()}
    more = {"exponent": exponent(by_size, exam.clusters).as_json()} if len(by_size) > 1 else {}
    write_results(path, rows, "python -m benchmarks.hypernet", about, more)
    print(table(rows))
    print(f"written to {path}")


def _parts(prompts: Sequence[CorpusPrompt]) -> Iterator[Sequence[CorpusPrompt]]:
    for start in range(0, len(prompts), TOGETHER):
        yield prompts[start : start + TOGETHER]


def _array(values: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().cpu().numpy()
    return array


if __name__ == "__main__":
    setting.run(main)
