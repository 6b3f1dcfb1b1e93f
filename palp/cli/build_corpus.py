"""`palp-hyper build-corpus PLAN`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Tensorboard

if TYPE_CHECKING:
    from palp.corpus.executors import Request
    from palp.corpus.folder import CorpusFolder, Part
    from palp.corpus.relays import Report

Plan = Annotated[Path, typer.Argument(help="YAML file of the corpus, such as configs/corpus-icons.yaml.")]
Out = Annotated[Path, typer.Option(help="Folder of the corpus; the same command again goes on with it.")]
Slots = Annotated[int | None, typer.Option(min=1, help="Adapters trained at once; default as in the plan.")]
Shard = Annotated[str, typer.Option(help="I/N: build only this part, such as 0/4 to 3/4 in a Slurm array.")]
Devices = Annotated[str | None, typer.Option(help="cuda:0,cuda:1,…: a process for each, on this machine.")]
Executor = Annotated[Literal["local", "ray"], typer.Option(help="ray: tasks on the running Ray cluster.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Ray tasks at once; 2 if not given.")]
Gpus = Annotated[float | None, typer.Option(min=0, help="GPUs of each Ray task; none if not given.")]


def build_corpus(
    plan: Plan,
    out: Out,
    slots: Slots = None,
    shard: Shard = "0/1",
    devices: Devices = None,
    executor: Executor = "local",
    workers: Workers = None,
    gpus: Gpus = None,
    tensorboard: Tensorboard = None,
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Train the adapters of many prompts, many at once, into shards that a hypernetwork learns from."""
    from palp.cli.base import open_base
    from palp.cli.progress import corpus_bar
    from palp.corpus.build import build_part
    from palp.corpus.executors import Request, run_processes, run_ray
    from palp.corpus.folder import CorpusFolder, Part
    from palp.corpus.plan import read_plan

    chosen = read_plan(plan)
    if slots is not None:
        chosen = replace(chosen, slots=slots)
    on_ray, several = executor == "ray", executor == "ray" or devices is not None
    _refuse_idle(
        {
            f"--shard {shard}": several and shard != "0/1",
            "--devices": on_ray and devices is not None,
            "--device": devices is not None and device is not None,
            "--workers": not on_ray and workers is not None,
            "--gpus": not on_ray and gpus is not None,
        }
    )
    folder = CorpusFolder(out)
    config = None if base_config is None else base_config.absolute()
    whole = Request(plan.absolute(), out.absolute(), Part(), absolute_base(base), config, device, dtype, slots)
    with corpus_bar(tensorboard) as report:
        poll = partial(_poll, folder, report)
        if on_ray:
            run_ray(_requests(whole, [device] * (workers or 2)), poll, gpus or 0.0)
        elif devices is not None:
            run_processes(_requests(whole, [place.strip() for place in devices.split(",")]), poll)
        else:
            build_part(open_base(base, device, dtype, base_config), chosen, out, _part(shard), report)
    typer.echo(f"{'corpus' if folder.manifest.is_file() else 'this part of the corpus'}: {out}")


def _refuse_idle(options: Mapping[str, bool]) -> None:
    """Raise InputError for an option that was given and decides nothing."""
    from palp.errors import InputError

    if idle := [name for name, is_idle in options.items() if is_idle]:
        raise InputError(
            f"{idle[0]} was given with builders that it is not for: leave it out, or see --executor, --devices"
        )


def _requests(whole: Request, places: Sequence[str | None]) -> list[Request]:
    """A part of the whole for each place."""
    from palp.corpus.folder import Part

    return [replace(whole, part=Part(i, len(places)), device=place) for i, place in enumerate(places)]


def _poll(folder: CorpusFolder, report: Report) -> None:
    """Show how far other processes are."""
    if folder.plan.is_file():
        report("adapters", float(folder.decided()), len(folder.items()))


def absolute_base(base: str) -> str:
    """A base that is a path here, as other processes find it wherever they run; a hub's is as it is."""
    return base if base == "icons" or not Path(base).exists() else str(Path(base).absolute())


def _part(shard: str) -> Part:
    from palp.corpus.folder import Part
    from palp.errors import InputError

    index, slash, of = shard.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal()):
        raise InputError(f"--shard was given {shard!r}, and needs I/N, such as 0/4")
    return Part(int(index), int(of))
