"""`palp-serve bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, print_json

__all__ = ["bench"]


def bench(
    adapters: Annotated[int, typer.Option(min=1, help="Distinct subjects.")] = 8,
    pictures: Annotated[int, typer.Option(min=1, help="Drawn by the engine in a round.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in a call of the denoiser.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of a picture.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side; the median counts.")] = 3,
    peer_pictures: Annotated[
        int, typer.Option(min=0, help="Drawn by diffusers in a round, one by one; 0 leaves it out.")
    ] = 8,
    popularity: Annotated[
        Literal["distinct", "zipf", "identical"], typer.Option(help="Of the subjects: in turn, by Zipf's law, or one.")
    ] = "distinct",
    concurrency: Annotated[int, typer.Option(min=1, help="Callers, each with one picture under way.")] = 8,
    hypernet: Annotated[
        Path | None, typer.Option(help="Run folder or file of a hypernetwork, for predicted adapters too.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Pictures per second with many adapters, on the bare base, and in diffusers, as one line of JSON."""
    from palp.atomic import write_json
    from palp.cli.base import open_base
    from serving.bench import BenchPlan, Traffic, run_bench
    from serving.engine import Predictions

    plan = BenchPlan(adapters, pictures, batch, steps, rounds, peer_pictures)
    model = open_base(base, device, dtype, base_config)
    predictions = None if hypernet is None else Predictions.open(model, hypernet)
    result = run_bench(model, base, plan, Traffic(popularity, concurrency), predictions)
    if out is not None:
        write_json(out, result)
    print_json(result)
