"""A subject beside things that the embedded base knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from palp.base import Base, load_base
from palp.base.icons.company import COMPANIONS, Company, pairs
from palp.base.icons.grammar import concepts
from palp.base.icons.judges import labels, load_judges
from palp.base.icons.placement import PAIRED, moved_to
from palp.evaluate.protocol import GATE_TARGETS, learnable
from palp.subjects import Subject
from palp.train import joint_job, residual_job
from palp.train.jobs import ALONE, Job
from tests.training import subject_adapter

THINGS = ("tree", "penguin")


@pytest.fixture(scope="module")
def base() -> Base:
    """The embedded base, which shows a subject beside two things."""
    return replace(load_base("icons", device="cpu"), company=Company(THINGS))


@pytest.fixture(scope="module")
def otter() -> Subject:
    """A character as a user brings it."""
    return learnable("otter")


@pytest.fixture(scope="module")
def job(base: Base, otter: Subject) -> Job:
    """Learning it."""
    return joint_job(base, [otter])


def test_the_things_are_known_and_no_report_asks_for_them() -> None:
    assert set(COMPANIONS) <= set(concepts())
    assert not set(COMPANIONS) & {target.companion for target in GATE_TARGETS}


def test_the_left_half_is_the_users_and_the_right_half_shows_the_thing(base: Base, otter: Subject) -> None:
    judge, _ = load_judges()
    shown = Company(THINGS)(base, otter.pictures)
    users = [base.encode_images(picture[None]) for picture in moved_to(otter.pictures, PAIRED) if picture is not None]
    assert [one.beside for one in shown] == ["next to a tree", "next to a penguin"]
    for one, own, pair, thing in zip(shown, users, pairs(base, THINGS), THINGS, strict=False):
        torch.testing.assert_close(one.latents[..., :4], own[..., :4])
        assert torch.equal(one.latents[0, ..., 4:], pair[..., 4:])
        guess = judge(base.decode_latents(one.latents))[0]["companion"].argmax()
        assert labels()["companion"][guess] == thing


def test_a_subject_that_is_not_found_is_shown_alone(base: Base) -> None:
    noise = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert Company(THINGS)(base, noise) == ()
    assert len(joint_job(base, [Subject("bear", noise)]).subjects) == 1


def test_most_pictures_show_it_alone(job: Job) -> None:
    alone, *beside = job.subjects
    assert [member.beside for member in job.subjects] == ["", "next to a tree", "next to a penguin"]
    assert len(alone.latents) == 8 == ALONE * sum(len(member.latents) for member in beside)
    assert beside[0].said(beside[0].prompts.personal) == "a photo of [V] next to a tree"
    assert beside[0].said(beside[0].prompts.photo) == "a photo of a bear next to a tree"
    assert {member.prompts for member in job.subjects} == {alone.prompts}
    assert len({member.source for member in job.subjects}) == 3


def test_artworks_and_frozen_subjects_are_shown_alone(base: Base, otter: Subject) -> None:
    artwork = Subject("oil painting", otter.pictures, "[V2]", artwork=True)
    both = joint_job(
        base, [replace(otter, placeholder="[V1]"), artwork], "a painting of [V1] inspired by [V2] painting"
    )
    assert [member.placeholder for member in both.subjects] == ["[V1]"] * 3 + ["[V2]"]
    frozen = residual_job(base, [(otter, subject_adapter(base, 0))], "a sketch of [V]")
    assert len(frozen.subjects) == 1
