"""The demonstration: one example subject, two prompts, and what each way of drawing them makes of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from hypernet.file import load_hypernet
from hypernet.learn import hypernet_file
from hypernet.predict import Predictor
from hypernet.shipped import shipped_hypernet
from palp.adapter import Adapter
from palp.base import Base
from palp.compose import over_subject
from palp.draw import Picture, Sampling, draw
from palp.errors import InputError
from palp.learn import Report, Watch, learn
from palp.prompts import make_prompts
from palp.recipes import Form, guidance_scale, recipe
from palp.sheets import contact_sheet, save_png, to_images
from palp.subjects import Subject, read_pictures
from palp.train import joint_job

__all__ = ["COLUMNS", "PROMPTS", "Demo", "run_demo"]

EXAMPLES = Path(__file__).parents[1] / "examples" / "subjects"
PROMPTS = (
    "an oil painting of [V] in a meadow",
    "a watercolor painting of [V] on a beach",
)
COLUMNS = (
    "one of the pictures it is learned from",
    "base model, class word",
    "subject adapter alone",
    "PALP, trained for the prompt",
    "predicted for the prompt, in one pass",
)
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
        `out/demo.png`: a row for each prompt, a column for each of `COLUMNS`; without the last for a base that no
        hypernetwork is shipped for.

    Raises:
        InputError: there are no example pictures, or `out` holds a run with other settings.
        OutputError: `out` cannot be written.
    """
    if not demo.pictures.is_dir():
        raise InputError(f"there are no example pictures in {demo.pictures}: run the demo in a checkout of the project")
    subject = Subject(demo.class_word, read_pictures(demo.pictures, base.resolution))
    alone = _learned(base, out / "subject", subject, None, demo, bar)
    predictor = _predictor(base)
    pictures: list[Picture] = []
    for number, prompt in enumerate(demo.prompts, start=1):
        aligned = _learned(base, out / f"palp-{number}", subject, prompt, demo, bar)
        clean = make_prompts([subject], prompt)[subject.placeholder].clean
        pictures += [Picture(clean, demo.seed), Picture(prompt, demo.seed, alone), Picture(prompt, demo.seed, aligned)]
        if predictor is not None:
            predicted = over_subject(alone, predictor.predict_adapter(prompt, demo.class_word))
            pictures.append(Picture(prompt, demo.seed, predicted))
    images = to_images(draw(base, pictures, Sampling(guidance=guidance_scale(base.name))))
    width = len(pictures) // len(demo.prompts)
    learned_from = itertools.cycle(to_images(subject.pictures))
    rows = [[next(learned_from), *images[start : start + width]] for start in range(0, len(images), width)]
    sheet = out / "demo.png"
    notes = {"prompt": "\n".join(demo.prompts), "seed": str(demo.seed), "base": base.fingerprint}
    save_png(contact_sheet(rows, demo.prompts, COLUMNS[: 1 + width]), sheet, notes)
    return sheet


def _predictor(base: Base) -> Predictor | None:
    """The hypernetwork that ships for the base, if one does."""
    folder = shipped_hypernet(base)
    return None if folder is None else Predictor(base, load_hypernet(hypernet_file(folder))[0])


def _learned(base: Base, folder: Path, subject: Subject, prompt: str | None, demo: Demo, bar: Bar) -> Adapter:
    """The subject alone, or aligned with a prompt."""
    form: Form = "subject" if prompt is None else "joint"
    settings = recipe(base.name, form, {} if demo.steps is None else {"steps": demo.steps})
    job = joint_job(base, [subject], prompt, name=prompt or subject.class_word)
    with bar(f"learning {job.name}") as report:
        run = learn(base, job, settings, folder, [subject], Watch(report))
    return Adapter.load(run.adapter)
