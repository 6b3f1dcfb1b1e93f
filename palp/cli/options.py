"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from palp.errors import InputError
from palp.settings import MOST_SEED

__all__ = [
    "BaseConfig",
    "BaseName",
    "Batch",
    "Device",
    "Dtype",
    "Flip",
    "Json",
    "Lr",
    "Optimizer",
    "Out",
    "Rank",
    "SamplesEvery",
    "Seed",
    "Set",
    "Steps",
    "Tensorboard",
    "given",
    "parse_settings",
    "print_json",
]

BaseName = Annotated[
    str,
    typer.Option("--base", help="'icons' (embedded), a hub id, a diffusers folder or a .safetensors checkpoint."),
]
BaseConfig = Annotated[
    Path | None,
    typer.Option(help="Folder with a pipeline's configuration, for a single-file --base without network."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; by default the best one there is.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of arithmetic; auto is the fastest.")
]
Out = Annotated[Path, typer.Option(help="Folder of the run; the same command again resumes it.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Of the LoRA pairs.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Pictures a step.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate of the LoRA pairs.")]
Optimizer = Annotated[Literal["adamw", "prodigy"] | None, typer.Option(help="Update rule.")]
Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the first weights, pictures, timesteps and noise.")]
Flip = Annotated[bool, typer.Option("--flip", help="Learn the mirror images of the pictures too.")]
SamplesEvery = Annotated[int, typer.Option(min=0, help="Steps between sheets of pictures in samples/; 0 for none.")]
Tensorboard = Annotated[Path | None, typer.Option(help="Write logs for tensorboard into this folder.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting as NAME=VALUE, such as --set min_snr=5; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on standard output.")]


def print_json(result: Mapping[str, Any]) -> None:
    """One line, for programs."""
    typer.echo(json.dumps(result, ensure_ascii=False))


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave, by name."""
    return {name: value for name, value in options.items() if value is not None}


def parse_settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs as a mapping; values are read as YAML: 5, 1e-4, true, cosine, null."""
    import yaml

    values: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--set was given {pair!r}, and needs NAME=VALUE, such as --set min_snr=5")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {name} has a value that cannot be read: {text!r}") from error
    return values
