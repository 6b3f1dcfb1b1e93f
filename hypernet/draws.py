"""What each step draws: prompts, subjects, pictures, timesteps and noise, from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.corpus import CorpusPrompt, CorpusSubject

__all__ = ["Draws", "HyperBatch", "in_batches"]

PromptPictures: TypeAlias = Callable[[str], Float[Tensor, "subjects pictures c h w"] | None]


@dataclass(frozen=True, eq=False)
class HyperBatch:
    """The samples of a step, those of a prompt side by side.

    Args:
        prompts: of the step; all different.
        class_words: what fills [V] in what the hypernetwork reads, one a prompt.
        rows: the prompt of each sample, by position in `prompts`.
        subjects: the subject of each sample, by position in the stage's.
        x0, noise, fresh_noise: latents and two draws of unit noise.
        t: timesteps.
    """

    prompts: Sequence[CorpusPrompt]
    class_words: Sequence[str]
    rows: Int[Tensor, "rows"]
    subjects: Int[Tensor, "rows"]
    x0: Float[Tensor, "rows c h w"]
    noise: Float[Tensor, "rows c h w"]
    fresh_noise: Float[Tensor, "rows c h w"]
    t: Int[Tensor, "rows"]

    @property
    def rows_of_others(self) -> Int[Tensor, "rows"]:
        """Another prompt for each sample: the next of another meaning, or where all mean the same the next."""
        clusters, n = [prompt.cluster for prompt in self.prompts], len(self.prompts)
        after = [[(i + k) % n for k in range(1, n)] for i in range(n)]
        others = [
            next((j for j in following if clusters[j] != clusters[i]), (i + 1) % n) for i, following in enumerate(after)
        ]
        return torch.tensor(others, device=self.rows.device)[self.rows]


class Draws:
    """Batches from some prompts and subjects.

    Args:
        prompts, subjects: to draw from.
        t_range: timesteps, from the first up to below the second.
        device: of the batches.
        pictures: latents that a prompt's adapter was trained on, by its key; None where they are the subjects' own.
    """

    def __init__(
        self,
        prompts: Sequence[CorpusPrompt],
        subjects: Sequence[CorpusSubject],
        t_range: tuple[int, int],
        device: torch.device,
        pictures: PromptPictures = lambda key: None,
    ) -> None:
        self._prompts, self._subjects, self._t_range, self._device = prompts, subjects, t_range, device
        self._pictures = pictures

    def draw(self, key: Sequence[int], prompts: int, samples: int) -> HyperBatch:
        """A batch of so many prompts, or all if there are fewer, the same whenever it is drawn with this key."""
        random = np.random.default_rng([*key])
        count = min(prompts, len(self._prompts))
        chosen = random.choice(len(self._prompts), count, replace=False)
        return self._fill([self._prompts[i] for i in chosen], samples, random)

    def of(self, key: Sequence[int], prompts: Sequence[CorpusPrompt], samples: int) -> HyperBatch:
        """A batch of these prompts."""
        return self._fill(prompts, samples, np.random.default_rng([*key]))

    def _fill(self, prompts: Sequence[CorpusPrompt], samples: int, random: np.random.Generator) -> HyperBatch:
        n = len(prompts) * samples
        subjects = random.integers(len(self._subjects), size=n)
        choices = [self._choice(prompts[row // samples], i) for row, i in enumerate(subjects.tolist())]
        x0 = torch.stack([latents[int(random.integers(len(latents)))] for latents in choices]).float()
        noise, fresh = (torch.from_numpy(random.standard_normal(x0.shape, dtype=np.float32)) for _ in range(2))
        t = torch.from_numpy(random.integers(*self._t_range, size=n))
        return HyperBatch(
            prompts,
            [self._subjects[i].class_word for i in subjects[::samples]],
            torch.arange(len(prompts)).repeat_interleave(samples),
            torch.from_numpy(subjects),
            x0.to(self._device),
            noise.to(self._device),
            fresh.to(self._device),
            t.to(self._device),
        )

    def _choice(self, prompt: CorpusPrompt, subject: int) -> Float[Tensor, "pictures c h w"]:
        """The latents to choose from; to a subject that was not trained over falls what another was trained on."""
        own = self._pictures(prompt.key)
        return self._subjects[subject].latents if own is None else own[subject % len(own)]


def in_batches(prompts: Sequence[CorpusPrompt], size: int) -> list[Sequence[CorpusPrompt]]:
    """In batches of at most `size`, none of a single prompt: each is held against another."""
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    return [part for part in parts if len(part) > 1]
