"""Timing in turns, peak memory, and the report of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch

from palp.base import Base
from palp.base.device import finish
from palp.evaluate.intervals import Estimate, estimate
from palp.evaluate.results import RESULTS, table, write_results

Milliseconds = Mapping[str, Sequence[float]]
Rows = dict[str, dict[str, Estimate]]


def take_turns(cases: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of every call, after a round that does not count.

    Arguments:
        cases: what to time, by name; a round calls each once, in this order.
        repeats: rounds.
        device: waited for after each call.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-1, repeats):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            finish(device)
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def ratio(times: Milliseconds, ours: str, peer: str, times_peer: float = 1.0) -> Estimate:
    """Ours by `times_peer` times the peer's, round by round: below one is faster than the peer."""
    return estimate([a / (times_peer * b) for a, b in zip(times[ours], times[peer], strict=True)])


def milliseconds(times: Milliseconds) -> Rows:
    """A row a case."""
    return {name: {"ms": estimate(values)} for name, values in times.items()}


def peak_memory(job: Callable[..., torch.device], *arguments: object) -> Estimate:
    """Peak MiB of a job: what it adds to what is allocated on its accelerator, else of a process of its own.

    Arguments:
        job: a function of a module; returns the device that it ran on.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if job(*arguments).type == "cuda":
            return estimate([(torch.cuda.max_memory_allocated() - before) / 2**20])
    context = get_context("spawn")
    answers: Queue[float] = context.Queue()
    process = context.Process(target=_measured, args=(answers, job, arguments))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the process that measures memory ended with {process.exitcode}")
    return estimate([answers.get()])


def _measured(answers: Queue[float], job: Callable[..., torch.device], arguments: tuple[object, ...]) -> None:
    job(*arguments)
    answers.put(process_mib("VmHWM"))


def process_mib(field: str, pid: int | str = "self") -> float:
    """Memory of a process without its children: "VmRSS" now, "VmHWM" at most. Linux only.

    `getrusage` will not do: a process starts with its parent's peak.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def report(name: str, base: Base, rows: Rows, settings: Mapping[str, Any], out: Path | None) -> None:
    """Print the rows as a table, and write them to `out`, by default `docs/results/speed-NAME.json`."""
    path = out or RESULTS / f"speed-{name.replace('_', '-')}.json"
    about = {
        "base": base.fingerprint,
        "device": base.device.type,
        "dtype": base.arithmetic,
        "threads": torch.get_num_threads(),
    }
    write_results(path, rows, f"python -m benchmarks.{name}", about | dict(settings))
    print(table(rows))
    print(f"written to {path}")
