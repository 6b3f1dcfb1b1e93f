"""A predicted adapter trained on for a few steps before a picture is drawn with it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypernet.stage import recipe_rule, recipe_settings, refining
from palp.adapter import Adapter, AdapterSpec
from palp.base import SITES, Base
from palp.errors import InputError
from palp.recipes import recipe
from palp.subjects import Subject, read_pictures
from palp.train import Trainer, TrainSettings, residual_job

__all__ = ["Lesson", "refine"]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is to be refined.

    Args:
        prompt: with the subject's word.
        class_word: of the subject.
        pictures: folder of the subject's pictures.
        subject: its adapter.
        spec: of the prompt adapter.
        start: the prediction; None, where the network abstains, is the start of an ordinary training.
        steps: of training.
        recipe: settings of the corpus the prediction comes from; empty for the base's own.
    """

    prompt: str
    class_word: str
    pictures: Path
    subject: Adapter
    spec: AdapterSpec
    start: Adapter | None
    steps: int
    recipe: Mapping[str, Any]


def refine(base: Base, lesson: Lesson) -> Generator[None, None, Adapter]:
    """Train in the residual form, a step each time the generator is resumed; it returns the adapter.

    Between steps the base is free for other calls. Closing the generator leaves the base as it was.

    Raises:
        InputError, PictureError, AdapterMismatchError: as `residual_job`, and adapters at sites of no named choice.
        NonFiniteLossError: the loss became nan or infinite.
    """
    subject = Subject(
        lesson.class_word, read_pictures(lesson.pictures, base.resolution), min(lesson.subject.placeholders)
    )
    rule = recipe_rule(lesson.recipe).name
    job = residual_job(base, [(subject, lesson.subject)], lesson.prompt, rule=rule, name=lesson.prompt)
    trainer = Trainer(base, [job], _settings(base, lesson))
    if lesson.start is not None:
        trainer.bank.write(0, lesson.start)
    yield
    for _ in trainer.run():
        yield
    return trainer.adapter(0)


def _settings(base: Base, lesson: Lesson) -> TrainSettings:
    """The recipe of the prediction's corpus with the shape of its adapters; gently where there is a prediction."""
    known = recipe_settings(lesson.recipe) if lesson.recipe else recipe(base.name, "residual")
    known = replace(known, steps=lesson.steps) if lesson.start is None else refining(known, lesson.steps)
    for sites in SITES:
        if base.sites(sites) == lesson.spec.sites:
            return replace(
                known,
                sites=sites,
                rank=lesson.spec.rank,
                lora_alpha=lesson.spec.alpha,
                gradient_checkpointing=False,
            )
    raise InputError(f"adapters at {len(lesson.spec.sites)} sites cannot be refined on this base: set refine to 0")
