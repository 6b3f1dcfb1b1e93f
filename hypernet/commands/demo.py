"""`palp-hyper demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Steps


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the adapters and the sheet.")] = Path("runs/demo"),
    steps: Steps = None,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Learn an example subject, draw it in two prompts in every way, and compare; minutes on two cores."""
    from hypernet.demo import Demo, run_demo
    from palp.cli.base import open_base
    from palp.cli.progress import training_bar

    model = open_base(base, device, dtype, base_config)
    typer.echo(run_demo(model, out, Demo(steps=steps), training_bar))
