"""What a hypernetwork owes to its losses and to the size of its corpus: trained anew for each, as long as the others.

    python -m benchmarks.hypernet runs/icons/corpus --over losses    # docs/results/hypernet-losses-NAME.json
    python -m benchmarks.hypernet runs/icons/corpus --over corpus    # docs/results/hypernet-corpus-NAME.json

No picture is drawn: G and S are of the change in the denoiser's output (`hypernet.proxies`), on all held-out prompts
and subjects of the corpus. Steps on weights alone ask no denoiser; the case of these has `CHEAPER` times as many.
Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks import setting
from benchmarks.examination import Examination, gains, of_each, predicted_by, row
from hypernet.config import HyperConfig
from hypernet.evaluate.rows import Cast
from hypernet.file import load_hypernet
from hypernet.learn import learn_hypernet
from hypernet.material import split_prompts
from hypernet.predict import Predictor
from hypernet.proxies import Changes
from hypernet.settings import CORPUS_TERMS, HyperSettings
from palp.adapter import Adapter, AdapterSpec
from palp.base import load_base
from palp.cli.progress import training_bar
from palp.corpus import Corpus, CorpusPrompt, CorpusSubject, open_corpus
from palp.evaluate.intervals import RESAMPLES, Estimate
from palp.evaluate.results import RESULTS, Row, table, write_results
from palp.learn import Watch

SIZES = (32, 64, 128, 256, 512)  # training prompts, as far as the corpus goes
CHEAPER = 4  # steps on weights alone take about so much less time

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
    def content(self) -> str:
        """As the whole corpus'."""
        return self._corpus.content

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


def exponent(found: Mapping[int, Changes], clusters: Sequence[str]) -> Estimate:
    """b of 1 − G = a N^(−b), N the number of training prompts: least squares in logarithms, resampled by cluster."""
    keys = np.unique([*clusters], return_inverse=True)[1]
    tops = np.stack([np.bincount(keys, weights=one.missed(one.own).double().cpu().numpy()) for one in found.values()])
    bottoms = np.stack([np.bincount(keys, weights=one.energy.double().cpu().numpy()) for one in found.values()])
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
    asked, exam = cases(over, corpus, steps), Examination(base, corpus)
    found: dict[str, Changes] = {}
    rows: dict[str, Row] = {}
    for name, case in asked.items():
        with training_bar(name) as report:
            run = work / f"{over}-{name.replace(' ', '-')}"
            watch = Watch(report)
            part = Part(corpus, case.prompts)
            hypernet, _ = load_hypernet(learn_hypernet(base, part, HyperConfig(), case.settings, run, watch))
        found[name] = exam.changes(predicted_by(base, hypernet.to(base.device)), hypernet.mean())
        cast = Cast(Predictor(base, hypernet), part)
        near = gains(exam.changes(of_each(base, cast.neighbour), hypernet.mean()), exam.clusters)
        rows[name] = {**row(found[name], exam.clusters), **{f"{key}_of_neighbour": one for key, one in near.items()}}
    path = out or RESULTS / f"hypernet-{over}-{base.name}.json"
    about = {"steps": {name: case.settings.steps for name, case in asked.items()}, "base": base.fingerprint}
    by_size = {asked[name].prompts: one for name, one in found.items()}
    more = {"exponent": exponent(by_size, exam.clusters).as_json()} if len(by_size) > 1 else {}
    write_results(path, rows, "python -m benchmarks.hypernet", about, more)
    print(table(rows))
    print(f"written to {path}")


if __name__ == "__main__":
    setting.run(main)
