"""The losses of one step, for all jobs at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.base import Base, NoiseSchedule, TextState
from palp.guidance import Draw, Rule, find_rule
from palp.guidance.terms import squared_error
from palp.train.denoisers import BankDenoisers, native_of
from palp.train.draws import Batch
from palp.train.jobs import Job
from palp.train.settings import TrainSettings

SMALLEST_A2 = 1e-6  # schedules with zero-terminal SNR end in a² = 0


@dataclass(frozen=True, eq=False)
class Losses:
    """Means over a job's samples; `loss` is their weighted sum, the others are as they are."""

    loss: Float[Tensor, "slots"]
    reconstruction: Float[Tensor, "slots"]
    guidance: Float[Tensor, "slots"]
    prior: Float[Tensor, "slots"]


@dataclass(frozen=True, eq=False)
class Group:
    """A rule with its settings, and the samples that it is for; None is all of them."""

    rule: Rule
    settings: TrainSettings
    rows: Int[Tensor, "some"] | None


class Objective:
    """reconstruction + λ · guidance + prior, as means over latent dimensions and a job's samples.

    reconstruction: ‖G(x_t, y_P) − target‖² in the model's own form, noise or v (Eq. 1). Guidance rules are in
    noise form with w(t) = 1 for noise models and 1 / a² for v models: a difference of noises is a times that
    of v's, so the balance of both terms does not depend on t in either kind.
    prior: ‖student − base‖² at the photo prompt; in the residual form the subject's model is the reference.
    """

    def __init__(self, base: Base, jobs: Sequence[Job], settings: TrainSettings) -> None:
        self._base, self._jobs, self._settings = base, jobs, settings
        self._groups = _groups(jobs, settings)
        reconstructs = torch.tensor([find_rule(job.rule).reconstructs for job in jobs], device=base.device)
        self._reconstructs = reconstructs.repeat_interleave(settings.batch)
        weights = torch.tensor([job.settings(settings).guidance_weight for job in jobs], device=base.device)
        self._weight = weights.repeat_interleave(settings.batch).where(self._reconstructs, 1.0)

    @contextmanager
    def __call__(self, batch: Batch, denoisers: BankDenoisers) -> Iterator[Losses]:
        """The losses; call backward inside the block, where gradient checkpointing runs the student again."""
        schedule, settings = self._base.schedule, self._settings
        x_t = schedule.add_noise(batch.x0, batch.noise, batch.t)
        texts = [self._student_text(denoisers)]
        if settings.prior_weight:
            texts.append(denoisers.states("photo", denoisers.subjects))
        with denoisers.as_student(len(texts)):
            native, *at_photo = native_of(self._base, x_t, batch.t, *texts)
            draw = draw_of(schedule, batch, x_t, native)
            error = squared_error(native, schedule.target(batch.x0, batch.noise, batch.t))
            error = schedule.loss_weight(batch.t) * error
            reconstruction = error.where(self._reconstructs, 0)
            guidance = self._guidance(draw, denoisers)
            prior = torch.zeros_like(error)
            for output in at_photo:
                (reference,) = denoisers.teacher(x_t, batch.t, "photo")
                prior = draw.weight * squared_error(schedule.to_noise(output, x_t, batch.t), reference)
            yield self._sum(reconstruction, guidance, prior, batch.t)

    def _student_text(self, denoisers: BankDenoisers) -> TextState:
        """Each sample's state at its rule's own prompt."""
        parts = [
            denoisers.states(group.rule.student_prompt, denoisers.rows(group.rows).subjects) for group in self._groups
        ]
        if len(parts) == 1:
            return parts[0]
        order = torch.cat([group.rows for group in self._groups if group.rows is not None])
        return TextState.cat(parts)[order.argsort()]

    def _guidance(self, draw: Draw, denoisers: BankDenoisers) -> Float[Tensor, "rows"]:
        """Each sample's loss by its job's rule, one rule after the other."""
        total = torch.zeros(len(draw.t), device=draw.pred.device)
        for group in self._groups:
            if group.rule.reconstructs and group.settings.guidance_weight == 0:
                continue
            loss = group.rule.loss(draw.rows(group.rows), denoisers.rows(group.rows), group.settings)
            total = loss if group.rows is None else total.index_copy(0, group.rows.to(total.device), loss)
        return total

    def _sum(self, reconstruction: Tensor, guidance: Tensor, prior: Tensor, t: Tensor) -> Losses:
        settings = self._settings
        total = reconstruction + self._weight * guidance + settings.prior_weight * prior
        if settings.min_snr is not None:
            total = total * self._base.schedule.min_snr_weight(t, settings.min_snr)
        terms = (total, reconstruction.detach(), guidance.detach(), prior.detach())
        return Losses(*(term.view(len(self._jobs), -1).mean(1) for term in terms))


def draw_of(schedule: NoiseSchedule, batch: Batch, x_t: Tensor, native: Tensor) -> Draw:
    """What rules look at, from the student's native output at x_t."""
    t = batch.t
    a, weight = schedule.a(t), torch.ones(len(t), device=x_t.device)
    if schedule.prediction != "epsilon":  # the reconstruction loss is that of v
        weight = 1 / a.flatten().square().clamp(min=SMALLEST_A2)
    return Draw(
        x0=batch.x0,
        noise=batch.noise,
        fresh_noise=batch.fresh_noise,
        x_t=x_t,
        t=t,
        timesteps=len(schedule),
        a=a,
        s=schedule.s(t),
        weight=weight,
        pred=schedule.to_noise(native, x_t, t),
        x0_pred=schedule.to_x0(native.detach(), x_t, t),
    )


def _groups(jobs: Sequence[Job], settings: TrainSettings) -> list[Group]:
    kinds = [(job.rule, job.guidance) for job in jobs]
    of_kind = {(job.rule, job.guidance): job for job in jobs}
    if len(of_kind) == 1:
        return [Group(find_rule(jobs[0].rule), jobs[0].settings(settings), None)]
    of_row = [kind for kind in kinds for _ in range(settings.batch)]
    return [
        Group(
            find_rule(of_kind[kind].rule),
            of_kind[kind].settings(settings),
            torch.tensor([row for row, other in enumerate(of_row) if other == kind]),
        )
        for kind in sorted(of_kind)
    ]
