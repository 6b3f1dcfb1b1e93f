"""The demonstration: one example subject, two prompts, and what each way of drawing them makes of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from hypernet.shipped import shipped_predictor
from palp.adapter import Adapter
from palp.base import Base
from palp.compose import compose, strengths
from palp.draw import Picture, Sampling, draw
from palp.errors import InputError
from palp.learn import Report, Watch, learn
from palp.prompts import make_prompts
from palp.recipes import Form, guidance_scale, opening_of, recipe
from palp.sheets import contact_sheet, save_png, to_images
from palp.subjects import Subject, read_pictures
from palp.train import joint_job

__all__ = ["PROMPTS", "Demo", "run_demo"]

EXAMPLES = Path(__file__).parents[1] / "examples" / "subjects"
PROMPTS = (
    "an oil painting of [V] in a meadow",
    "a watercolor painting of [V] on a beach",
)
PICTURE = "one of the pictures it is learned from"
Bar = Callable[[str], AbstractContextManager[Report]]


@dataclass(frozen=True)
class Demo:
    """What to show.

    Args:
        pictures: folder of the subject's pictures.
        class_word: what the base calls it.
        prompts: one row each, with [V].
        steps: of every training; None for the recipe's.
        seed: of the pictures drawn.
    """

    pictures: Path = EXAMPLES / "pickup-truck"
    class_word: str = "truck"
    prompts: tuple[str, ...] = PROMPTS
    steps: int | None = None
    seed: int = 0


def run_demo(base: Base, out: Path, demo: Demo, bar: Bar) -> Path:
    """Learn the subject, align it with each prompt, and draw the sheet; what is finished is not done again.

    Args:
        bar: opens a progress bar with a title.

    Returns:
        `out/demo.png`: a row for each prompt, a column for each way of drawing it; an opening and a prediction only
        for a base that has them.

    Raises:
        InputError: there are no example pictures, or `out` holds a run with other settings.
        OutputError: `out` cannot be written.
    """
    if not demo.pictures.is_dir():
        raise InputError(f"there are no example pictures in {demo.pictures}: run the demo in a checkout of the project")
    subject = Subject(demo.class_word, read_pictures(demo.pictures, base.resolution))
    alone = _learned(base, out / "subject", subject, None, demo, bar)
    rows: list[dict[str, Picture]] = []
    for number, prompt in enumerate(demo.prompts, start=1):
        aligned = _learned(base, out / f"palp-{number}", subject, prompt, demo, bar)
        rows.append(_ways(base, subject, prompt, alone, aligned, demo))
    sampling = Sampling(guidance=guidance_scale(base.name), opening=opening_of(base.name))
    images = iter(to_images(draw(base, [picture for row in rows for picture in row.values()], sampling)))
    learned_from = itertools.cycle(to_images(subject.pictures))
    cells = [[next(learned_from), *itertools.islice(images, len(row))] for row in rows]
    sheet = out / "demo.png"
    notes = {"prompt": "\n".join(demo.prompts), "seed": str(demo.seed), "base": base.fingerprint}
    save_png(contact_sheet(cells, demo.prompts, [PICTURE, *rows[0]]), sheet, notes)
    return sheet


def _ways(
    base: Base, subject: Subject, prompt: str, alone: Adapter, aligned: Adapter, demo: Demo
) -> dict[str, Picture]:
    """A prompt drawn in every way, by column."""
    opening, predictor = opening_of(base.name), shipped_predictor(base)
    clean = make_prompts([subject], prompt)[subject.placeholder].clean
    rest, first = opening.strength(prompt), alone if opening.opens(prompt) else None
    ways = {
        "base model, class word": Picture(clean, demo.seed),
        "subject adapter alone": Picture(prompt, demo.seed, alone),
        "PALP, trained for the prompt": Picture(prompt, demo.seed, aligned),
    }
    if first is not None:
        ways["PALP, opened as a photo"] = Picture(prompt, demo.seed, aligned.scaled(rest), aligned)
        ways["subject, opened as a photo"] = Picture(prompt, demo.seed, alone.scaled(rest), first)
    if predictor is not None:
        predicted = predictor.predict_adapter(prompt, demo.class_word)
        own, scale = strengths(predicted, rest=rest)
        column = "… and predicted for the prompt" if first else "predicted for the prompt"
        ways[column] = Picture(prompt, demo.seed, compose([(alone, own), (predicted, scale)]), first)
    return ways


def _learned(base: Base, folder: Path, subject: Subject, prompt: str | None, demo: Demo, bar: Bar) -> Adapter:
    """The subject alone, or aligned with a prompt."""
    form: Form = "subject" if prompt is None else "joint"
    settings = recipe(base.name, form, {} if demo.steps is None else {"steps": demo.steps})
    job = joint_job(base, [subject], prompt, name=prompt or subject.class_word)
    with bar(f"learning {job.name}") as report:
        run = learn(base, job, settings, folder, [subject], Watch(report))
    return Adapter.load(run.adapter)
