"""How quickly the engine draws with many adapters: against itself on the bare base, and against diffusers.

Every round draws the same pictures in turn: with K distinct subjects in shared batches, with none and batches of the
same size, and one after the other in diffusers' pipeline, which holds the K adapters and switches between them.
"""

from __future__ import annotations

import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.base.load import ICONS_WEIGHTS
from palp.errors import InputError
from palp.provenance import provenance
from palp.recipes import guidance_scale, recipe
from serving.contract import Cancelled, Done, Event, Failed, PictureRequest, Queued
from serving.engine import BatchEngine, EngineSettings, Predictions
from serving.subjects.library import Library

__all__ = ["BenchPlan", "run_bench"]

CLASS_WORD = "cat"
PROMPT = "a pencil sketch of {} on a beach"
SIZE = 0.05  # of random factors: a little everywhere


@dataclass(frozen=True)
class BenchPlan:
    """What is drawn.

    Args:
        adapters: distinct subjects, K.
        pictures: a round; for diffusers, `peer_pictures`.
        batch: pictures in a call of the denoiser.
        steps: denoising steps of a picture.
        rounds: each measured side has so many turns; the median counts.
        peer_pictures: drawn by diffusers in a round; 0 leaves it out.

    Raises:
        InputError: a number below one.
    """

    adapters: int = 8
    pictures: int = 32
    batch: int = 8
    steps: int = 20
    rounds: int = 3
    peer_pictures: int = 8

    def __post_init__(self) -> None:
        for name in ("adapters", "pictures", "batch", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, and must be at least 1")


def run_bench(base: Base, source: str, plan: BenchPlan, predictions: Predictions | None = None) -> dict[str, Any]:
    """Measure, and return the figures as JSON values.

    Args:
        source: where diffusers finds the base: as for `load_base`, a folder or a hub id.
        predictions: where given, every picture also has a predicted adapter.
    """
    adapters = [_random_adapter(base, seed) for seed in range(plan.adapters)]
    settings = EngineSettings(max_batch=plan.batch, max_waiting=plan.pictures, slots=max(plan.adapters, plan.batch))
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder) / "library")
        for number, adapter in enumerate(adapters):
            library.adopt("", f"s{number}", CLASS_WORD, adapter)
        engine = BatchEngine(base, library, predictions, settings)
        sides: dict[str, Callable[[], dict[str, float]]] = {
            "adapters": lambda: _drawn(engine, plan, plan.adapters),
            "bare": lambda: _drawn(engine, plan, 0),
        }
        if plan.peer_pictures:
            pipeline = _pipeline(base, source, adapters, Path(folder))
            sides["diffusers"] = lambda: _switched(base, pipeline, plan)
        try:
            turns = [{name: run() for name, run in sides.items()} for _ in range(1 + plan.rounds)]
        finally:
            engine.close()
    return _report(base, plan, turns[1:], predictions)  # the first is to warm up


def _report(
    base: Base, plan: BenchPlan, rounds: list[dict[str, dict[str, float]]], predictions: Predictions | None
) -> dict[str, Any]:
    sides: dict[str, Any] = {
        side: {figure: median(one[side][figure] for one in rounds) for figure in rounds[0][side]} for side in rounds[0]
    }
    for other in sides.keys() - {"adapters"}:
        ratios = [one["adapters"]["pictures_per_s"] / one[other]["pictures_per_s"] for one in rounds]
        sides["adapters"][f"against_{other}"] = median(ratios)
    return {
        "base": base.fingerprint,
        "device": torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "arithmetic": str(base.dtype).removeprefix("torch."),
        "prediction": None if predictions is None else predictions.network.runner,
        "plan": asdict(plan),
        "sides": sides,
        "made_with": provenance(),
    }


def _random_adapter(base: Base, seed: int) -> Adapter:
    """Of the rank of a subject that the base's recipe learns."""
    rng = torch.Generator().manual_seed(seed)
    rank = recipe(base.name, "subject").rank
    spec = AdapterSpec(base.fingerprint, base.sites(), rank, float(rank))
    down = {site.name: SIZE * torch.randn(rank, site.in_features, generator=rng) for site in spec.sites}
    up = {site.name: SIZE * torch.randn(site.out_features, rank, generator=rng) for site in spec.sites}
    word = {name: vector[None] for name, vector in base.word_embedding(CLASS_WORD).items()}
    return Adapter(spec, down, up, {"[V]": word}, {"class_word": CLASS_WORD})


def _drawn(engine: BatchEngine, plan: BenchPlan, adapters: int) -> dict[str, float]:
    """A round of the engine: all pictures asked for at once."""
    counter = _Counter(plan.pictures)
    for seed in range(plan.pictures):
        subject = f"s{seed % adapters}" if adapters else None
        prompt = PROMPT.format("[V]" if adapters else CLASS_WORD)
        engine.submit(PictureRequest(prompt, subject=subject, seed=seed, steps=plan.steps), counter)
    start = time.monotonic()
    counter.start.set()
    counter.done.wait()
    seconds = time.monotonic() - start
    if counter.errors:
        raise counter.errors[0]
    return {"pictures_per_s": plan.pictures / seconds, "batch_size": mean(counter.batch_sizes)}


class _Counter:
    """A listener of many pictures. It holds the engine until all are in the line, so that batches are the same."""

    def __init__(self, pictures: int) -> None:
        self._left = pictures
        self.batch_sizes: list[float] = []
        self.errors: list[Exception] = []
        self.start, self.done = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Queued):
            self.start.wait()
        elif isinstance(event, Done):
            self.batch_sizes.append(event.details.batch_size)
        elif isinstance(event, Failed):
            self.errors.append(event.error)
        if isinstance(event, Done | Failed | Cancelled):
            self._left -= 1
            if self._left == 0:
                self.done.set()


def _pipeline(base: Base, source: str, adapters: list[Adapter], folder: Path) -> Any:
    """Diffusers' pipeline in the base's type and place, with every adapter loaded under its name."""
    from diffusers import DiffusionPipeline

    place = str(ICONS_WEIGHTS) if source == "icons" else source
    pipeline: Any = DiffusionPipeline.from_pretrained(place, dtype=base.unet.dtype).to(base.device)
    pipeline.set_progress_bar_config(disable=True)
    for number, adapter in enumerate(adapters):
        file = folder / f"s{number}.safetensors"
        adapter.save(file)
        with warnings.catch_warnings():  # PEFT's, of a second adapter: that is what is measured
            warnings.simplefilter("ignore", UserWarning)
            pipeline.load_lora_weights(str(folder), weight_name=file.name, adapter_name=f"s{number}")
    return pipeline


def _switched(base: Base, pipeline: Any, plan: BenchPlan) -> dict[str, float]:
    """A round of diffusers: a switch, then a picture."""
    arithmetic: AbstractContextManager[object] = nullcontext()
    if base.unet.dtype != base.dtype:
        arithmetic = torch.autocast(base.device.type, base.dtype)
    start = time.monotonic()
    with torch.no_grad(), arithmetic:
        for seed in range(plan.peer_pictures):
            pipeline.set_adapters(f"s{seed % plan.adapters}")
            pipeline(
                PROMPT.format(CLASS_WORD),
                num_inference_steps=plan.steps,
                guidance_scale=guidance_scale(base.name),
                generator=torch.Generator().manual_seed(seed),
                output_type="pil",
            )
    return {"pictures_per_s": plan.peer_pictures / (time.monotonic() - start), "batch_size": 1.0}
