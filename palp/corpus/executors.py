"""Several builders of one corpus: a process a device on this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from palp.base import load_base
from palp.corpus.build import build_part
from palp.corpus.folder import Part
from palp.corpus.plan import read_plan
from palp.errors import CorpusError, InputError, PalpError

__all__ = ["Request", "build", "run_processes", "run_ray"]

POLL_S = 1.0
RETRIES = 8  # of a task whose worker was lost; each goes on where the last one was


@dataclass(frozen=True)
class Request:
    """What a builder in another process is to do; every path must mean the same to it."""

    plan: Path
    out: Path
    part: Part
    base: str
    base_config: Path | None
    device: str | None
    dtype: str
    slots: int | None


def build(request: Request) -> None:
    """Build a part, here and now; raises as `load_base`, `read_plan` and `build_part`."""
    plan = read_plan(request.plan)
    if request.slots is not None:
        plan = replace(plan, slots=request.slots)
    base = load_base(request.base, request.device, request.dtype, request.base_config)
    build_part(base, plan, request.out, request.part, lambda what, done, total: None)


def _build_and_tell(request: Request, told: SimpleQueue[PalpError]) -> None:
    """Build a part in a process of its own, which tells what was refused in place of a traceback."""
    try:
        build(request)
    except PalpError as error:
        told.put(error)
        sys.exit(1)


def run_processes(requests: Sequence[Request], poll: Callable[[], None]) -> None:
    """A process for each request; `poll` is called every second until all have ended.

    Raises:
        CorpusError: one did not end well; the others have gone on to their ends.
        PalpError: what a builder itself refused, as `build`.
    """
    context = multiprocessing.get_context("spawn")
    told: SimpleQueue[PalpError] = context.SimpleQueue()
    processes = [context.Process(target=_build_and_tell, args=(request, told)) for request in requests]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            time.sleep(POLL_S)
            poll()
    finally:
        for process in processes:
            process.terminate()  # those that still run when this one is interrupted
    if not told.empty():
        raise told.get()
    if failed := [process.exitcode for process in processes if process.exitcode != 0]:
        raise CorpusError(
            f"{len(failed)} of {len(processes)} builders ended with code {failed[0]}, as said above: "
            "run the same command again, and it goes on"
        )


def run_ray(requests: Sequence[Request], poll: Callable[[], None], gpus: float) -> None:
    """A Ray task for each request, on the running cluster, whose machines share the folder of the corpus.

    Args:
        gpus: of each task; 0 on clusters without.

    Raises:
        InputError: Ray is not installed, or no cluster runs. CorpusError: a task failed for good.
        PalpError: what a builder itself refused, as `build`.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("--executor ray needs Ray: pip install 'palp-hyper[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto")
        except ConnectionError as error:
            raise InputError("no Ray cluster was found: start one with `ray start --head`") from error
    task = ray.remote(max_retries=RETRIES, num_gpus=gpus)(build)
    waiting = [task.remote(request) for request in requests]
    try:
        while waiting:
            done, waiting = ray.wait(waiting, timeout=POLL_S)
            ray.get(done)
            poll()
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), PalpError):
            raise cause from error
        raise CorpusError(f"a Ray task failed ({error}): run the same command again, and it goes on") from error
