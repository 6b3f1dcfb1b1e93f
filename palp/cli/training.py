"""What the training commands share: the bar, the last line, and the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from palp.base import Base
from palp.cli.options import print_json
from palp.cli.progress import training_bar
from palp.learn import Watch, learn
from palp.runs import RunFolder
from palp.subjects import Subject
from palp.train import Job, TrainSettings

__all__ = ["run_job"]


def run_job(
    base: Base,
    job: Job,
    settings: TrainSettings,
    out: Path,
    subjects: Sequence[Subject],
    samples_every: int,
    tensorboard: Path | None,
    as_json: bool,
) -> None:
    """Train under a bar, and say where the adapter is."""
    before = RunFolder(out).finished
    with training_bar(f"learning {job.name}") as report:
        run = learn(base, job, settings, out, subjects, Watch(report, samples_every, tensorboard))
    if as_json:
        print_json(
            {
                "adapter": str(run.adapter),
                "settings": str(run.settings),
                "base": base.fingerprint,
                "steps": settings.steps,
                "trained": not before,
            }
        )
    else:
        typer.echo(f"{'already learned' if before else 'adapter'}: {run.adapter}")
