"""What the benchmarks share: the base, a subject to learn, options of the command line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import torch
import typer

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.base.load import ICONS_WEIGHTS
from palp.recipes import recipe
from palp.subjects import Subject
from palp.train import TrainSettings

PROMPT = "a pencil sketch of a cat on a beach"
TARGET = "a pencil sketch of [V] on a beach"
CLASS_WORD = "cat"
RANK = 8
BATCH = 4  # pictures a step

BaseOption = Annotated[str, typer.Option("--base", help="icons, a hub id, a diffusers folder or a .safetensors file.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default CUDA where there is one.")]
Dtype = Annotated[str, typer.Option(help="Of arithmetic: auto, float32 or bfloat16.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds in which every case takes its turn.")]
Subjects = Annotated[int, typer.Option("--adapters", min=1, help="Subjects.")]
PicturesAtOnce = Annotated[int, typer.Option("--batch", min=1, help="Pictures in a call of the denoiser.")]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps of a picture.")]
Quick = Annotated[bool, typer.Option("--quick", help="Two rounds of the smallest cases: does it run at all?")]
Out = Annotated[Path | None, typer.Option(help="The results file; by default in docs/results.")]


def run(main: Callable[..., None]) -> None:
    """Call a benchmark with the options of the command line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()


def subject(base: Base, seed: int = 0) -> Subject:
    """Four random pictures: what they show does not change how long it takes to learn them."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(BATCH, 3, base.resolution, base.resolution, generator=generator) * 2 - 1
    return Subject(CLASS_WORD, pictures)


def adapter_spec(base: Base, rank: int = RANK) -> AdapterSpec:
    """Of an adapter at the sites of the base's recipe."""
    return AdapterSpec(base.fingerprint, base.sites(recipe(base.name, "subject").sites), rank, float(rank))


def train_settings(base: Base, steps: int) -> TrainSettings:
    """Of a plain training at the sites of the base's recipe."""
    return TrainSettings(steps=steps, batch=BATCH, rank=RANK, sites=recipe(base.name, "joint").sites)


def random_adapter(base: Base, seed: int = 0, rank: int = RANK) -> Adapter:
    """An adapter that changes a little at every site of the base's recipe."""
    generator = torch.Generator().manual_seed(seed)
    spec = adapter_spec(base, rank)
    down = {site.name: 0.05 * torch.randn(rank, site.in_features, generator=generator) for site in spec.sites}
    up = {site.name: 0.05 * torch.randn(site.out_features, rank, generator=generator) for site in spec.sites}
    return Adapter(spec, down, up)


def folder_of(source: str) -> str:
    """Where diffusers finds a base: the embedded one is a folder in the package."""
    return str(ICONS_WEIGHTS) if source == "icons" else source


def arithmetic(base: Base) -> AbstractContextManager[object]:
    """Autocast for a peer, as the base has it."""
    if base.weights_dtype == base.dtype:
        return nullcontext()
    return torch.autocast(base.device.type, base.dtype)
