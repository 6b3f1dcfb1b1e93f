"""The server for many minutes at one and a half times what it can draw, with callers who behave badly.

    python -m benchmarks.soak --minutes 20

A server process of its own is asked for pictures at random moments. Some callers hang up while they wait or while a
preview streams, some send bodies that are none, some upload subjects and delete them. In the end: no answer 500 or
above, every request that nobody hung up on was answered once and in full, nothing is left in the engine, and the memory
of the server in the last quarter is that of the second. Goodput is compared with what waiting callers got, in the same
run.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks import setting
from benchmarks.callers import Answer, Callers
from benchmarks.measure import Rows, process_mib, report
from palp.base import load_base
from palp.evaluate.intervals import estimate

OVERLOAD = 1.5
CALLERS = 256  # threads: nobody waits for another
CALIBRATION_S = 60.0
EMPTY_WITHIN_S = 300.0
GROWTH = 1.05  # of memory from the second quarter to the last
SERVE = "from serving.cli import app; app()"


@contextmanager
def served(source: str, options: list[str], folder: Path) -> Iterator[tuple[str, int]]:
    """A server's address and process number; its log is in the folder."""
    command = [
        sys.executable,
        "-c",
        SERVE,
        "up",
        "--port",
        "0",
        "--base",
        source,
        "--subjects",
        str(folder / "subjects"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("serving on "):
            raise RuntimeError(f"the server did not start: {(folder / 'log').read_text()[-2000:]}")
        yield line.split()[-1], process.pid
    finally:
        process.terminate()
        process.wait()


def capacity(callers: Callers, at_once: int, seconds: float) -> list[float]:
    """Pictures a second that so many waiting callers get, in quarters of the time."""
    ends: list[float] = []
    start = time.monotonic()

    def wait_and_ask() -> None:
        while time.monotonic() - start < seconds:
            if callers.picture().status == 200:
                ends.append(time.monotonic() - start)

    threads = [threading.Thread(target=wait_and_ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = max(ends)
    return [sum(last * k / 4 < end <= last * (k + 1) / 4 for end in ends) * 4 / last for k in range(4)]


def soak(callers: Callers, per_s: float, seconds: float, pid: int) -> tuple[list[Answer], list[float]]:
    """Random requests at random moments; the answers, and the server's MiB over the time."""
    rng, memory = random.Random(0), [process_mib("VmRSS", pid)]
    start = due = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as pool:
        jobs = []
        while due - start < seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            jobs.append(pool.submit(callers.draw_lots(rng)))
            due += rng.expovariate(per_s)
            memory.append(process_mib("VmRSS", pid))
        return [job.result() for job in jobs], memory


def rows_of(answers: list[Answer], memory: list[float], seconds: float, rate: float) -> Rows:
    """Counts by kind of request and answer, pictures, memory by quarters."""
    counts = Counter(f"{answer.kind}: {answer.outcome}" for answer in answers)
    rows: Rows = {name: {"requests": estimate([float(count)])} for name, count in sorted(counts.items())}
    times = [answer.seconds for answer in answers if answer.kind.startswith("picture") and answer.status == 200]
    done = estimate([len(times) / seconds])
    rows["pictures"] = {
        "seconds": estimate(times or [0.0]),
        "per_s": done,
        "by_capacity": estimate([done.value / rate]),
    }
    quarter = max(1, len(memory) // 4)
    second, last = memory[quarter : 2 * quarter] or memory, memory[-quarter:]
    rows["memory"] = {"second_quarter_mib": estimate(second), "last_quarter_mib": estimate(last)}
    rows["memory"]["growth"] = estimate(
        [rows["memory"]["last_quarter_mib"].value / rows["memory"]["second_quarter_mib"].value]
    )
    return rows


def complaints(answers: list[Answer], rows: Rows, empty: bool) -> list[str]:
    """What should not have been, a sentence each."""
    found = [f"{answer.kind} was answered {answer.outcome}" for answer in answers if not answer.well]
    if not empty:
        found.append(f"the engine was not empty {EMPTY_WITHIN_S:g} s after the last request")
    if (growth := rows["memory"]["growth"].value) > GROWTH:
        found.append(f"memory grew by {growth:.3f} from the second quarter to the last")
    return found


def is_empty(address: str, within_s: float) -> bool:
    """Whether nothing waits or is drawn any more, in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
        if {"palp_engine_queue 0.0", "palp_engine_active 0.0"} <= set(lines):
            return True
        time.sleep(0.5)
    return False


def main(
    source: setting.BaseOption = "icons",
    minutes: Annotated[float, typer.Option(min=0.01, help="Of overload.")] = 20.0,
    steps: setting.Steps = 20,
    batch: setting.PicturesAtOnce = 8,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Soak the server, report, and end with 1 if something was not as it should be."""
    seconds, calibration, steps = (10.0, 5.0, 2) if quick else (60 * minutes, CALIBRATION_S, steps)
    options = ["--batch", str(batch), "--max-queue", str(4 * batch), "--max-active", str(CALLERS)]
    with tempfile.TemporaryDirectory() as name, served(source, options, Path(name)) as (address, pid):
        callers = Callers(address, steps)
        quarters = capacity(callers, 2 * batch, calibration)
        rate = sum(quarters) / len(quarters)
        answers, memory = soak(callers, OVERLOAD * rate, seconds, pid)
        empty = is_empty(address, EMPTY_WITHIN_S)
    rows: Rows = {"capacity": {"per_s": estimate(quarters)}, **rows_of(answers, memory, seconds, rate)}
    about = {"minutes": seconds / 60, "steps": steps, "batch": batch, "overload": OVERLOAD}
    report("soak", load_base(source), rows, about, out)
    found = complaints(answers, rows, empty)
    for sentence in found[:20]:
        print(sentence)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    setting.run(main)
