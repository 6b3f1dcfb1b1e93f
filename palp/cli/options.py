"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["BaseConfig", "BaseName", "Class", "Device", "Dtype", "Json", "print_json"]

BaseName = Annotated[
    str,
    typer.Option("--base", help="'icons' (embedded), a hub id, a diffusers folder or a .safetensors checkpoint."),
]
BaseConfig = Annotated[
    Path | None,
    typer.Option(help="Folder with a pipeline's configuration, for a single-file --base without network."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; by default the best one there is.")]
Dtype = Annotated[str, typer.Option(help="Of arithmetic: auto, float32, bfloat16 or float16.")]
Class = Annotated[str | None, typer.Option("--class", help="What the base calls such a thing: cat, truck, …")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on standard output.")]


def print_json(result: Mapping[str, Any]) -> None:
    """One line, for programs."""
    typer.echo(json.dumps(result, ensure_ascii=False))
