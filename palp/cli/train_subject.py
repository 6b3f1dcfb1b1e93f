"""`palp-hyper train-subject`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import (
    BaseConfig,
    BaseName,
    Batch,
    Device,
    Dtype,
    Flip,
    Json,
    Lr,
    Optimizer,
    Out,
    Rank,
    SamplesEvery,
    Seed,
    Set,
    Steps,
    Tensorboard,
    given,
    parse_settings,
)


def train_subject(
    images: Annotated[list[Path], typer.Argument(help="Pictures of the subject, or folders of them.")],
    class_word: Annotated[str, typer.Option("--class", help="What the base calls such a thing: cat, truck, …")],
    out: Out,
    placeholder: Annotated[str, typer.Option(help="The word to learn: V, V1, …")] = "V",
    steps: Steps = None,
    rank: Rank = None,
    lr: Lr = None,
    batch: Batch = None,
    optimizer: Optimizer = None,
    settings: Set = None,
    flip: Flip = False,
    seed: Seed = 0,
    samples_every: SamplesEvery = 100,
    tensorboard: Tensorboard = None,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Learn a subject from a few pictures: a small adapter and a new word, [V]."""
    from palp.cli.base import open_base
    from palp.cli.training import run_job
    from palp.recipes import recipe
    from palp.subjects import Subject, find_pictures, read_pictures
    from palp.train import joint_job

    files = find_pictures(images)
    changes = given(steps=steps, rank=rank, lr=lr, batch=batch, optimizer=optimizer)
    model = open_base(base, device, dtype, base_config)
    chosen = recipe(model.name, "subject", parse_settings(settings) | changes)
    subject = Subject(class_word, read_pictures(files, model.resolution), f"[{placeholder.strip('[]')}]")
    job = joint_job(model, [subject], seed=seed, name=class_word, flip=flip)
    run_job(model, job, chosen, out, [subject], samples_every, tensorboard, as_json)
