"""What each step draws: pictures, timesteps and noise, from the job's seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from palp.base import NoiseSchedule
from palp.train.jobs import Job
from palp.train.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of a step, those of a job side by side.

    Args:
        subjects: which subject each shows, counted through all jobs.
        x0, noise, fresh_noise: latents and two draws of unit noise.
        t: timesteps.
    """

    subjects: Int[Tensor, "rows"]
    x0: Float[Tensor, "rows c h w"]
    noise: Float[Tensor, "rows c h w"]
    fresh_noise: Float[Tensor, "rows c h w"]
    t: Int[Tensor, "rows"]


class Pictures:
    """The latents of all jobs, on the base's device, and the drawing of batches from them."""

    def __init__(self, jobs: Sequence[Job], schedule: NoiseSchedule, settings: TrainSettings) -> None:
        self._jobs, self._batch = tuple(jobs), settings.batch
        self._device = schedule.alphas_cumprod.device
        members = [subject for job in jobs for subject in job.subjects]
        distinct = list({id(member.latents): member.latents for member in members}.values())  # jobs share subjects
        start = dict(zip(map(id, distinct), np.cumsum([0, *map(len, distinct)]), strict=False))
        self._latents = torch.cat([latents.to(self._device, torch.float32) for latents in distinct])
        self._picture_of = np.concatenate([start[id(m.latents)] + np.arange(len(m.latents)) for m in members])
        self._subject_of = np.repeat(np.arange(len(members)), [len(member.latents) for member in members])
        self._first = np.cumsum([0, *(job.pictures for job in jobs)])
        self._t_range = settings.t_range(len(schedule))

    def draw(self, steps: Sequence[int]) -> Batch:
        """The batch of a step of each job, the same whenever it is drawn and whatever the other jobs are."""
        keys = [(job.seed, job.pictures, step) for job, step in zip(self._jobs, steps, strict=True)]
        row_of = {key: row for row, key in enumerate(dict.fromkeys(keys))}  # jobs of one seed and phase draw alike
        picture, t, noise, fresh = (np.concatenate(part) for part in zip(*map(self._draw, row_of), strict=True))
        rows = np.concatenate([row_of[key] * self._batch + np.arange(self._batch) for key in keys])
        picture = picture[rows] + self._first[:-1].repeat(self._batch)
        index = torch.from_numpy(rows).to(self._device)
        return Batch(
            torch.from_numpy(self._subject_of[picture]),
            self._latents[torch.from_numpy(self._picture_of[picture]).to(self._device)],
            *(torch.from_numpy(part).to(self._device)[index] for part in (noise, fresh, t)),
        )

    def _draw(self, key: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
        """Numbers of pictures, timesteps and noise, from a seed, how many pictures there are, and the step."""
        seed, pictures, step = key
        random = np.random.default_rng([seed, step])
        picture = _spread(random, 0, pictures, self._batch)
        t = _spread(random, *self._t_range, self._batch)
        shape = (self._batch, *self._latents.shape[1:])
        noise, fresh = (random.standard_normal(shape, dtype=np.float32) for _ in range(2))
        return picture, t, noise, fresh


def _spread(random: np.random.Generator, low: int, high: int, count: int) -> NDArray[np.int64]:
    """Whole numbers from `low` to below `high`, each evenly drawn, and together spread over the range.

    One from each of `count` parts of the range, in random order: the low-discrepancy sampler of Kingma et al. 2021
    (arXiv 2107.00630), by which a step's loss and gradient vary less.
    """
    share = (random.permutation(count) + random.random()) / count
    return (low + np.floor(share * (high - low))).astype(np.int64).clip(max=high - 1)  # a sum may round up
