"""The losses of a training step against a slow twin: one sample, one branch at a time, merged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palp.base import Base, TextState
from palp.guidance import Prompt
from palp.prompts import NEGATIVE
from palp.train import Job, Trainer, TrainSettings
from palp.train.draws import Pictures
from tests.adapters import merged, random_adapter
from tests.tiny import Kind, tiny_base
from tests.training import JOINT_RULES, joint, residual, settings, subject_adapter

CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}  # float32, other kernels, times guidance scales of 4


class Twin:
    """One sample of one job, by the formulas; the student's weights are merged."""

    def __init__(self, trainer: Trainer, slot: int, subject: int) -> None:
        self.base, self.how = trainer.base, trainer.jobs[slot].settings(trainer.settings)
        job, adapter = trainer.jobs[slot], trainer.adapters()[slot]
        member = job.subjects[subject]
        words = member.adapter.placeholders if member.adapter else adapter.placeholders
        texts = {"null": "", "negative": NEGATIVE, **vars(member.prompts)}
        self.states = {name: self.base.encode_prompts([text], words) for name, text in texts.items()}
        teacher = self.base.unet if member.adapter is None else merged(self.base.unet, member.adapter)
        self.teacher = replace(self.base, unet=teacher)
        self.student = replace(self.base, unet=merged(teacher, adapter))

    def noise(self, model: Base, x_t: Tensor, prompt: Prompt) -> Tensor:
        native = self.native(model, x_t, self.states[prompt])
        return native if self.base.schedule.prediction == "epsilon" else self.a * native + self.s * x_t

    def native(self, model: Base, x_t: Tensor, text: TextState) -> Tensor:
        return model.predict(x_t[None], self.t[None], text)[0]

    def cfg(self, model: Base, x_t: Tensor, prompt: Prompt, scale: float) -> Tensor:
        return (1 - scale) * self.noise(model, x_t, "null") + scale * self.noise(model, x_t, prompt)

    def losses(self, rule: str, x0: Tensor, noise: Tensor, fresh: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Reconstruction, guidance, prior and total of this sample."""
        self.t, bar = t, self.base.schedule.alphas_cumprod[t]
        self.a, self.s = bar.sqrt(), (1 - bar).sqrt()
        v_model = self.base.schedule.prediction == "v_prediction"
        w = 1 / bar if v_model else torch.tensor(1.0)
        x_t = self.a * x0 + self.s * noise
        goal = self.a * noise - self.s * x0 if v_model else noise
        native = self.native(self.student, x_t, self.states["personal"])
        reconstruction = (native - goal).square().mean()
        prior = self.native(self.student, x_t, self.states["photo"]) - self.native(
            self.teacher, x_t, self.states["photo"]
        )
        guidance = w * self.guidance(rule, x_t, noise, fresh)
        if rule == "composed":
            reconstruction = torch.tensor(0.0)
        weight = 1.0 if rule == "composed" else self.how.guidance_weight
        total = reconstruction + weight * guidance + self.how.prior_weight * prior.square().mean()
        if self.how.min_snr is not None:
            snr = bar / (1 - bar)
            total = total * snr.clamp(max=self.how.min_snr) / (snr + 1 if v_model else snr)
        return reconstruction, guidance, prior.square().mean(), total

    def guidance(self, rule: str, x_t: Tensor, noise: Tensor, fresh: Tensor) -> Tensor:
        """The rule's loss without w."""
        if rule == "composed":
            change = self.noise(self.base, x_t, "clean") - self.noise(self.base, x_t, "photo")
            goal = self.noise(self.teacher, x_t, "personal") + self.how.gamma * change
            return (self.noise(self.student, x_t, "target") - goal).square().mean()
        pred = self.noise(self.student, x_t, "personal")
        x0_hat = (x_t - self.s * pred) / self.a
        x_hat = self.a * x0_hat + self.s * (fresh if rule == "palp_fresh_noise" else noise)
        toward = self.cfg(self.base, x_hat, "clean", self.how.alpha)
        if rule == "none":
            d = torch.zeros_like(pred)
        elif rule == "sds":
            d = toward - noise
        elif rule == "nfsd":
            null = self.noise(self.base, x_hat, "null")
            negative = torch.zeros_like(null) if self.t < 200 else self.noise(self.base, x_hat, "negative")
            d = null - negative + self.how.alpha * (self.noise(self.base, x_hat, "clean") - null)
        else:
            d = toward - self.cfg(self.student, x_hat, "personal", self.how.beta)
        stretch = self.s / self.a if rule == "palp_no_rescale" else 1.0
        return -(stretch * d * pred).mean()


def with_random_bank(base: Base, jobs: list[Job], how: TrainSettings) -> Trainer:
    """A trainer whose adapters are no longer at their start, where B = 0."""
    trainer = Trainer(base, jobs, how)
    for slot in range(len(jobs)):
        trainer.bank.write(slot, random_adapter(trainer.bank.spec, 100 + slot).scaled(0.3))
    return trainer


@torch.no_grad()
def slow_losses(trainer: Trainer) -> Tensor:
    """[terms slots]: means of the twin's losses over the samples of the first step."""
    batch = Pictures(trainer.jobs, trainer.base.schedule, trainer.settings).draw([0] * len(trainer.jobs))
    rows = []
    first = 0
    for slot, job in enumerate(trainer.jobs):
        for row in range(slot * trainer.settings.batch, (slot + 1) * trainer.settings.batch):
            twin = Twin(trainer, slot, int(batch.subjects[row]) - first)
            sample = (batch.x0[row], batch.noise[row], batch.fresh_noise[row], batch.t[row])
            rows.append(torch.stack(twin.losses(job.rule, *sample)))
        first += len(job.subjects)
    return torch.stack(rows, 1).view(4, len(trainer.jobs), -1).mean(2)


def check(trainer: Trainer) -> None:
    expected = slow_losses(trainer)
    losses = next(trainer.run()).losses
    got = torch.stack([losses.reconstruction, losses.guidance, losses.prior, losses.loss])
    torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("kind", ["sd1", "sd2-v", "sdxl"])
def test_joint_rules_side_by_side(kind: Kind) -> None:
    jobs = [joint(tiny_base(kind), seed, rule) for seed, rule in enumerate(JOINT_RULES)]
    jobs.append(replace(jobs[0], guidance=(("alpha", 2.0), ("guidance_weight", 0.7))))
    jobs.append(replace(jobs[0], guidance=(("guidance_weight", 0.0),)))
    how = settings(prior_weight=0.5, min_snr=3.0, t_max=0.9, guidance_weight=0.3)
    check(with_random_bank(tiny_base(kind), jobs, how))


@pytest.mark.parametrize("kind", ["sd1", "sd2-v"])
def test_residual_rules_with_several_subjects(kind: Kind) -> None:
    jobs = [residual(tiny_base(kind), seed, rule, subjects=3) for seed, rule in enumerate(("composed", "palp"))]
    jobs.append(replace(jobs[0], guidance=(("gamma", 0.5),)))
    how = settings(batch=4, prior_weight=0.5, t_max=0.9, guidance_weight=0.3)
    check(with_random_bank(tiny_base(kind), jobs, how))


@contextmanager
def calls_of(unet: nn.Module) -> Iterator[list[tuple[int, bool]]]:
    """Samples and whether gradients are on, of every call of the denoiser."""
    calls: list[tuple[int, bool]] = []
    hook = unet.register_forward_pre_hook(lambda _, x: calls.append((len(x[0]), torch.is_grad_enabled())))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("rule", "changes", "calls"),
    [
        ("palp", {}, [(4, True), (8, False), (8, False)]),
        ("palp", {"beta": 1.0}, [(4, True), (8, False), (4, False)]),
        ("palp", {"guidance_weight": 0.0}, [(4, True)]),
        ("palp", {"prior_weight": 1.0}, [(8, True), (8, False), (8, False), (4, False)]),
        ("none", {}, [(4, True)]),
    ],
)
def test_calls_of_the_denoiser(rule: str, changes: dict[str, Any], calls: list[tuple[int, bool]]) -> None:
    """One call with gradients, one for the base's branches, one for the student's, for all jobs at once."""
    base = tiny_base("sd1")
    trainer = Trainer(base, [joint(base, 0, rule), joint(base, 1, rule)], settings(**changes))
    with calls_of(base.unet) as seen:
        next(trainer.run())
    assert seen == calls


def test_subject_adapters_and_base_stay_as_they_are() -> None:
    base = tiny_base("sd1")
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    job = residual(base)
    for _ in Trainer(base, [job], settings()).run():
        pass
    assert all(torch.equal(weight, before[name]) for name, weight in base.unet.state_dict().items())
    assert not any(layer._forward_hooks for layer in base.unet.modules())
    for i, subject in enumerate(job.subjects):
        assert subject.adapter is not None
        fresh = subject_adapter(base, i)
        assert all(torch.equal(subject.adapter.up[site], fresh.up[site]) for site in fresh.up)
