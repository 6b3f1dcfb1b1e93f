"""How many steps of training a prediction saves: adapters trained from zero, and from what is predicted for the prompt.

    python -m benchmarks.refining runs/icons/hypernet runs/icons/corpus    # docs/results/hypernet-refining-NAME.json

No picture is drawn: what is measured is the corpus recipe's own loss on held-out prompts and subjects, on the same
pictures, timesteps and noise for all. In gains over the subjects alone, of which the corpus' adapters' is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks import setting
from hypernet.evaluate.rivals import prompt_job, settings_of, start_from_predictions, training_subjects
from hypernet.evaluate.setting import evenly
from hypernet.file import load_hypernet
from hypernet.learn import hypernet_file
from hypernet.material import split_prompts
from hypernet.predict import Predictor
from hypernet.stage import refining
from palp.adapter import Adapter
from palp.bank import AdapterBank
from palp.base import Base, load_base
from palp.cli.progress import training_bar
from palp.corpus import Corpus, CorpusPrompt, open_corpus
from palp.evaluate.intervals import estimate, ratio
from palp.evaluate.results import RESULTS, Row, table, write_results
from palp.train import Trainer, TrainSettings
from palp.train.probe import Probe

SAMPLES = 32  # noised pictures of each prompt
STEPS = (0, 5, 10, 20, 40)  # of a whole training
KEY = 424_242  # of the noise that is measured on
WAYS = ("from zero", "from the prediction", "from the prediction, at the recipe's rate")

Run = Annotated[Path, typer.Argument(help="A trained hypernetwork: its run folder or file.")]
Folder = Annotated[Path, typer.Argument(help="Its corpus, of palp-hyper build-corpus.")]
Prompts = Annotated[int, typer.Option(min=2, help="Held-out prompts.")]


class Examination:
    """The recipe's loss of adapters, each for one of the prompts, on held-out subjects."""

    def __init__(self, base: Base, corpus: Corpus, prompts: Sequence[CorpusPrompt]) -> None:
        strangers = [subject for subject in corpus.subjects if subject.held_out]
        jobs = [prompt_job(corpus, prompt, strangers, KEY) for prompt in prompts]
        self._base, self._probe = base, Probe(base, jobs, settings_of(corpus, 1), SAMPLES)

    def losses(self, adapters: Sequence[Adapter]) -> NDArray[np.float64]:
        """One for each prompt."""
        bank = AdapterBank.holding(self._base.unet, adapters).requires_grad_(False)
        bank.attach()
        try:
            losses: NDArray[np.float64] = self._probe.measure(bank).double().numpy()
            return losses
        finally:
            bank.detach()


def trained(
    predictor: Predictor, corpus: Corpus, prompts: Sequence[CorpusPrompt], way: str, steps: int
) -> list[Adapter]:
    """The prompts' adapters after a whole training of so many steps, or none, over the training subjects."""
    jobs = [prompt_job(corpus, prompt, training_subjects(corpus)) for prompt in prompts]
    trainer = Trainer(predictor.base, jobs, _settings(settings_of(corpus, max(1, steps)), way))
    if way != WAYS[0]:
        start_from_predictions(predictor, prompts, trainer)
    if steps == 0:
        return trainer.adapters()
    with training_bar(f"{way}, {steps} steps") as report:
        for step in trainer.run():
            report(step.number + 1, steps, float(step.losses.loss.mean()))
    return trainer.adapters()


def _settings(settings: TrainSettings, way: str) -> TrainSettings:
    if way == WAYS[0]:
        return settings
    return refining(settings, settings.steps) if way == WAYS[1] else replace(settings, warmup=0)


def main(
    run: Run,
    folder: Folder,
    prompts: Prompts = 16,
    source: setting.BaseOption = "icons",
    out: setting.Out = None,
) -> None:
    """Train and measure."""
    base, corpus = load_base(source), open_corpus(folder)
    hypernet, origin = load_hypernet(hypernet_file(run))
    predictor = Predictor(base, hypernet)
    chosen = evenly(split_prompts(corpus)[1], prompts)
    clusters, exam = [prompt.cluster for prompt in chosen], Examination(base, corpus, chosen)
    oracles = [corpus.adapter(prompt.key) for prompt in chosen]
    alone, optimised = exam.losses([one.scaled(0.0) for one in oracles]), exam.losses(oracles)

    def row(parts: dict[int, Sequence[Adapter]]) -> Row:
        left = {f"{n} steps": exam.losses(adapters) for n, adapters in parts.items()}
        return {name: ratio(alone - one, alone - optimised, clusters) for name, one in left.items()}

    rows = {way: row({n: trained(predictor, corpus, chosen, way, n) for n in STEPS}) for way in WAYS}
    path = out or RESULTS / f"hypernet-refining-{base.name}.json"
    about = {"base": base.fingerprint, "prompts": len(chosen), "training": dict(origin.training)}
    gain = {"gain_of_corpus": estimate((alone - optimised) / alone, clusters).as_json()}
    write_results(path, rows, "python -m benchmarks.refining", about, gain)
    print(table(rows))
    print(f"written to {path}")


if __name__ == "__main__":
    setting.run(main)
