"""What the jobs in K slots learn from: their pictures, text states and frozen subjects, and the losses over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

from palp.adapter import Adapter
from palp.bank import AdapterBank
from palp.base import Base
from palp.errors import InputError
from palp.train.denoisers import BankDenoisers, Route
from palp.train.draws import Pictures
from palp.train.jobs import Job
from palp.train.losses import Losses, Objective
from palp.train.settings import TrainSettings
from palp.train.words import PromptStates, Words


class Lessons:
    """The jobs of K slots on a base; a slot can be given another job, and the others do not notice.

    Args:
        words: that the jobs learn; none in the residual form.

    Raises:
        InputError: no jobs, both forms, or a base in float16, whose gradients would vanish.
        AdapterMismatchError: residual form: subject adapters of several specs.
    """

    def __init__(self, base: Base, jobs: Sequence[Job], words: Words, settings: TrainSettings) -> None:
        check_jobs(base, jobs)
        self._base, self._jobs, self._settings = base, list(jobs), settings
        self._states = PromptStates(base, jobs, words)
        self._subjects = list({id(adapter): adapter for adapter in _frozen_subjects(jobs)}.values())
        self.frozen = _frozen_bank(base, self._subjects, settings.subject_scale)
        self._gather()

    def fill(self, slot: int, job: Job) -> None:
        """Give a slot another job.

        Raises:
            InputError: it is of the other form, or its frozen subjects are not among those of the first jobs.
        """
        known = {id(adapter) for adapter in self._subjects}
        if job.residual != (self.frozen is not None) or any(id(a) not in known for a in _frozen_subjects([job])):
            raise InputError(
                f"job {job.name!r} does not fit the bank: give it the form and the frozen subjects of the first jobs"
            )
        self._jobs[slot] = job
        self._states.fill(slot, job)
        self._gather()

    @contextmanager
    def losses(self, steps: Sequence[int], trained: Route) -> Iterator[Losses]:
        """The losses of a step of each job; call backward inside the block.

        Args:
            steps: the number of the step of each job.
            trained: the bank in training, and the slot of each sample.
        """
        batch = self._pictures.draw(steps)
        self._states.refresh(batch.subjects)
        frozen = None
        if self.frozen is not None:
            frozen = Route(self.frozen, self._frozen_slots[batch.subjects])
        denoisers = BankDenoisers(self._base, self._states, batch.subjects, trained, frozen)
        with self._objective(batch, denoisers) as losses:
            yield losses

    def _gather(self) -> None:
        """What follows from the jobs that are in the slots now."""
        self._pictures = Pictures(self._jobs, self._base.schedule, self._settings)
        self._objective = Objective(self._base, self._jobs, self._settings)
        slot_of = {id(adapter): slot for slot, adapter in enumerate(self._subjects)}
        rows = [slot_of[id(adapter)] for adapter in _frozen_subjects(self._jobs)]
        self._frozen_slots: Int[Tensor, "subjects"] = torch.tensor(rows, dtype=torch.long)


def check_jobs(base: Base, jobs: Sequence[Job]) -> None:
    """Raise InputError unless these jobs can be trained together on this base."""
    if not jobs or len({job.residual for job in jobs}) > 1:
        raise InputError(
            f"{len(jobs)} jobs were given, {sum(job.residual for job in jobs)} of them residual: "
            "give at least one, all of one form"
        )
    if base.dtype == torch.float16:
        raise InputError("the base computes in float16, where gradients vanish: load it in bfloat16")


def _frozen_subjects(jobs: Sequence[Job]) -> list[Adapter]:
    """The frozen adapter of every subject of every job, in their order."""
    return [subject.adapter for job in jobs for subject in job.subjects if subject.adapter is not None]


def _frozen_bank(base: Base, adapters: Sequence[Adapter], scale: float) -> AdapterBank | None:
    """Residual form: a bank of the subject adapters, so strong."""
    if not adapters:
        return None
    return AdapterBank.holding(base.unet, [adapter.scaled(scale) for adapter in adapters]).requires_grad_(False)
