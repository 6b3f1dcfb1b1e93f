"""`palp-hyper personalize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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

Subjects = Annotated[
    list[Path],
    typer.Option("--subject", help="Run folder, adapter in one, or pictures. Several: [V1], [V2], … in one picture."),
]
Prompt = Annotated[str, typer.Option(help="What to draw, such as 'a pencil sketch of [V] on a beach'.")]
ClassWords = Annotated[
    list[str] | None, typer.Option("--class", help="For pictures: what the base calls it; one a subject.")
]
Artwork = Annotated[Path | None, typer.Option(help="Picture of a work of art, whose manner is taken over.")]
Technique = Annotated[str, typer.Option(help="Of the artwork.")]
Mode = Annotated[
    Literal["joint", "residual"],
    typer.Option(help="joint: one adapter for both. residual: a prompt adapter over frozen subject adapters."),
]
Rule = Annotated[str | None, typer.Option(help="palp, sds, nfsd, none, …; by default palp, and regional if residual.")]
Alpha = Annotated[float | None, typer.Option(help="Guidance scale of the frozen base at the prompt.")]
Beta = Annotated[float | None, typer.Option(help="Guidance scale of the adapter in training.")]
GuidanceWeight = Annotated[float | None, typer.Option(help="λ, of the guidance beside the pictures.")]


def personalize(
    subject: Subjects,
    prompt: Prompt,
    out: Out,
    class_word: ClassWords = None,
    artwork: Artwork = None,
    technique: Technique = "oil painting",
    mode: Mode = "joint",
    rule: Rule = None,
    alpha: Alpha = None,
    beta: Beta = None,
    guidance_weight: GuidanceWeight = None,
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
    """Learn an adapter for one prompt, which keeps the subject and every element of the prompt (PALP)."""
    from palp.cli.base import open_base
    from palp.cli.progress import training_bar
    from palp.cli.training import run_job
    from palp.learn import Watch
    from palp.personalize import Request, joint, residual
    from palp.recipes import recipe

    request = Request(prompt, subject, class_word or [], artwork, technique, rule, seed, flip)
    request.check(residual=mode == "residual")
    changes = given(
        alpha=alpha, beta=beta, guidance_weight=guidance_weight,
        steps=steps, rank=rank, lr=lr, batch=batch, optimizer=optimizer,
    )  # fmt: skip
    model = open_base(base, device, dtype, base_config)
    values = request.defaults(residual=mode == "residual") | parse_settings(settings) | changes
    chosen = recipe(model.name, mode, values)
    if mode == "joint":
        subjects, job = joint(model, request)
    else:
        with training_bar("learning the subject") as report:
            subjects, job = residual(model, request, Watch(report))
    run_job(model, job, chosen, out, subjects, samples_every, tensorboard, as_json)
