"""A held-out measure of jobs in training: their own loss, on samples that are the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from palp.bank import AdapterBank
from palp.base import Base
from palp.train.denoisers import Route
from palp.train.jobs import Job
from palp.train.lessons import Lessons
from palp.train.settings import TrainSettings
from palp.train.words import Words


class Probe:
    """What a bank's adapters make of fixed pictures, timesteps and noise, normally of subjects they never learn from.

    Args:
        exams: residual jobs, one for each slot: the slot's prompt over the held-out subjects. Those of one seed
            draw the same, so that prompts compare.
        settings: of the training.
        batch: samples a job.

    Raises:
        InputError, AdapterMismatchError: as `Trainer`.
    """

    def __init__(self, base: Base, exams: Sequence[Job], settings: TrainSettings, batch: int) -> None:
        words = Words(base, exams, settings.vectors)
        self._lessons = Lessons(base, exams, words, replace(settings, batch=batch))
        self._slots = torch.arange(len(exams)).repeat_interleave(batch)
        self._steps = [0] * len(exams)

    def fill(self, slot: int, exam: Job) -> None:
        """Examine a slot in another prompt from now on.

        Raises:
            InputError: over other subjects than the first ones.
        """
        self._lessons.fill(slot, exam)

    @torch.no_grad()
    def measure(self, bank: AdapterBank) -> Float[Tensor, "slots"]:
        """The loss of each slot's adapter, on the CPU; the bank must be attached, or hold nothing yet."""
        frozen = self._lessons.frozen
        assert frozen is not None
        frozen.attach()
        try:
            with self._lessons.losses(self._steps, Route(bank, self._slots)) as losses:
                return losses.loss.cpu()
        finally:
            frozen.detach()
