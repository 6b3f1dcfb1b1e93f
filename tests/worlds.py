"""A tiny random base with the picture world's size, and untrained judges: evaluations run on them in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL

from palp.base import Base, base_from_pipeline
from palp.base.icons.judges import AttributeJudge, SmallCLIP, build_judges
from palp.draw import Sampling
from palp.evaluate.protocol import Protocol, report_protocol
from palp.evaluate.study import Study
from palp.learn import Report
from tests.tiny import tiny_pipeline

TINY = {"steps": 4, "batch": 2, "rank": 2}


def world_base() -> Base:
    """128 x 128 pixels, 8 x 8 x 4 latents, v-prediction, with the embedded base's recipes."""
    pipeline = tiny_pipeline("sd2-v")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline.vae = AutoencoderKL(
            block_out_channels=(4,) * 5,
            down_block_types=("DownEncoderBlock2D",) * 5,
            up_block_types=("UpDecoderBlock2D",) * 5,
            norm_num_groups=2,
            latent_channels=4,
            sample_size=128,
        )
    return base_from_pipeline(pipeline, torch.device("cpu"), torch.float32, name="icons")


def world_judges() -> tuple[AttributeJudge, SmallCLIP]:
    """Both judges, random and frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judges = build_judges()
    for judge in judges:
        judge.eval().requires_grad_(False)
    return judges


def small_protocol() -> Protocol:
    """Two subjects, two prompts, two seeds, and two subjects to transfer from."""
    protocol = report_protocol(2, 2, 2)
    return Protocol(protocol.subjects, protocol.targets, protocol.seeds, protocol.photo_seeds, ("poodle", "gorilla"))


@contextmanager
def quiet(title: str) -> Iterator[Report]:
    """A progress bar that nobody sees."""
    yield lambda done, total, loss: None


def study(base: Base, folder: Path, titles: list[str] | None = None) -> Study:
    """A study of four steps a training and five a picture; the titles of its progress bars are collected."""

    def bar(title: str) -> AbstractContextManager[Report]:
        if titles is not None:
            titles.append(title)
        return quiet(title)

    with patch("palp.evaluate.study.Sampling", partial(Sampling, steps=5)):
        return Study(base, world_judges(), small_protocol(), folder, bar, TINY)
