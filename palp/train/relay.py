"""Many jobs one after the other through the K slots of one bank: as a job ends, the next one takes its place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palp.adapter import Adapter
from palp.base import Base
from palp.errors import InputError
from palp.train.jobs import Job
from palp.train.probe import Probe
from palp.train.settings import TrainSettings
from palp.train.trainer import Step, Trainer

__all__ = ["Exams", "Finished", "Lap", "Relay", "check_rounds"]

EMPTY = -1  # in place of a job's number


@dataclass(frozen=True)
class Exams:
    """How jobs are examined on the way, and when one is ended early.

    Args:
        jobs: one for each of the queue, as in `Probe`; none: nobody is examined.
        batch: samples an exam.
        patience: exams in a row without progress after which a job ends.
        min_delta: share of the best loss by which a loss must be lower to be progress.
    """

    jobs: Sequence[Job] = ()
    batch: int = 16
    patience: int = 2
    min_delta: float = 0.01


@dataclass(frozen=True, eq=False)
class Finished:
    """A job that has ended.

    Args:
        number: in the queue.
        adapter: the one with the lowest loss in an exam, or, without exams, the last.
        steps: after which it was taken.
        before, after: loss in the exam without and with it; nan without exams.
        failed_at: step of a loss that was not finite, or -1.
    """

    number: int
    adapter: Adapter
    steps: int
    before: float
    after: float
    failed_at: int


@dataclass(frozen=True, eq=False)
class Lap:
    """A step of all slots, and the jobs that ended with it; `done` counts the finished jobs and parts of the others."""

    step: Step
    finished: tuple[Finished, ...]
    done: float


def check_rounds(settings: TrainSettings, every: int) -> None:
    """Raise InputError unless rounds of `every` steps divide those of a job."""
    if settings.steps % every:
        raise InputError(f"rounds of {every} steps do not divide {settings.steps} steps: choose a divisor of them")


class Relay:
    """A queue of jobs through one trainer.

    Slots change hands only between rounds of `every` steps, when all are examined at once; what a job learns
    depends on itself alone, up to the rounding of batched kernels. A state holds everything: a run that goes on
    from it on a CPU gives the same adapters, bit for bit.

    Args:
        queue: all of one form; residual jobs over the same subject adapters.
        settings: of all.
        slots: K; fewer if the queue is shorter.
        every: steps of a round; divides those of a job.
        exams: of residual jobs.

    Raises:
        InputError: rounds that do not divide the steps; otherwise as `Trainer`.
    """

    def __init__(
        self,
        base: Base,
        queue: Sequence[Job],
        settings: TrainSettings,
        slots: int,
        every: int,
        exams: Exams | None = None,
    ) -> None:
        check_rounds(settings, every)
        k = min(slots, len(queue))
        self.queue, self._every, self._exams = queue, every, exams or Exams()
        self.trainer = Trainer(base, queue[:k], settings)
        self.held = torch.arange(k)  # number of each slot's job
        self._last = torch.arange(k)  # the same, and of an empty slot the job that it had: it stays in the batch
        self.next = k
        self._probe = Probe(base, self._exams.jobs[:k], settings, self._exams.batch) if self._exams.jobs else None
        self._marks = {name: torch.full((k,), math.nan) for name in ("before", "best", "best_step")}
        self._marks["stale"] = torch.zeros(k)
        self._kept = {n: rows.detach().clone() for n, rows in self._pairs().items()} if self._probe else {}
        if self._probe:
            self._marks["before"] = self._probe.measure(self.trainer.bank)

    def run(self) -> Iterator[Lap]:
        """Train on to the end of the queue, yielding after each step; what has failed is among the finished."""
        for step in self.trainer.run():
            steps, learned = self.trainer.steps, step.active.cpu()
            over = not bool(self.trainer.going.any()) or bool((steps[learned] % self._every == 0).all())
            finished = tuple(self._end_round()) if over else ()
            yield Lap(step, finished, self.done)

    @property
    def done(self) -> float:
        """Jobs finished, and parts of those in the slots."""
        held = self.held != EMPTY
        share = self.trainer.steps[held].sum().item() / self.trainer.settings.steps
        return float(self.next - int(held.sum()) + share)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that changes, by name."""
        own = {"held": self.held, "last": self._last, "next": torch.tensor(self.next), **self._marks}
        return {
            **self.trainer.state_dict(),
            **{f"relay.{name}": tensor.clone() for name, tensor in own.items()},
            **{f"kept.{name}": tensor.clone() for name, tensor in self._kept.items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` of a relay with the same queue, settings and slots gave.

        Raises:
            InputError: it is of another relay.
        """
        if state.get("relay.held", torch.empty(0)).shape != self.held.shape:
            raise InputError("the saved state is of a bank with another number of slots: use its number")
        self.held, self.next = state["relay.held"].clone(), int(state["relay.next"])
        for slot, number in enumerate(state["relay.last"].tolist()):
            self._put(slot, number)
        self.trainer.load_state_dict({n: t for n, t in state.items() if not n.startswith(("relay.", "kept."))})
        for name in self._marks:
            self._marks[name] = state[f"relay.{name}"].clone()
        for name, rows in self._kept.items():
            rows.copy_(state[f"kept.{name}"])

    def _end_round(self) -> Iterator[Finished]:
        """Examine, take out what is over, and put the next jobs in."""
        occupied = [slot for slot, number in enumerate(self.held.tolist()) if number != EMPTY]
        if self._probe:
            losses = self._probe.measure(self.trainer.bank).tolist()
            for slot in occupied:
                self._note(slot, losses[slot])
        going = self.trainer.going.tolist()
        patience = self._exams.patience
        over = [slot for slot in occupied if not going[slot] or self._marks["stale"][slot] >= patience]
        yield from [self._take(slot) for slot in over]
        for slot in over:
            self._change(slot)
        if self._probe and over:
            before = self._probe.measure(self.trainer.bank)
            self._marks["before"][over] = before[over]

    def _note(self, slot: int, loss: float) -> None:
        """Mark the loss of an exam, and keep the adapter if it is the best so far."""
        best = float(self._marks["best"][slot])
        first = math.isnan(best) and math.isfinite(loss)
        progress = first or loss < best * (1 - self._exams.min_delta)
        self._marks["stale"][slot] = 0 if progress else self._marks["stale"][slot] + 1
        if (first or loss < best) and self.trainer.failed_at[slot] < 0:
            self._marks["best"][slot], self._marks["best_step"][slot] = loss, float(self.trainer.steps[slot])
            for name, rows in self._pairs().items():
                self._kept[name][slot] = rows[slot].detach()

    @torch.no_grad()
    def _take(self, slot: int) -> Finished:
        """The result of a slot, whose best adapter goes back into the bank to be read."""
        trainer, failed_at = self.trainer, int(self.trainer.failed_at[slot])
        best_step = float(self._marks["best_step"][slot])
        if math.isfinite(best_step):
            trainer.steps[slot] = int(best_step)
            for name, rows in self._pairs().items():
                rows[slot] = self._kept[name][slot]
        before, after = float(self._marks["before"][slot]), float(self._marks["best"][slot])
        steps = int(trainer.steps[slot])
        return Finished(int(self.held[slot]), trainer.adapter(slot), steps, before, after, failed_at)

    def _change(self, slot: int) -> None:
        """Give the slot to the next job, or to nobody."""
        if self.next < len(self.queue):
            self._put(slot, self.next)
            self.held[slot] = self.next
            self.next += 1
        else:
            self.trainer.stop(slot)
            self.held[slot] = EMPTY
        for name, rows in self._marks.items():
            rows[slot] = 0 if name == "stale" else math.nan

    def _put(self, slot: int, number: int) -> None:
        self._last[slot] = number
        self.trainer.refill(slot, self.queue[number])
        if self._probe:
            self._probe.fill(slot, self._exams.jobs[number])

    def _pairs(self) -> dict[str, Tensor]:
        return dict(self.trainer.bank.named_parameters())
