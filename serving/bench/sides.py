"""What is measured: the engine with K subjects, the same engine on the bare base, and diffusers with the K adapters.

Diffusers draws one picture after the other, as its pipeline does: it holds the K adapters and switches between them.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.base.load import ICONS_WEIGHTS
from palp.recipes import guidance_scale, recipe
from serving.bench.traffic import Figures, Traffic, closed_loop
from serving.contract import PictureRequest
from serving.engine import BatchEngine, EngineSettings, Predictions
from serving.subjects.library import Library

__all__ = ["Sides", "random_adapter"]

CLASS_WORD = "cat"
PROMPT = "a pencil sketch of {} on a beach"
SIZE = 0.05  # of random factors: a little everywhere


class Sides:
    """The engine, and diffusers' pipeline, with the same random adapters.

    Args:
        base: of the engine.
        source: where diffusers finds the base, None to leave diffusers out.
        adapters: K.
        batch: pictures in a call of the engine's denoiser.
        waiting: pictures that may wait for the engine.
        predictions: where given, every picture of a subject also has a predicted adapter.
    """

    def __init__(
        self,
        base: Base,
        source: str | None,
        adapters: int,
        batch: int,
        waiting: int,
        predictions: Predictions | None = None,
    ) -> None:
        self._base, self._adapters = base, adapters
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        made = [random_adapter(base, seed) for seed in range(adapters)]
        self._library = Library(folder / "library")
        for number, adapter in enumerate(made):
            self._library.adopt("", f"s{number}", CLASS_WORD, adapter)
        self._pipeline = None if source is None else _pipeline(base, source, made, folder)
        settings = EngineSettings(max_batch=batch, max_waiting=waiting, slots=max(adapters, 2 * batch))
        self.engine = BatchEngine(base, self._library, predictions, settings)

    def requests(self, subjects: Sequence[int | None], steps: int) -> list[PictureRequest]:
        """One a picture, of a subject or of the bare base, with seeds that follow on one another."""
        return [
            PictureRequest(
                PROMPT.format(CLASS_WORD if subject is None else "[V]"),
                subject=None if subject is None else f"s{subject}",
                seed=seed,
                steps=steps,
            )
            for seed, subject in enumerate(subjects)
        ]

    def turn(self, traffic: Traffic, pictures: int, peer_pictures: int, steps: int) -> dict[str, Figures]:
        """A round of every side."""
        subjects = traffic.subjects(pictures, self._adapters)
        round_of = {"adapters": self.requests(subjects, steps), "bare": self.requests([None] * pictures, steps)}
        figures = {side: closed_loop(self.engine, asked, traffic.concurrency) for side, asked in round_of.items()}
        if self._pipeline is not None:
            switched = traffic.subjects(peer_pictures, self._adapters)
            figures["diffusers"] = _switched(self._base, self._pipeline, switched, steps)
        return figures

    def close(self) -> None:
        """Leave the base as it was."""
        self.engine.close()
        self._library.close()
        self._folder.cleanup()


def random_adapter(base: Base, seed: int) -> Adapter:
    """Of the rank of a subject that the base's recipe learns, and at its sites."""
    rng = torch.Generator().manual_seed(seed)
    settings = recipe(base.name, "subject")
    rank, sites = settings.rank, base.sites(settings.sites)
    spec = AdapterSpec(base.fingerprint, sites, rank, float(rank))
    down = {site.name: SIZE * torch.randn(rank, site.in_features, generator=rng) for site in spec.sites}
    up = {site.name: SIZE * torch.randn(site.out_features, rank, generator=rng) for site in spec.sites}
    word = {name: vector[None] for name, vector in base.word_embedding(CLASS_WORD).items()}
    return Adapter(spec, down, up, {"[V]": word}, {"class_word": CLASS_WORD})


def _pipeline(base: Base, source: str, adapters: list[Adapter], folder: Path) -> Any:
    """Diffusers' pipeline in the base's type and place, with every adapter loaded under its name."""
    from diffusers import DiffusionPipeline

    place = str(ICONS_WEIGHTS) if source == "icons" else source
    pipeline: Any = DiffusionPipeline.from_pretrained(place, dtype=base.weights_dtype).to(base.device)
    pipeline.set_progress_bar_config(disable=True)
    for number, adapter in enumerate(adapters):
        file = folder / f"s{number}.safetensors"
        adapter.save(file)
        with warnings.catch_warnings():  # PEFT's, of a second adapter: that is what is measured
            warnings.simplefilter("ignore", UserWarning)
            pipeline.load_lora_weights(str(folder), weight_name=file.name, adapter_name=f"s{number}")
    return pipeline


def _switched(base: Base, pipeline: Any, subjects: Sequence[int], steps: int) -> Figures:
    """A switch, then a picture."""
    arithmetic: AbstractContextManager[object] = nullcontext()
    if base.weights_dtype != base.dtype:
        arithmetic = torch.autocast(base.device.type, base.dtype)
    start = time.monotonic()
    with torch.no_grad(), arithmetic:
        for seed, subject in enumerate(subjects):
            pipeline.set_adapters(f"s{subject}")
            pipeline(
                PROMPT.format(CLASS_WORD),
                num_inference_steps=steps,
                guidance_scale=guidance_scale(base.name),
                generator=torch.Generator().manual_seed(seed),
                output_type="pil",
            )
    return {"pictures_per_s": len(subjects) / (time.monotonic() - start), "batch_size": 1.0}
