"""`palp-hyper build-corpus PLAN`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype, Tensorboard

if TYPE_CHECKING:
    from palp.corpus.folder import Part

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
    from dataclasses import replace

    from palp.cli.base import open_base
    from palp.cli.progress import corpus_bar
    from palp.corpus.build import build_part
    from palp.corpus.executors import Request, run_processes, run_ray
    from palp.corpus.folder import CorpusFolder, Part
    from palp.corpus.plan import read_plan
    from palp.errors import InputError

    chosen = read_plan(plan)
    if slots is not None:
        chosen = replace(chosen, slots=slots)
    on_ray = executor == "ray"
    idle = {
        f"--shard {shard}": shard != "0/1" and (on_ray or devices is not None),
        "--devices": on_ray and devices is not None,
        "--device": device is not None and devices is not None,
        "--workers": workers is not None and not on_ray,
        "--gpus": gpus is not None and not on_ray,
    }
    for name in (name for name, given in idle.items() if given):
        raise InputError(
            f"{name} was given with builders that it is not for: leave it out, or see --executor, --devices"
        )
    folder = CorpusFolder(out)
    with corpus_bar(tensorboard) as report:

        def poll() -> None:
            if folder.plan.is_file():
                report("adapters", float(folder.decided()), len(folder.items()))

        def requests(places: Sequence[str | None]) -> list[Request]:
            parts = [Part(index, len(places)) for index in range(len(places))]
            paths = plan.absolute(), out.absolute()
            source = absolute_base(base), None if base_config is None else base_config.absolute()
            rows = zip(parts, places, strict=True)
            return [Request(*paths, part, *source, place, dtype, slots) for part, place in rows]

        if on_ray:
            run_ray(requests([device] * (workers or 2)), poll, gpus or 0.0)
        elif devices is not None:
            run_processes(requests([place.strip() for place in devices.split(",")]), poll)
        else:
            build_part(open_base(base, device, dtype, base_config), chosen, out, _part(shard), report)
    typer.echo(f"{'corpus' if folder.manifest.is_file() else 'this part of the corpus'}: {out}")


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
