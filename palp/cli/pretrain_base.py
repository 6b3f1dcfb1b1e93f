"""`palp-hyper pretrain-base`: make the embedded base from nothing but an emoji font."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder for pictures, caches, training states and sample sheets (3 GB).")]
Weights = Annotated[Path, typer.Option(help="Folder for the finished pipeline and judges.")]
Pictures = Annotated[int, typer.Option(min=1, help="Pictures that the denoiser sees; raise it to train on.")]
Decoder = Annotated[int, typer.Option(min=1, help="Pictures that the decoder sees.")]
Judges = Annotated[int, typer.Option(min=1, help="Pictures that each judge sees.")]
JudgeChunks = Annotated[int, typer.Option(min=1, help="Thousands of pictures rendered for the judges.")]
JudgeBatch = Annotated[int, typer.Option(min=2, help="Pictures that a judge sees in a step.")]
Only = Annotated[str | None, typer.Option(help="Judges to train beside the base in --weights: attributes,clip.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that render.")]
Chunks = Annotated[int, typer.Option(min=3, help="Thousands of pictures rendered for the base.")]
FirstChunk = Annotated[
    int, typer.Option(min=0, max=30_000, help="Thousands of pictures to pass over: those of earlier trainings.")
]
Start = Annotated[Path | None, typer.Option(help="Train on from a finished pipeline and judges, such as the shipped.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default CUDA where there is one.")]


def pretrain_base(
    out: Out = Path("runs/icons"),
    weights: Weights = Path("palp/base/icons/weights"),
    pictures: Pictures = 400_000,
    decoder_pictures: Decoder = 40_000,
    judge_pictures: Judges = 60_000,
    judge_chunks: JudgeChunks = 24,
    judge_batch: JudgeBatch = 64,
    only: Only = None,
    workers: Workers = 2,
    chunks: Chunks = 40,
    first_chunk: FirstChunk = 0,
    start: Start = None,
    device: Device = None,
) -> None:
    """Train the embedded base and its judges. Stopped at any moment, the same command goes on."""
    from dataclasses import replace

    from palp.base.device import find_device
    from palp.base.icons.pretrain import PretrainSettings, pretrain, pretrain_judges

    plan = PretrainSettings()
    plan = replace(
        plan,
        chunks=chunks,
        first_chunk=first_chunk,
        denoiser=replace(plan.denoiser, pictures=pictures),
        decoder=replace(plan.decoder, pictures=decoder_pictures),
        judges=replace(plan.judges, pictures=judge_pictures, batch=judge_batch),
        judge_chunks=judge_chunks,
        workers=workers,
    )
    if only is None:
        pretrain(out, weights, plan, find_device(device), start)
    else:
        pretrain_judges(out, weights, plan, find_device(device), start, only.split(","))
    typer.echo(f"written to {weights}")
