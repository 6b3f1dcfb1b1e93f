"""`palp-hyper inspect FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import Json, print_json


def inspect(
    file: Annotated[Path, typer.Argument(help="An adapter file, or a run folder that holds one.")],
    as_json: Json = False,
) -> None:
    """Show what is in an adapter file: base, rank, class word, prompt, learned words, sites and their norms."""
    from palp.describe import describe, table

    path = file / "adapter.safetensors" if file.is_dir() else file
    description = describe(path)
    if as_json:
        print_json(description)
    else:
        typer.echo(table(description))
