"""The trainer: independence of the jobs, non-finite losses, exact resumption, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palp.adapter import Adapter
from palp.base import Base, TextState
from palp.errors import InputError, NonFiniteLossError
from palp.subjects import Subject
from palp.train import Job, Trainer, joint_job, residual_job
from palp.train.draws import Pictures
from tests.tiny import tiny_base
from tests.training import joint, pictures, residual, settings, subject_adapter, tensors_of, trained

ALONE: dict[str, Any] = {"rtol": 0, "atol": 2e-4}
"""A batch of another size goes through other kernels; AdamW then turns a gradient of nearly nothing, of which
rounding is a good part, into a good part of a step of 1e-2."""


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("sd1")


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def assert_learned(adapter: Adapter) -> None:
    assert all(up.abs().max() > 0 for up in adapter.up.values())


@pytest.mark.parametrize("form", ["joint", "residual"])
def test_jobs_together_are_as_jobs_alone(base: Base, form: str) -> None:
    if form == "joint":
        jobs = [joint(base, 0), joint(base, 1, "sds", "photo"), joint(base, 2, "none")]
    else:
        jobs = [residual(base, 0), residual(base, 1, "palp", 3)]
    together = trained(base, jobs, settings()).adapters()
    for job, adapter in zip(jobs, together, strict=True):
        (alone,) = trained(base, [job], settings()).adapters()
        assert_learned(alone)
        expected = tensors_of(alone)
        assert tensors_of(adapter).keys() == expected.keys()
        for name, tensor in tensors_of(adapter).items():
            torch.testing.assert_close(tensor, expected[name], **ALONE, msg=name)
        assert adapter.metadata == alone.metadata


def test_a_job_with_guidance_of_its_own_is_as_one_with_these_settings(base: Base) -> None:
    own = replace(joint(base), guidance=(("alpha", 3.0), ("guidance_weight", 0.5)))
    together = trained(base, [joint(base), own], settings()).adapters()[1]
    (alone,) = trained(base, [joint(base)], settings(alpha=3.0, guidance_weight=0.5)).adapters()
    for name, tensor in tensors_of(alone).items():
        torch.testing.assert_close(tensors_of(together)[name], tensor, **ALONE, msg=name)
    assert together.metadata == alone.metadata


def test_draws_depend_on_seed_and_step_alone(base: Base) -> None:
    jobs = [joint(base, 3), joint(base, 5)]
    both = Pictures(jobs, base.schedule, settings(batch=4))
    alone = Pictures(jobs[1:], base.schedule, settings(batch=4))
    for name in ("x0", "noise", "fresh_noise", "t"):
        assert torch.equal(getattr(both.draw([2, 7]), name)[4:], getattr(alone.draw([7]), name)), name
    batch = both.draw([7, 7])
    assert not torch.equal(batch.noise, both.draw([8, 8]).noise)
    assert not torch.equal(batch.noise[:4], batch.noise[4:])
    assert not torch.equal(batch.noise, batch.fresh_noise)


def test_timesteps_and_pictures_are_drawn_evenly(base: Base) -> None:
    late = Pictures([joint(base, 0)], base.schedule, settings(t_min=0.9999)).draw([0]).t
    assert set(late.tolist()) == {len(base.schedule) - 1}
    source = Pictures([joint(base, 0)], base.schedule, settings(batch=3000, t_min=0.2, t_max=0.5))
    batch = source.draw([0])
    assert (int(batch.t.min()), int(batch.t.max())) == (200, 499)
    counts = torch.bincount(batch.t // 100)
    assert (counts[2:] - 1000).abs().max() <= 1
    _, pictures_drawn = torch.unique(batch.x0, dim=0, return_counts=True)
    assert len(pictures_drawn) == 3
    assert (pictures_drawn - 1000).abs().max() <= 1


def test_the_samples_of_a_step_are_spread_over_timesteps_and_pictures(base: Base) -> None:
    source, quarter = Pictures([joint(base, 0)], base.schedule, settings(batch=4)), len(base.schedule) // 4
    batches = [source.draw([step]) for step in range(400)]
    for batch in batches:
        assert sorted((batch.t // quarter).tolist()) == [0, 1, 2, 3]
        assert len(torch.unique(batch.x0, dim=0)) == 3
    first = torch.stack([batch.t[0] for batch in batches])  # of each step: as even as if it were drawn alone
    assert (torch.bincount(first // quarter, minlength=4) - 100).abs().max() < 40
    assert len(first.unique()) > 300


def test_a_job_that_is_not_finite_leaves_the_others_bit_for_bit(base: Base) -> None:
    jobs = [joint(base, 0), joint(base, 1), joint(base, 2)]
    undisturbed = trained(base, jobs, settings(steps=5)).adapters()
    trainer = Trainer(base, jobs, settings(steps=5))
    active = []
    with pytest.raises(NonFiniteLossError) as caught:
        for step in trainer.run():
            active.append(step.active.tolist())
            if step.number == 1:
                with torch.no_grad():
                    next(iter(trainer.bank.up.values()))[1] = float("nan")
    assert (caught.value.step, caught.value.slot) == (2, 1)
    assert active == [[True] * 3] * 2 + [[True, False, True]] * 3
    for slot in (0, 2):
        assert_equal(tensors_of(trainer.adapters()[slot]), tensors_of(undisturbed[slot]))
    assert [a.metadata["steps"] for a in trainer.adapters()] == ["5", "2", "5"]


def test_a_failed_job_leaves_those_that_share_its_questions_bit_for_bit(base: Base) -> None:
    """Of one seed, and over the same subjects: what the frozen models are asked is shared, and stays so."""
    jobs = same_subjects(base, "a sketch of [V]", "a photo of [V] to a cat", "a cat to [V]")
    undisturbed = trained(base, jobs, settings(steps=4)).adapters()
    trainer = Trainer(base, jobs, settings(steps=4))
    with pytest.raises(NonFiniteLossError):
        for step in trainer.run():
            if step.number == 0:
                with torch.no_grad():
                    next(iter(trainer.bank.up.values()))[1] = float("nan")
    for slot in (0, 2):
        assert_equal(tensors_of(trainer.adapters()[slot]), tensors_of(undisturbed[slot]))


def test_frozen_models_are_asked_each_distinct_question_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = same_subjects(base, "a sketch of [V]", "a photo of [V] to a cat", "a cat to [V]")
    asked: list[int] = []
    predict_noise = type(base).predict_noise

    def counting(self: Base, x_t: Tensor, t: Tensor, text: TextState) -> Tensor:
        asked.append(len(x_t))
        return predict_noise(self, x_t, t, text)

    monkeypatch.setattr(type(base), "predict_noise", counting)
    together = trained(base, jobs, settings(steps=1, batch=4)).adapters()
    assert asked == [4, 3 * 4 + 4], "y_P and the photo prompt once for all jobs, y_c of every job"
    for job, adapter in zip(jobs, together, strict=True):
        expected = tensors_of(trained(base, [job], settings(steps=1, batch=4)).adapters()[0])
        for name, tensor in tensors_of(adapter).items():
            torch.testing.assert_close(tensor, expected[name], **ALONE, msg=name)


def same_subjects(base: Base, *prompts: str) -> list[Job]:
    """Jobs of one seed that differ in their prompts alone."""
    pairs = [(Subject("cat", pictures(10 + i)), subject_adapter(base, i)) for i in range(2)]
    return [residual_job(base, pairs, prompt, rule="composed") for prompt in prompts]


def test_pictures_that_are_not_finite_stop_in_the_first_step_and_change_nothing(base: Base) -> None:
    job = joint(base, 0)
    bad = replace(job, subjects=(replace(job.subjects[0], latents=job.subjects[0].latents * float("nan")),))
    trainer = Trainer(base, [bad], settings())
    start = tensors_of(trainer.adapters()[0])
    with pytest.raises(NonFiniteLossError, match="slot 0 was not finite in step 0"):
        list(trainer.run())
    assert trainer.step == 1, "with nobody left the loop ends"
    assert_equal(tensors_of(trainer.adapters()[0]), start)


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
@pytest.mark.parametrize("form", ["joint", "residual"])
def test_resumed_bit_for_bit(base: Base, form: str, optimizer: str, tmp_path: Path) -> None:
    make = joint if form == "joint" else residual
    jobs = [make(base, 0), make(base, 1)]
    how = settings(steps=5, optimizer=optimizer, schedule="cosine", warmup=2)
    killed_after = int(torch.randint(1, 5, ()))
    first = Trainer(base, jobs, how)
    for step in first.run():
        if step.number + 1 == killed_after:
            first.save(tmp_path / "run.safetensors")
            break
    second = Trainer(base, jobs, how)
    second.load(tmp_path / "run.safetensors")
    assert second.step == killed_after
    for _ in second.run():
        pass
    assert_equal(second.state_dict(), trained(base, jobs, how).state_dict())


def test_a_stopped_job_stays_stopped(base: Base, tmp_path: Path) -> None:
    jobs = [joint(base, 0), joint(base, 1)]
    first = Trainer(base, jobs, settings())
    with torch.no_grad():
        next(iter(first.bank.up.values()))[0] = float("inf")
    next(first.run())
    first.save(tmp_path / "run.safetensors")
    second = Trainer(base, jobs, settings())
    second.load(tmp_path / "run.safetensors")
    with pytest.raises(NonFiniteLossError, match="slot 0 was not finite in step 0"):
        list(second.run())
    assert second.step == 3


def test_checkpoints_of_other_runs_are_refused(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    Trainer(base, [joint(base, 0)], settings()).save(path)
    with pytest.raises(InputError, match="other settings"):
        Trainer(base, [joint(base, 0)], settings(steps=9)).load(path)
    with pytest.raises(InputError, match="other jobs"):
        Trainer(base, [joint(base, 0, "sds")], settings()).load(path)
    with pytest.raises(InputError, match="no checkpoint"):
        Trainer(base, [joint(base, 0)], settings()).load(tmp_path / "missing")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a whole checkpoint"):
        Trainer(base, [joint(base, 0)], settings()).load(path)


@pytest.mark.parametrize("rule", ["none", "palp"])
def test_training_lowers_the_reconstruction_loss(base: Base, rule: str) -> None:
    """On the same pictures, timesteps and noise as an untrained adapter sees."""
    how = settings(steps=24, guidance_weight=0.02)
    losses = {}
    for name, lr in (("trained", 2e-2), ("untrained", 1e-9)):
        trainer = Trainer(base, [joint(base, 0, rule)], replace(how, lr=lr, lr_placeholder=lr))
        losses[name] = torch.stack([step.losses.reconstruction for step in trainer.run()])[14:].mean()
    assert losses["trained"] < 0.9 * losses["untrained"]


def test_the_prior_keeps_the_photo_prompt(base: Base) -> None:
    drift = {}
    for weight in (1e-6, 30.0):
        trainer = Trainer(base, [joint(base, 0, "none")], settings(steps=12, prior_weight=weight))
        drift[weight] = torch.stack([step.losses.prior for step in trainer.run()])[6:].mean()
    assert drift[30.0] < 0.3 * drift[1e-6]


def test_composed_lowers_its_own_loss(base: Base) -> None:
    trainer = Trainer(base, [residual(base)], settings(steps=24))
    untrained = Trainer(base, [residual(base)], settings(steps=24, lr=1e-9))
    ends = [torch.stack([s.losses.guidance for s in t.run()])[14:].mean() for t in (trainer, untrained)]
    assert ends[0] < 0.8 * ends[1]


def two_subjects(base: Base, artwork: bool) -> Job:
    second = Subject("sketch" if artwork else "photo", pictures(2, 1), "[V2]", artwork)
    prompt = "a sketch of [V1]" if artwork else "[V1] to [V2]"
    return joint_job(base, [Subject("cat", pictures(1), "[V1]"), second], prompt)


@pytest.mark.parametrize("artwork", [False, True])
def test_two_subjects_of_one_job_learn_their_own_words(base: Base, artwork: bool) -> None:
    job = two_subjects(base, artwork)
    assert [s.prompts.personal for s in job.subjects] == [
        "a photo of [V1]",
        "a sketch of [V2]" if artwork else "a photo of [V2]",
    ]
    (adapter,) = trained(base, [job], settings(batch=8)).adapters()
    assert set(adapter.placeholders) == {"[V1]", "[V2]"}
    for word, class_word in (("[V1]", "cat"), ("[V2]", job.subjects[1].class_word)):
        for name, start in base.word_embedding(class_word).items():
            assert not torch.allclose(adapter.placeholders[word][name][0], start, rtol=0, atol=1e-3)
    assert adapter.metadata["clean_prompt"] == ("a sketch of a cat" if artwork else "a cat to a photo")


def test_a_word_that_is_not_drawn_stays(base: Base) -> None:
    """One picture a step: the other subject's word gets no gradient, whatever jobs share the bank."""
    job = two_subjects(base, artwork=False)
    trainer = Trainer(base, [job, joint(base, 1)], settings(batch=1, steps=1))
    drawn = int(Pictures([job], base.schedule, trainer.settings).draw([0]).subjects[0])
    list(trainer.run())
    words = trainer.adapters()[0].placeholders
    other = job.subjects[1 - drawn]
    assert torch.equal(
        words[other.placeholder]["text_encoder"][0], base.word_embedding(other.class_word)["text_encoder"]
    )
    assert set(trainer.adapters()[1].placeholders) == {"[V]"}


def test_gradient_checkpointing_changes_nothing(base: Base) -> None:
    for make in (joint, residual):
        plain = trained(base, [make(base, 0), make(base, 1)], settings()).state_dict()
        saving = trained(base, [make(base, 0), make(base, 1)], settings(gradient_checkpointing=True))
        for name, tensor in saving.state_dict().items():
            torch.testing.assert_close(tensor, plain[name], rtol=1e-4, atol=1e-5, msg=name)
        assert not base.unet.is_gradient_checkpointing


def test_adapters_say_how_they_were_made_and_survive_their_file(base: Base, tmp_path: Path) -> None:
    trainer = trained(base, [joint(base, 4, name="mimi")], settings(dtype="bfloat16", vectors=2))
    (adapter,) = trainer.adapters()
    expected = {
        "name": "mimi",
        "class_word": "cat",
        "prompt": "a sketch of [V] to a photo",
        "clean_prompt": "a sketch of a cat to a photo",
        "personal_prompt": "a photo of [V]",
        "form": "joint",
        "rule": "palp",
        "seed": "4",
        "steps": "3",
    }
    assert {key: adapter.metadata[key] for key in expected} == expected
    assert json.loads(adapter.metadata["settings"]) == trainer.settings.to_mapping()
    assert adapter.placeholders["[V]"]["text_encoder"].shape == (2, 32)
    adapter.save(tmp_path / "a.safetensors")
    again = Adapter.load(tmp_path / "a.safetensors")
    assert again.spec == adapter.spec
    assert again.metadata == adapter.metadata
    assert_equal(tensors_of(again), tensors_of(adapter))
    again.check(base.fingerprint, base.sites())


def test_a_job_is_known_by_its_pictures_on_a_machine_that_rounds_otherwise(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(number: int, *, flip: bool = False, brighter: float = 0.0) -> Job:
        return joint_job(base, [Subject("cat", (pictures(number) + brighter).clamp(-1, 1))], flip=flip)

    own, others = job(0), [job(1), job(0, flip=True), job(0, brighter=1e-3)]
    encode = base.encode_images
    monkeypatch.setattr(Base, "encode_images", lambda self, images: encode(images) * (1 + 1e-6))
    again = job(0)
    assert not torch.equal(own.subjects[0].latents, again.subjects[0].latents)
    assert own.content_hash == again.content_hash
    assert len({job.content_hash for job in (own, *others)}) == 4
    mixed = replace(own, subjects=(replace(own.subjects[0], source=""),))
    assert mixed.content_hash != replace(again, subjects=(replace(again.subjects[0], source=""),)).content_hash


def test_same_seed_same_start(base: Base) -> None:
    """Jobs of one seed share A and all draws; so do those of another trainer."""
    bank = Trainer(base, [joint(base, 1), replace(joint(base, 2), seed=1)], settings()).bank
    assert torch.equal(*(torch.cat([d[slot] for d in bank.down.values()], 1) for slot in (0, 1)))


def test_refused(base: Base) -> None:
    with pytest.raises(InputError, match="at least one"):
        Trainer(base, [], settings())
    with pytest.raises(InputError, match="of one form"):
        Trainer(base, [joint(base), residual(base)], settings())
    with pytest.raises(InputError, match="frozen subject adapter"):
        joint(base, rule="composed")
    with pytest.raises(InputError, match="no guidance rule 'dds'"):
        joint(base, rule="dds")
    with pytest.raises(InputError, match="from 0 to below 2"):
        replace(joint(base), seed=-1)
    with pytest.raises(InputError, match="'rank' of job 'job' is no setting of its own"):
        replace(joint(base), guidance=(("rank", 4.0),))
    with pytest.raises(InputError, match="alpha is nan"):
        trained(base, [replace(joint(base), guidance=(("alpha", float("nan")),))], settings())
    with pytest.raises(InputError, match="1 with an adapter"):
        replace(joint(base), subjects=(*joint(base).subjects, *residual(base, subjects=1).subjects))
    with pytest.raises(InputError, match="float16"):
        Trainer(replace(base, dtype=torch.float16), [joint(base)], settings())


def test_subjects_that_are_weaker_are_as_if_their_adapters_were(base: Base) -> None:
    job = residual(base, 0)
    scaled = [replace(s, adapter=None if s.adapter is None else s.adapter.scaled(0.5)) for s in job.subjects]
    weaker = trained(base, [job], settings(subject_scale=0.5)).adapters()[0]
    expected = trained(base, [replace(job, subjects=tuple(scaled))], settings()).adapters()[0]
    whole = trained(base, [job], settings()).adapters()[0]
    assert_equal(tensors_of(weaker), tensors_of(expected))
    assert any(not torch.equal(tensor, tensors_of(whole)[name]) for name, tensor in tensors_of(weaker).items())
    assert (weaker.metadata["subject_scale"], whole.metadata["subject_scale"]) == ("0.5", "1")
