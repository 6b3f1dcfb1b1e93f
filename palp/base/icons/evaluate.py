"""How good the embedded base is: 512 captions of combinations it never saw, judged element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from palp.base import Base, sample
from palp.base.icons.dataset import render_example, to_tensor
from palp.base.icons.export import write_grid
from palp.base.icons.grammar import Scene, caption, random_scene
from palp.base.icons.judges import AttributeJudge, labels
from palp.draw import Sampling
from palp.errors import InputError
from palp.evaluate.intervals import Estimate, estimate

ATTRIBUTES = ("style", "place", "weather", "palette", "subject", "companion")
HELD_OUT_SEED = 40_000_000  # renders from here on are in no training set
STEPS = 20
BATCH = 32


@dataclass(frozen=True)
class BaseReport:
    """Estimates by metric name: of generated pictures, and of real renders of the same scenes (the ceiling)."""

    generated: dict[str, Estimate]
    rendered: dict[str, Estimate]
    pictures: Tensor


def held_out_scenes(count: int) -> list[Scene]:
    """Scenes whose combination of style, place and subject was kept from training."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    return [random_scene(rng, held_out=True) for _ in range(count)]


def evaluate_base(base: Base, judge: AttributeJudge, count: int, guidance: float) -> BaseReport:
    """Sample `count` held-out captions, DDIM 20 steps, and let the attribute judge name every element.

    Weather, palette and companion count where the caption asks for one.

    Raises:
        InputError: a guidance scale that is not finite, or gives pictures that are not.
    """
    Sampling(STEPS, guidance)  # refuses what is no scale
    scenes = held_out_scenes(count)
    captions = [caption(scene) for scene in scenes]
    parts = []
    for start in range(0, count, BATCH):
        text = base.encode_prompts(captions[start : start + BATCH])
        null = base.encode_prompts([""] * len(text))
        seeds = range(start, start + len(text))
        parts.append(sample(base, text, null, seeds, steps=STEPS, guidance=guidance, scheduler="ddim"))
    pictures = torch.cat(parts)
    if not pictures.isfinite().all():
        raise InputError(
            f"the pictures are not finite: the guidance scale of {guidance:g} is too large; choose a smaller one"
        )
    renders = to_tensor(
        np.stack(
            [render_example(HELD_OUT_SEED + i, held_out=True, scene=scene).picture for i, scene in enumerate(scenes)]
        )
    )
    generated = judged(judge, pictures, scenes) | {"vae_psnr_db": reconstruction(base, renders)}
    return BaseReport(generated, judged(judge, renders, scenes), pictures)


def reconstruction(base: Base, renders: Tensor) -> Estimate:
    """Peak signal-to-noise ratio of the autoencoder in dB, over renders `[n, 3, 128, 128]` in [-1, 1]."""
    rebuilt = torch.cat([base.decode_latents(base.encode_images(part)).cpu() for part in renders.split(BATCH)])
    squared = (((rebuilt - renders) / 2) ** 2).mean(dim=(1, 2, 3))
    mean = estimate(squared.double().numpy())
    value, low, high = (-10 * float(np.log10(error)) for error in (mean.value, mean.high, mean.low))
    return Estimate(value, low, high, mean.n)


@torch.no_grad()
def judged(judge: AttributeJudge, pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, Estimate]:
    """Share of pictures in which the judge names the scene's word, by attribute; none that no scene asks for."""
    batches = [judge(part.float().cpu())[0] for part in pictures.split(BATCH)]
    out = {}
    for name in ATTRIBUTES:
        best = torch.cat([batch[name] for batch in batches]).argmax(dim=1).tolist()
        asked = [
            (labels()[name][guess] == getattr(scene, name))
            for guess, scene in zip(best, scenes, strict=True)
            if getattr(scene, name) not in (None, "none")
        ]
        if asked:
            out[name] = estimate([float(hit) for hit in asked])
    return out


def write_examples(report: BaseReport, path: Path, count: int = 40) -> None:
    """A sheet of the first pictures, eight a row."""
    write_grid(report.pictures[:count], path)
