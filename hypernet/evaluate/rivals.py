"""What must be trained for the table: one adapter for all prompts, and predictions trained on for a few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from hypernet.predict import Predictor
from hypernet.prompts import prompts_of
from hypernet.stage import recipe_rule, recipe_settings, refining
from palp.adapter import Adapter
from palp.base import Base
from palp.corpus import Corpus, CorpusPrompt, CorpusSubject
from palp.learn import Report
from palp.train import Job, JobSubject, Trainer, TrainSettings

__all__ = [
    "multi_prompt_adapter",
    "prompt_job",
    "refined_adapters",
    "refiner",
    "settings_of",
    "start_from_predictions",
    "training_subjects",
]

SEED = 0


def multi_prompt_adapter(
    base: Base, corpus: Corpus, prompts: Sequence[CorpusPrompt], steps: int, report: Report
) -> Adapter:
    """One adapter trained by the corpus' recipe on all these prompts at once, each over one of the training subjects.

    Every prompt over every subject would be thousands of prompts to encode, for an adapter that sees a few in a step.
    """
    subjects = training_subjects(corpus)
    turns = [(prompt, i % len(subjects)) for i, prompt in enumerate(prompts)]
    members = tuple(_member(prompt, subjects[n], _latents(corpus, prompt, subjects)[n]) for prompt, n in turns)
    job = Job(members, recipe_rule(corpus.recipe).name, SEED, "all prompts")
    trainer = Trainer(base, [job], settings_of(corpus, steps))
    _run(trainer, report)
    return trainer.adapters()[0]


def refined_adapters(
    predictor: Predictor, corpus: Corpus, prompts: Sequence[CorpusPrompt], steps: int, report: Report
) -> list[Adapter]:
    """One a prompt: the prediction as the first weights of so many steps of the corpus' recipe."""
    trainer = refiner(predictor, corpus, prompts, steps)
    _run(trainer, report)
    return trainer.adapters()


def refiner(predictor: Predictor, corpus: Corpus, prompts: Sequence[CorpusPrompt], steps: int) -> Trainer:
    """A trainer for so many steps of the corpus' recipe, whose first weights are the predictions."""
    jobs = [prompt_job(corpus, prompt, training_subjects(corpus)) for prompt in prompts]
    trainer = Trainer(predictor.base, jobs, refining(settings_of(corpus, steps), steps))
    start_from_predictions(predictor, prompts, trainer)
    return trainer


def start_from_predictions(predictor: Predictor, prompts: Sequence[CorpusPrompt], trainer: Trainer) -> None:
    """Write what is predicted for these prompts into a trainer's slots, one after the other."""
    words = [job.subjects[0].class_word for job in trainer.jobs]
    predicted = predictor.predict([prompt.text for prompt in prompts], words)
    predicted.factors.write(trainer.bank, list(range(len(prompts))))


def training_subjects(corpus: Corpus) -> list[CorpusSubject]:
    """Those that the corpus' adapters were trained over."""
    return [subject for subject in corpus.subjects if not subject.held_out]


def prompt_job(corpus: Corpus, prompt: CorpusPrompt, subjects: Sequence[CorpusSubject], seed: int = SEED) -> Job:
    """The prompt over these subjects, by the corpus' rule."""
    latents = _latents(corpus, prompt, subjects)
    members = tuple(_member(prompt, *pair) for pair in zip(subjects, latents, strict=True))
    return Job(members, recipe_rule(corpus.recipe).name, seed, prompt.key)


def settings_of(corpus: Corpus, steps: int) -> TrainSettings:
    """The recipe, with the rank and alpha that the corpus' adapters really have."""
    spec = corpus.spec
    return replace(recipe_settings(corpus.recipe), steps=steps, rank=spec.rank, lora_alpha=spec.alpha)


def _latents(corpus: Corpus, prompt: CorpusPrompt, subjects: Sequence[CorpusSubject]) -> Sequence[Tensor]:
    """What the corpus' own adapter was trained on, a row a subject."""
    pictures = corpus.pictures(prompt.key)
    if pictures is None:
        return [subject.latents for subject in subjects]
    return [pictures[n % len(pictures)] for n in range(len(subjects))]


def _member(prompt: CorpusPrompt, subject: CorpusSubject, latents: Tensor) -> JobSubject:
    word = min(subject.adapter.placeholders, default="[V]")
    texts = prompts_of(prompt.text, subject.class_word)
    return JobSubject(latents, texts, word, subject.class_word, subject.adapter)


def _run(trainer: Trainer, report: Callable[[int, int, float], None]) -> None:
    for step in trainer.run():
        report(step.number + 1, trainer.settings.steps, float(step.losses.loss.mean()))
