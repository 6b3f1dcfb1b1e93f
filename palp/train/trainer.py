"""The training loop: K jobs share one bank, and each goes as if it were alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec
from palp.bank import AdapterBank
from palp.base import Base
from palp.errors import InputError, NonFiniteLossError
from palp.optim import SlotOptimizer, SlotParameters
from palp.train import checkpoint
from palp.train.denoisers import Route
from palp.train.jobs import Job
from palp.train.lessons import Lessons, check_jobs
from palp.train.losses import Losses
from palp.train.settings import TrainSettings
from palp.train.words import Words

__all__ = ["Step", "Trainer"]


@dataclass(frozen=True, eq=False)
class Step:
    """What happened in a step, by job; tensors stay on the base's device until they are looked at.

    Args:
        number: of the step, from 0.
        losses: weighted sum and terms, before the update.
        grad_norm: of each job before clipping.
        active: the jobs that learned in this step; a loss or gradient that is not finite ends a job.
        lr_scale: the schedule's factor on the learning rates of each job.
    """

    number: int
    losses: Losses
    grad_norm: Float[Tensor, "slots"]
    active: Bool[Tensor, "slots"]
    lr_scale: Float[Tensor, "slots"]


class Trainer:
    """Adapters for K jobs, trained together on one base.

        trainer = Trainer(base, jobs, TrainSettings(steps=200))
        for step in trainer.run():
            ...                                     # log, save, or break off: the caller's business
        adapters = trainer.adapters()

    What a job draws depends on its seed and its own step alone, and no job's numbers enter another's, so the
    result of a job does not depend on the others, up to the rounding of batched kernels. On a CPU a run that
    was saved and loaded goes on bit for bit. Between two steps a slot may be stopped, or given another job,
    which begins at its own first step while the others go on.

    Args:
        base: frozen.
        jobs: all joint or all residual.
        settings: of all jobs.

    Raises:
        InputError: no jobs, both forms, or a base in float16, whose gradients would vanish.
        AdapterMismatchError: residual form: subject adapters of several specs.
    """

    def __init__(self, base: Base, jobs: Sequence[Job], settings: TrainSettings) -> None:
        check_jobs(base, jobs)
        self.base, self.jobs, self.settings = base, list(jobs), settings
        sites, alpha = base.sites(settings.sites), settings.lora_alpha or float(settings.rank)
        self.bank = AdapterBank(base.unet, AdapterSpec(base.fingerprint, sites, settings.rank, alpha), len(jobs))
        for slot, job in enumerate(jobs):
            self.bank.init_(slot, job.seed)
        self.step = 0
        self.steps = torch.zeros(len(jobs), dtype=torch.long)  # that each job has learned in
        self._drawn = torch.zeros(len(jobs), dtype=torch.long)  # batches, also of a job that learns no more: what
        # neighbours ask alike then stays alike, and with the size of their calls their bits
        self.failed_at = torch.full((len(jobs),), -1)  # the job's step; -1 while its numbers are finite
        self.stopped = torch.zeros(len(jobs), dtype=torch.bool)
        self._words = Words(base, jobs, settings.vectors)
        self._lessons = Lessons(base, jobs, self._words, settings)
        self._slots = torch.arange(len(jobs)).repeat_interleave(settings.batch)
        limit = math.inf if settings.clip is None else settings.clip
        self._optimizer = SlotOptimizer(self._groups(), settings.optimizer, max_norm=limit)

    @property
    def going(self) -> Bool[Tensor, "slots"]:
        """The slots whose jobs are not finished, stopped or failed."""
        return (self.steps < self.settings.steps) & ~self.stopped & (self.failed_at < 0)

    def run(self) -> Iterator[Step]:
        """Train to the last step, yielding after each; the base is as before when the loop ends.

        Raises:
            NonFiniteLossError: in the end, if a job has failed; the others are finished then.
        """
        with self._on_base():
            while bool(self.going.any()):
                yield self._advance()
        if errors := self.errors():
            raise errors[0]

    def refill(self, slot: int, job: Job) -> None:
        """Give a slot another job, from its first step; what the slot held is gone, and the others go on as they were.

        Raises:
            InputError: it is of another form than the first jobs, or has frozen subjects or words that they have not.
        """
        self._lessons.fill(slot, job)
        self._words.start(slot, job)
        self.bank.init_(slot, job.seed)
        self._optimizer.reset(slot)
        self.jobs[slot] = job
        self.steps[slot], self._drawn[slot], self.failed_at[slot], self.stopped[slot] = 0, 0, -1, False

    def stop(self, slot: int) -> None:
        """End a slot's job where it is; one that has failed is no longer counted as an error."""
        self.stopped[slot], self.failed_at[slot] = True, -1

    def errors(self) -> list[NonFiniteLossError]:
        """The jobs that have failed, and when."""
        failed = enumerate(self.failed_at.tolist())
        return [NonFiniteLossError(step, slot) for slot, step in failed if step >= 0]

    def adapters(self) -> list[Adapter]:
        """Copies of the adapters, on the CPU, a job each; that of a failed job as it last was."""
        return [self.adapter(slot) for slot in range(len(self.jobs))]

    def adapter(self, slot: int) -> Adapter:
        """A copy of one slot's adapter, on the CPU."""
        adapter, job = self.bank.read(slot), self.jobs[slot]
        spec = replace(adapter.spec, dtype=self.settings.dtype)
        down, up = (
            {site: tensor.to(spec.torch_dtype) for site, tensor in side.items()} for side in (adapter.down, adapter.up)
        )
        words = {
            word: {encoder: tensor.to(spec.torch_dtype) for encoder, tensor in encoders.items()}
            for word, encoders in self._words.of_job(slot, job).items()
        }
        return Adapter(spec, down, up, words, job.describe(int(self.steps[slot]), self.settings))

    def save(self, path: str | Path) -> None:
        """Write everything that `load` needs to one safetensors file, atomically."""
        checkpoint.save(Path(path), self.state_dict(), self._identity)

    def load(self, path: str | Path) -> None:
        """Go on from a file of `save`, made by a trainer of the same base, jobs and settings.

        Raises:
            InputError: the file is missing, damaged, or of another run.
        """
        self.load_state_dict(checkpoint.load(Path(path), self._identity))

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that changes, by name; what a step draws depends on its number alone."""
        optimizer = self._optimizer.state_dict()["state"]
        return {
            "step": torch.tensor(self.step),
            "steps": self.steps.clone(),
            "drawn": self._drawn.clone(),
            "failed_at": self.failed_at.clone(),
            "stopped": self.stopped.clone(),
            **{f"optimizer.{name}": value for name, value in optimizer.items()},
            **{name: tensor.detach().clone() for name, tensor in self._tensors().items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            InputError: it is of other jobs or settings.
        """
        mine = {name: tensor.shape for name, tensor in self.state_dict().items()}
        if odd := sorted({*mine.items()} ^ {(name, tensor.shape) for name, tensor in state.items()}):
            raise InputError(f"the saved state is of another run: {odd[0][0]} differs; use its settings")
        self.step = int(state["step"])
        counts = {"steps": self.steps, "drawn": self._drawn, "failed_at": self.failed_at, "stopped": self.stopped}
        for name, tensor in counts.items():
            tensor.copy_(state[name])
        prefix = "optimizer."
        rows = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        self._optimizer.load_state_dict({"name": self.settings.optimizer, "state": rows})
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])

    def _advance(self) -> Step:
        """One step of every job that is still going; the others stay in the batch, unread, so that the kernels remain
        the same, and with them their neighbours' bits."""
        going, last = self.going, self.settings.steps - 1
        steps = [min(step, last) for step in self._drawn.tolist()]
        scale = torch.tensor([self.settings.lr_scale(step) for step in steps])
        self._optimizer.zero_grad()
        with self._lessons.losses(steps, Route(self.bank, self._slots)) as losses:
            losses.loss.sum().backward()
        losses = replace(losses, loss=losses.loss.detach())
        active = going.to(self.base.device) & losses.loss.isfinite()
        norms = self._optimizer.step(active, scale)
        active &= norms.isfinite()
        learned = active.cpu()
        self.failed_at = torch.where(going & ~learned, self.steps, self.failed_at)
        self.steps += learned
        self._drawn += 1
        self.step += 1
        return Step(self.step - 1, losses, norms, active, scale)

    @contextmanager
    def _on_base(self) -> Iterator[None]:
        """Within, the banks are attached to the base's denoiser."""
        banks = [bank for bank in (self.bank, self._lessons.frozen) if bank is not None]
        for bank in banks:
            bank.attach()
        if self.settings.gradient_checkpointing:
            self.base.unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            if self.settings.gradient_checkpointing:
                self.base.unet.disable_gradient_checkpointing()
            for bank in banks:
                bank.detach()

    def _groups(self) -> list[SlotParameters]:
        settings, words = self.settings, dict(self._words.named())
        pairs = SlotParameters(dict(self.bank.named_parameters()), settings.lr, settings.weight_decay)
        return [pairs, *([SlotParameters(words, settings.lr_placeholder)] if words else [])]

    def _tensors(self) -> dict[str, Tensor]:
        """What learns, by name."""
        pairs = {f"bank.{name}": rows for name, rows in self.bank.named_parameters()}
        return pairs | dict(self._words.named())

    @cached_property
    def _identity(self) -> dict[str, str]:
        """What a checkpoint's trainer must share with the one that loads it."""
        return {
            "base": self.base.fingerprint,
            "arithmetic": self.base.arithmetic,
            "settings": json.dumps(self.settings.to_mapping()),
            "jobs": json.dumps([job.content_hash for job in self.jobs]),
        }
