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
from palp.train.denoisers import BankDenoisers, Route
from palp.train.draws import Batch, Pictures
from palp.train.jobs import Job
from palp.train.losses import Losses, Objective
from palp.train.settings import TrainSettings
from palp.train.words import PromptStates, Words

__all__ = ["Step", "Trainer"]


@dataclass(frozen=True, eq=False)
class Step:
    """What happened in a step, by job; tensors stay on the base's device until they are looked at.

    Args:
        number: of the step, from 0.
        losses: weighted sum and terms, before the update.
        grad_norm: of each job before clipping.
        active: the jobs that learned in this step; a loss or gradient that is not finite ends a job.
        lr_scale: the schedule's factor on the learning rates.
    """

    number: int
    losses: Losses
    grad_norm: Float[Tensor, "slots"]
    active: Bool[Tensor, "slots"]
    lr_scale: float


class Trainer:
    """Adapters for K jobs, trained together on one base.

        trainer = Trainer(base, jobs, TrainSettings(steps=200))
        for step in trainer.run():
            ...                                     # log, save, or break off: the caller's business
        adapters = trainer.adapters()

    What a job draws depends on its seed and the step alone, and no job's numbers enter another's, so the
    result of a job does not depend on the others, up to the rounding of batched kernels. On a CPU a run that
    was saved and loaded goes on bit for bit.

    Args:
        base: frozen.
        jobs: all joint or all residual.
        settings: of all jobs.

    Raises:
        InputError: no jobs, both forms, or a base in float16, whose gradients would vanish.
        AdapterMismatchError: residual form: subject adapters of several specs.
    """

    def __init__(self, base: Base, jobs: Sequence[Job], settings: TrainSettings) -> None:
        _check(base, jobs)
        self.base, self.jobs, self.settings = base, tuple(jobs), settings
        sites, alpha = base.sites(settings.sites), settings.lora_alpha or float(settings.rank)
        self.bank = AdapterBank(base.unet, AdapterSpec(base.fingerprint, sites, settings.rank, alpha), len(jobs))
        for slot, job in enumerate(jobs):
            self.bank.init_(slot, job.seed)
        self.step = 0
        self.failed_at = torch.full((len(jobs),), -1, device=base.device)  # step; -1 while a job goes on
        self._words = Words(base, jobs, settings.vectors)
        self._states = PromptStates(base, jobs, self._words)
        self._pictures = Pictures(jobs, base.schedule, settings)
        self._objective = Objective(base, jobs, settings)
        self._subject_bank, self._subject_slots = _subject_bank(base, jobs)
        self._slots = torch.arange(len(jobs)).repeat_interleave(settings.batch)
        limit = math.inf if settings.clip is None else settings.clip
        self._optimizer = SlotOptimizer(self._groups(), settings.optimizer, max_norm=limit)

    def run(self) -> Iterator[Step]:
        """Train to the last step, yielding after each; the base is as before when the loop ends.

        Raises:
            NonFiniteLossError: in the end, if a job was stopped; the others are finished then.
        """
        with self._on_base():
            while self.step < self.settings.steps and bool((self.failed_at < 0).any()):
                yield self._advance()
        if errors := self.errors():
            raise errors[0]

    def errors(self) -> list[NonFiniteLossError]:
        """The jobs that were stopped, and when."""
        failed = enumerate(self.failed_at.tolist())
        return [NonFiniteLossError(step, slot) for slot, step in failed if step >= 0]

    def adapters(self) -> list[Adapter]:
        """Copies of the adapters, on the CPU, a job each; that of a stopped job as it last was."""
        return [self._adapter(slot, job) for slot, job in enumerate(self.jobs)]

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
            "failed_at": self.failed_at.clone(),
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
        self.failed_at.copy_(state["failed_at"])
        prefix = "optimizer."
        rows = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        self._optimizer.load_state_dict({"name": self.settings.optimizer, "state": rows})
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])

    def _advance(self) -> Step:
        """One step of every job that is still going."""
        batch = self._pictures.draw(self.step)
        scale = self.settings.lr_scale(self.step)
        losses = self._backward(batch)
        active = (self.failed_at < 0) & losses.loss.isfinite()
        norms = self._optimizer.step(active, torch.full((len(self.jobs),), scale))
        active &= norms.isfinite().to(active.device)
        self.failed_at[(self.failed_at < 0) & ~active] = self.step
        self.step += 1
        return Step(self.step - 1, losses, norms, active, scale)

    def _backward(self, batch: Batch) -> Losses:
        """Losses, without gradient; the gradients are on the parameters.

        A stopped job stays in the batch, unread: its neighbours' kernels, and so their bits, remain the same.
        """
        self._optimizer.zero_grad()
        self._states.refresh()
        frozen = None
        if self._subject_bank is not None:
            frozen = Route(self._subject_bank, self._subject_slots[batch.subjects])
        trained = Route(self.bank, self._slots)
        denoisers = BankDenoisers(self.base, self._states, batch.subjects, trained, frozen)
        with self._objective(batch, denoisers) as losses:
            losses.loss.sum().backward()
        return replace(losses, loss=losses.loss.detach())

    @contextmanager
    def _on_base(self) -> Iterator[None]:
        """Within, the banks are attached to the base's denoiser."""
        banks = [bank for bank in (self.bank, self._subject_bank) if bank is not None]
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
            "settings": json.dumps(self.settings.to_mapping()),
            "jobs": json.dumps([job.content_hash for job in self.jobs]),
        }

    def _adapter(self, slot: int, job: Job) -> Adapter:
        adapter = self.bank.read(slot)
        spec = replace(adapter.spec, dtype=self.settings.dtype)
        down, up = (
            {site: tensor.to(spec.torch_dtype) for site, tensor in side.items()} for side in (adapter.down, adapter.up)
        )
        words = {
            word: {encoder: tensor.to(spec.torch_dtype) for encoder, tensor in encoders.items()}
            for word, encoders in self._words.of_job(slot, job).items()
        }
        return Adapter(spec, down, up, words, self._metadata(slot, job))

    def _metadata(self, slot: int, job: Job) -> dict[str, str]:
        failed = int(self.failed_at[slot])

        def distinct(values: Iterator[str]) -> str:
            return " | ".join(dict.fromkeys(values))

        return {
            "name": job.name,
            "class_word": distinct(subject.class_word for subject in job.subjects),
            "prompt": distinct(subject.prompts.target for subject in job.subjects),
            "clean_prompt": distinct(subject.prompts.clean for subject in job.subjects),
            "personal_prompt": distinct(subject.prompts.personal for subject in job.subjects),
            "form": "residual" if job.residual else "joint",
            "rule": job.rule,
            "seed": str(job.seed),
            "steps": str(self.step if failed < 0 else failed),
            "settings": json.dumps(self.settings.to_mapping()),
        }


def _check(base: Base, jobs: Sequence[Job]) -> None:
    if not jobs or len({job.residual for job in jobs}) > 1:
        raise InputError(
            f"{len(jobs)} jobs were given, {sum(job.residual for job in jobs)} of them residual: "
            "give at least one, all of one form"
        )
    if base.dtype == torch.float16:
        raise InputError("the base computes in float16, where gradients vanish: load it in bfloat16")


def _subject_bank(base: Base, jobs: Sequence[Job]) -> tuple[AdapterBank | None, Tensor]:
    """Residual form: a frozen bank of all subject adapters, and the slot of each subject in it."""
    adapters = [subject.adapter for job in jobs for subject in job.subjects if subject.adapter is not None]
    distinct = list({id(adapter): adapter for adapter in adapters}.values())
    if not distinct:
        return None, torch.empty(0, dtype=torch.long)
    bank = AdapterBank(base.unet, distinct[0].spec, len(distinct)).requires_grad_(False)
    for slot, adapter in enumerate(distinct):
        bank.write(slot, adapter)
    slot_of = {id(adapter): slot for slot, adapter in enumerate(distinct)}
    return bank, torch.tensor([slot_of[id(adapter)] for adapter in adapters])
