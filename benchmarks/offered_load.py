"""Latency against offered load: requests at random moments, from a quarter of what the engine can draw to twice that.

Capacity is what waiting callers get from the engine with full batches, in the same run. Past it the line is full, and
who comes is turned away (429 over HTTP): what is drawn should stay at capacity. Pictures of many subjects, against the
same engine on the bare base at the same rates.
"""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks import setting
from benchmarks.measure import Rows, report
from palp.base import load_base
from palp.evaluate.intervals import estimate
from serving.bench import Sides, Traffic, closed_loop, compare, open_loop

LOADS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0)


def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 3,
    adapters: setting.Subjects = 100,
    batch: setting.PicturesAtOnce = 8,
    waiting: Annotated[int, typer.Option(min=1, help="Pictures that may wait.")] = 32,
    steps: setting.Steps = 20,
    pictures: Annotated[int, typer.Option(min=1, help="Asked for at each load, in each round.")] = 200,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Measure capacity, then every load."""
    base = load_base(source, device, dtype)
    loads, repeats, adapters, steps, pictures = (
        ((0.5, 2.0), 2, 2, 2, 8) if quick else (LOADS, repeats, adapters, steps, pictures)
    )
    sides = Sides(base, None, adapters, batch, waiting)
    subjects = Traffic("zipf").subjects(pictures, adapters)
    asked = {"adapters": sides.requests(subjects, steps), "bare": sides.requests([None] * pictures, steps)}
    try:
        full = min(2 * batch, waiting)
        capacity = [closed_loop(sides.engine, asked["adapters"], full)["pictures_per_s"] for _ in range(1 + repeats)]
        rate = sum(capacity[1:]) / repeats
        rows: Rows = {"capacity": {"pictures_per_s": estimate(capacity[1:])}}
        for load in loads:
            rounds = [
                {side: open_loop(sides.engine, requests, load * rate) for side, requests in asked.items()}
                for _ in range(repeats)
            ]
            for side, figures in compare(rounds).items():
                rows[f"{load:g} of capacity: {side}"] = figures
            goodput = [one["adapters"]["pictures_per_s"] / rate for one in rounds]
            rows[f"{load:g} of capacity: adapters"]["of_capacity"] = estimate(goodput)
    finally:
        sides.close()
    about = {"adapters": adapters, "batch": batch, "waiting": waiting, "steps": steps, "rounds": repeats}
    report("offered_load", base, rows, about | {"popularity": "zipf", "pictures": pictures}, out)


if __name__ == "__main__":
    setting.run(main)
