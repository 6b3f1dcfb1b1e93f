"""Installing a new adapter against the number that are resident: in a bank's slots, and in diffusers' pipeline.

Ours is the time in which a combination that is not resident takes the place of the oldest (goal: flat from 1 to 1,000).
The peer is what a pipeline does for a request with an adapter that it holds already: `set_adapters`; above
`--peer-most` resident adapters it is left out, for loading them takes minutes.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import DiffusionPipeline

from benchmarks import setting
from benchmarks.measure import Rows, ratio, report, take_turns
from palp.adapter import Adapter
from palp.base import Base, load_base
from palp.evaluate.intervals import estimate
from serving.engine.slots import Part, Slots

RESIDENT = (1, 10, 100, 1000)
BLOCKS = 5  # of swaps, each with a p99 of its own: the interval is over these


def installing(base: Base, resident: int, adapters: list[Adapter]) -> Callable[[], None]:
    """A swap where all slots are full."""
    slots = Slots(base, setting.RANK, resident)
    fresh = itertools.count()

    def swap() -> None:
        number = next(fresh)
        slots.release(slots.acquire([Part(str(number), adapters[number % len(adapters)], 1.0)]))

    for _ in range(resident):
        swap()
    slots.close()  # nothing is drawn here
    return swap


def switching(source: str, base: Base, resident: int, adapters: list[Adapter]) -> Callable[[], None]:
    """Diffusers' pipeline with resident adapters, and a switch."""
    place = setting.folder_of(source)
    pipeline: Any = DiffusionPipeline.from_pretrained(place, torch_dtype=base.weights_dtype).to(base.device)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's, of a second adapter
        for number, adapter in enumerate(adapters):
            adapter.save(Path(folder) / f"{number}.safetensors")
        for number in range(resident):
            weights = f"{number % len(adapters)}.safetensors"
            pipeline.load_lora_weights(folder, weight_name=weights, adapter_name=f"s{number}")
    fresh = itertools.count()
    return lambda: pipeline.set_adapters(f"s{next(fresh) % resident}")


def blocks_of(
    cases: Mapping[str, Callable[[], None]], swaps: int, device: torch.device
) -> dict[str, list[list[float]]]:
    """Milliseconds of every swap, in blocks in which the cases take turns; a first block does not count."""
    blocks: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(1 + BLOCKS):
        for name, swap in cases.items():
            blocks[name].append(take_turns({name: swap}, swaps, device)[name])
    return {name: taken[1:] for name, taken in blocks.items()}


def rows_of(blocks: Mapping[str, list[list[float]]]) -> Rows:
    """Mean, median and 99th percentile, with intervals over the blocks; ratios of blocks that follow on one another."""
    rows: Rows = {}
    for name, taken in blocks.items():
        p50, p99 = (estimate([float(np.percentile(one, q)) for one in taken]) for q in (50, 99))
        rows[name] = {"ms": estimate([mean(one) for one in taken]), "p50_ms": p50, "p99_ms": p99}
        alone = "1 resident, diffusers" if name.endswith("diffusers") else "1 resident"
        p99s = {case: [float(np.percentile(one, 99)) for one in blocks[case]] for case in (name, alone)}
        rows[name]["p99_by_one_resident"] = ratio(p99s, name, alone)
        if (peer := f"{name}, diffusers") in blocks:
            means = {case: [mean(one) for one in blocks[case]] for case in (name, peer)}
            rows[name]["by_diffusers"] = ratio(means, name, peer)
    return rows


def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: Annotated[int, typer.Option(min=1, help=f"Swaps in each of the {BLOCKS} blocks.")] = 100,
    peer_most: Annotated[int, typer.Option(min=0, help="Most resident adapters of the peer.")] = 10,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Time swaps with more and more resident adapters."""
    base = load_base(source, device, dtype)
    resident, repeats = ((1, 4), 2) if quick else (RESIDENT, repeats)
    adapters = [setting.random_adapter(base, seed) for seed in range(4)]
    cases: dict[str, Callable[[], None]] = {}
    for count in resident:
        cases[f"{count} resident"] = installing(base, count, adapters)
        if count <= peer_most:
            cases[f"{count} resident, diffusers"] = switching(source, base, count, adapters)
    rows = rows_of(blocks_of(cases, repeats, base.device))
    report("swap", base, rows, {"rank": setting.RANK, "swaps": BLOCKS * repeats}, out)


if __name__ == "__main__":
    setting.run(main)
