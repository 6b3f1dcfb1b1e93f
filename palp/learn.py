"""One training in its run folder: begun, gone on with after a kill, or found finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from palp.base import Base
from palp.compose import over_subject
from palp.draw import Picture, Sampling, draw
from palp.logs import open_logs
from palp.recipes import guidance_scale
from palp.runs import RunFolder, open_run
from palp.sheets import contact_sheet, save_png, to_images
from palp.subjects import Subject
from palp.train import Job, Step, Trainer, TrainSettings

__all__ = ["Report", "Watch", "learn"]

Report: TypeAlias = Callable[[int, int, float], None]
"""Called after every step with the steps done, the steps in all, and the loss."""

CHECKPOINT_S = 15.0
"""Seconds of work that a kill may cost."""
SAMPLE_SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Watch:
    """What to see of a training while it goes on; nothing here changes its result.

    Args:
        report: called after every step.
        samples_every: steps between sheets of pictures; 0 for none.
        tensorboard: folder for logs, or None.
    """

    report: Report | None = None
    samples_every: int = 0
    tensorboard: Path | None = None


def learn(
    base: Base,
    job: Job,
    settings: TrainSettings,
    out: Path,
    subjects: Sequence[Subject] = (),
    watch: Watch | None = None,
) -> RunFolder:
    """Train a job to its end in the run folder `out`, from its last checkpoint if it has one.

    Args:
        subjects: whose pictures are kept in the folder, so that it is all that a later training needs.

    Raises:
        InputError: the folder holds another run.
        NonFiniteLossError: the loss became nan or infinite.
        OutputError: the folder cannot be written; what was there is whole.
    """
    run, asked = RunFolder(out), resolved(base, job, settings)
    if run.finished:
        run = open_run(out, asked)
        run.checkpoint.unlink(missing_ok=True)
        return run
    watch = watch or Watch()
    trainer = Trainer(base, [job], settings)
    with open_logs(watch.tensorboard) as log:
        run = open_run(out, asked)  # from here on there are files
        for subject in subjects:
            _keep_pictures(run, subject)
        if run.checkpoint.is_file():
            trainer.load(run.checkpoint)
        _train(trainer, run, watch, log)
    adapter = trainer.adapters()[0]
    adapter.export_embeddings(run.path)
    adapter.save(run.adapter)
    run.checkpoint.unlink(missing_ok=True)
    return run


def resolved(base: Base, job: Job, settings: TrainSettings) -> dict[str, Any]:
    """Everything that fixes a run's result, as JSON values."""
    return {
        "base": base.fingerprint,
        "arithmetic": base.arithmetic,
        "form": "residual" if job.residual else "joint",
        "rule": job.rule,
        "prompt": job.subjects[0].prompts.target,
        "subjects": list(dict.fromkeys(f"{subject.placeholder} {subject.class_word}" for subject in job.subjects)),
        "seed": job.seed,
        **settings.to_mapping(),
        "content": job.content_hash,
    }


def _train(trainer: Trainer, run: RunFolder, watch: Watch, log: Any) -> None:
    saved_at = time.monotonic()
    total = trainer.settings.steps
    for step in trainer.run():
        done = step.number + 1
        if not bool(step.active.all()):
            continue  # it stopped here, and `run` is about to say so; the checkpoint is from before
        if watch.report is not None:
            watch.report(done, total, float(step.losses.loss.mean()))
        if log is not None:
            _log(log, step)
        if watch.samples_every and done % watch.samples_every == 0:
            _draw_sheet(trainer, run.sample(done))
        if time.monotonic() - saved_at > CHECKPOINT_S and done < total:
            trainer.save(run.checkpoint)
            saved_at = time.monotonic()


def _draw_sheet(trainer: Trainer, path: Path) -> None:
    """What the adapter draws by now: a row for each prompt, a column for each seed."""
    job, adapter = trainer.jobs[0], trainer.adapters()[0]
    first = job.subjects[0]
    if first.adapter is not None:
        adapter = over_subject(first.adapter, adapter)
    personal = [subject.prompts.personal for subject in job.subjects]
    prompts = list(dict.fromkeys([first.prompts.target, *(personal[:1] if job.residual else personal)]))
    pictures = [Picture(prompt, seed, adapter) for prompt in prompts for seed in SAMPLE_SEEDS]
    images = to_images(draw(trainer.base, pictures, Sampling(guidance=guidance_scale(trainer.base.name))))
    width = len(SAMPLE_SEEDS)
    rows = [images[start : start + width] for start in range(0, len(images), width)]
    save_png(contact_sheet(rows, prompts, [f"seed {seed}" for seed in SAMPLE_SEEDS]), path)


def _keep_pictures(run: RunFolder, subject: Subject) -> None:
    for number, image in enumerate(to_images(subject.pictures), start=1):
        save_png(image, run.pictures(subject.placeholder) / f"{number:03d}.png")


def _log(log: Any, step: Step) -> None:
    losses = step.losses
    for name in ("loss", "reconstruction", "guidance", "prior"):
        log.add_scalar(f"train/{name}", float(getattr(losses, name).mean()), step.number)
    log.add_scalar("train/grad_norm", float(step.grad_norm.mean()), step.number)
