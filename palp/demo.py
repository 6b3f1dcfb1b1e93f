"""The demonstration: one example subject, two prompts, and what each way of drawing them makes of both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from palp.adapter import Adapter
from palp.base import Base
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
COLUMNS = ("base model, class word", "subject adapter alone", "PALP")
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
        `out/demo.png`: a row for each prompt, a column for each of `COLUMNS`.

    Raises:
        InputError: there are no example pictures, or `out` holds a run with other settings.
        OutputError: `out` cannot be written.
    """
    if not demo.pictures.is_dir():
        raise InputError(f"there are no example pictures in {demo.pictures}: run the demo in a checkout of the project")
    subject = Subject(demo.class_word, read_pictures(demo.pictures, base.resolution))
    alone = _learned(base, out / "subject", subject, None, demo, bar)
    aligned = [
        _learned(base, out / f"palp-{number}", subject, prompt, demo, bar)
        for number, prompt in enumerate(demo.prompts, start=1)
    ]
    pictures = []
    for prompt, adapter in zip(demo.prompts, aligned, strict=True):
        clean = make_prompts([subject], prompt)[subject.placeholder].clean
        pictures.append(Picture(clean, demo.seed))
        pictures.append(Picture(prompt, demo.seed, alone))
        pictures.append(Picture(prompt, demo.seed, adapter))
    images = to_images(draw(base, pictures, Sampling(guidance=guidance_scale(base.name))))
    width = len(COLUMNS)
    rows = [images[start : start + width] for start in range(0, len(images), width)]
    sheet = out / "demo.png"
    notes = {"prompt": "\n".join(demo.prompts), "seed": str(demo.seed), "base": base.fingerprint}
    save_png(contact_sheet(rows, demo.prompts, COLUMNS), sheet, notes)
    return sheet


def _learned(base: Base, folder: Path, subject: Subject, prompt: str | None, demo: Demo, bar: Bar) -> Adapter:
    """The subject alone, or aligned with a prompt."""
    form: Form = "subject" if prompt is None else "joint"
    settings = recipe(base.name, form, {} if demo.steps is None else {"steps": demo.steps})
    job = joint_job(base, [subject], prompt, name=prompt or subject.class_word)
    with bar(f"learning {job.name}") as report:
        run = learn(base, job, settings, folder, [subject], Watch(report))
    return Adapter.load(run.adapter)
