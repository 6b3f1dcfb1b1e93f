"""Mixed traffic: many subjects in shared batches, against the bare base and against a pipeline that switches adapters.

Callers each ask for their next picture on getting the last. The same engine draws the same number of pictures without
adapters (goal: at least 0.9 of its pictures a second), and diffusers' pipeline draws one after the other, with a switch
before each (goal: at least three times as many). Quantiles are of the time from asking to the picture.
"""

from __future__ import annotations

from benchmarks import setting
from benchmarks.measure import Rows, report
from palp.base import load_base
from serving.bench import POPULARITIES, Sides, Traffic, compare

CONCURRENCY = (1, 4, 16, 64)


def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 3,
    adapters: setting.Subjects = 100,
    batch: setting.PicturesAtOnce = 8,
    steps: setting.Steps = 20,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Time every popularity at every number of callers."""
    base = load_base(source, device, dtype)
    callers, repeats, adapters, steps = ((2,), 2, 2, 2) if quick else (CONCURRENCY, repeats, adapters, steps)
    sides = Sides(base, source, adapters, batch, waiting=max(callers))
    rows: Rows = {}
    try:
        for popularity in POPULARITIES:
            for concurrency in callers:
                traffic, pictures = Traffic(popularity, concurrency), max(2 * concurrency, 2 * batch)
                rounds = [sides.turn(traffic, pictures, min(pictures, 8), steps) for _ in range(1 + repeats)]
                for side, figures in compare(rounds[1:]).items():
                    rows[f"{popularity}, {concurrency} at once: {side}"] = figures
    finally:
        sides.close()
    about = {"adapters": adapters, "batch": batch, "steps": steps, "rounds": repeats}
    report("mixed_traffic", base, rows, about, out)


if __name__ == "__main__":
    setting.run(main)
