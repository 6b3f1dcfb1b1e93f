"""The relay: each job as if it were alone, exact resumption, early ends, and failures that hurt nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from palp.base import Base
from palp.errors import InputError
from palp.subjects import Subject
from palp.train import Exams, Finished, Job, Relay, Trainer, TrainSettings, residual_job
from tests.training import pictures, settings, subject_adapter, tensors_of, trained

ALONE: dict[str, Any] = {"rtol": 0, "atol": 2e-4}
"""A batch of another size goes through other kernels; see tests/test_train.py."""
PROMPTS = ("a sketch of [V]", "a photo of [V] to", "a cat of [V]", "[V] to a cap", "a cap of [V]")


@pytest.fixture(scope="module")
def queue(base: Base) -> list[Job]:
    """Five prompts over the same two subjects, all of one seed."""
    pairs = [(Subject(word, pictures(i)), subject_adapter(base, i)) for i, word in enumerate(("cat", "cap"))]
    first = [residual_job(base, pairs, prompt, seed=3, name=prompt) for prompt in PROMPTS]
    latents = [subject.latents for subject in first[0].subjects]
    return [
        replace(job, subjects=tuple(replace(s, latents=x) for s, x in zip(job.subjects, latents, strict=True)))
        for job in first
    ]


@pytest.fixture(scope="module")
def exams(base: Base) -> list[Job]:
    """The same prompts over a subject that is in no job."""
    pairs = [(Subject("photo", pictures(9)), subject_adapter(base, 9))]
    return [residual_job(base, pairs, prompt, seed=77, name=prompt) for prompt in PROMPTS]


def finished(relay: Relay) -> dict[int, Finished]:
    return {done.number: done for lap in relay.run() for done in lap.finished}


def how(**changes: Any) -> TrainSettings:
    return settings(**{"steps": 4, "schedule": "cosine", "warmup": 1, **changes})


def test_refilled_slots_are_as_each_job_alone(base: Base, queue: list[Job]) -> None:
    done = finished(Relay(base, queue, how(), slots=2, every=2))
    assert sorted(done) == [0, 1, 2, 3, 4]
    for number, job in enumerate(queue):
        (alone,) = trained(base, [job], how()).adapters()
        assert done[number].adapter.metadata == alone.metadata
        assert all(up.abs().max() > 0 for up in alone.up.values())
        for name, tensor in tensors_of(alone).items():
            torch.testing.assert_close(tensors_of(done[number].adapter)[name], tensor, **ALONE, msg=name)


def test_all_jobs_of_a_seed_begin_at_one_point(base: Base, queue: list[Job]) -> None:
    trainer = Trainer(base, queue[:2], how())
    next(trainer.run())
    trainer.refill(1, queue[4])
    start = Trainer(base, [queue[0]], how()).bank.read(0)
    for site, down in trainer.bank.read(1).down.items():
        assert torch.equal(down, start.down[site])
    assert trainer.steps.tolist() == [1, 0]


@pytest.mark.parametrize("killed_after", [1, 4, 6, 10])
def test_resumed_bit_for_bit(base: Base, queue: list[Job], exams: list[Job], killed_after: int) -> None:
    def relay() -> Relay:
        return Relay(base, queue, how(), 2, 2, Exams(exams, batch=3, patience=9))

    whole = finished(relay())
    first, got = relay(), dict[int, Finished]()
    for lap in first.run():
        got |= {done.number: done for done in lap.finished}
        if lap.step.number + 1 == killed_after:
            break
    second = relay()
    second.load_state_dict(first.state_dict())
    names = [[job.name for job in relay.trainer.jobs] for relay in (first, second)]
    assert names[0] == names[1], "an empty slot's last job stays in the batch"
    got |= finished(second)
    assert sorted(got) == sorted(whole)
    for number, done in whole.items():
        assert (done.before, done.after, done.steps) == (got[number].before, got[number].after, got[number].steps)
        for name, tensor in tensors_of(done.adapter).items():
            assert torch.equal(tensors_of(got[number].adapter)[name], tensor), name


def test_exams_end_jobs_and_the_best_adapter_is_taken(base: Base, queue: list[Job], exams: list[Job]) -> None:
    patient = finished(Relay(base, queue, how(steps=8), 2, 2, Exams(exams, batch=3, patience=1, min_delta=0.9)))
    assert {done.steps for done in patient.values()} <= {2, 4}, "no exam is ten times better than the one before"
    stubborn = finished(Relay(base, queue, how(steps=8), 2, 2, Exams(exams, batch=3, patience=9)))
    for number, done in patient.items():
        assert stubborn[number].after <= done.after, "the best of more exams of the same training"


def test_a_failed_job_gives_its_slot_away_and_changes_nobody(base: Base, queue: list[Job]) -> None:
    def with_pictures(factor: float) -> dict[int, Finished]:
        """The second job has pictures of its own, so that it asks as much whether it fails or not."""
        odd = replace(queue[1].subjects[0], latents=queue[1].subjects[0].latents * factor)
        jobs = [queue[0], replace(queue[1], subjects=(odd, *queue[1].subjects[1:])), *queue[2:]]
        relay, done = Relay(base, jobs, how(batch=6), slots=2, every=2), dict[int, Finished]()
        for lap in relay.run():
            done |= {one.number: one for one in lap.finished}
            if lap.step.number == 0:
                after_a_step.append(tensors_of(relay.trainer.bank.read(0)))
        return done

    after_a_step: list[dict[str, torch.Tensor]] = []
    done, whole = with_pictures(float("nan")), with_pictures(0.5)
    beside_nan, beside_healthy = after_a_step
    for name, tensor in beside_healthy.items():
        assert torch.equal(beside_nan[name], tensor), name
    assert done[1].failed_at == 0
    assert [done[n].failed_at for n in (0, 2, 3, 4)] == [-1] * 4
    for number in (0, 2, 3, 4):  # to rounding: a slot given away earlier makes other batches, whose kernels may differ
        for name, tensor in tensors_of(whole[number].adapter).items():
            torch.testing.assert_close(tensors_of(done[number].adapter)[name], tensor, **ALONE, msg=name)


def test_refused(base: Base, queue: list[Job]) -> None:
    with pytest.raises(InputError, match="do not divide 4 steps"):
        Relay(base, queue, how(), 2, 3)
    stranger = residual_job(base, [(Subject("cat", pictures(1)), subject_adapter(base, 8))], PROMPTS[0])
    with pytest.raises(InputError, match="frozen subjects of the first jobs"):
        Trainer(base, queue[:2], how()).refill(0, stranger)
    with pytest.raises(InputError, match="another number of slots"):
        Relay(base, queue, how(), 2, 2).load_state_dict(Relay(base, queue, how(), 3, 2).state_dict())
