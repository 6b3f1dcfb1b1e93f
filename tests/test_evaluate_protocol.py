"""The protocol: who is evaluated, on what, and that nothing evaluated was ever trained or tuned on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from palp.base.icons.grammar import Scene, training_subjects
from palp.base.icons.judges import labels
from palp.errors import InputError
from palp.evaluate.protocol import (
    TARGETS,
    TRANSFER,
    TUNING_SUBJECTS,
    TUNING_TARGETS,
    character,
    class_word,
    clean_prompt,
    file_name,
    learnable,
    photo_prompt,
    renders,
    report_protocol,
    report_subjects,
    target_prompt,
    tuning_protocol,
)
from palp.prompts import make_prompts


def test_subjects_of_reports_are_kept_from_tuning_transfer_and_judges() -> None:
    split = {name: entry["split"] for name, entry in training_subjects().items()}
    assert len(report_subjects()) == 12
    assert {split[name] for name in report_subjects()} == {"report"}
    assert {split[name] for name in (*TUNING_SUBJECTS, *TRANSFER)} == {"train"}
    assert not {*TUNING_SUBJECTS} & {*TRANSFER}
    assert not {*report_subjects()} & {*labels()["subject"]}
    assert not {*TARGETS} & {*TUNING_TARGETS}


def test_targets_have_four_elements_or_more() -> None:
    for target in (*TARGETS, *TUNING_TARGETS):
        extras = [target.weather != "none", target.palette != "none"]
        assert target.style != "photo"
        assert target.place != "plain"
        assert any(extras), target
    assert len({target.place for target in TARGETS}) == len(TARGETS) == 10


@pytest.mark.parametrize("name", report_subjects())
def test_prompts_are_those_that_training_makes_of_the_target(name: str) -> None:
    subject = learnable(name)
    for target in TARGETS:
        prompts = make_prompts([subject], target_prompt(target))["[V]"]
        assert prompts.target == target_prompt(target)
        assert prompts.clean == clean_prompt(target, name)
        assert prompts.personal == photo_prompt()
        assert prompts.photo == photo_prompt(name)
        assert class_word(name) in prompts.clean


def test_pictures_to_learn_from_differ_by_backdrop_and_are_the_same_each_time() -> None:
    pictures: Tensor = learnable("wolf").pictures
    assert pictures.shape == (4, 3, 128, 128)
    assert torch.equal(pictures, learnable("wolf").pictures)
    corners = pictures[:, :, :4, :4].mean((2, 3))
    assert torch.unique(corners, dim=0).shape[0] == 4
    assert not torch.equal(pictures, learnable("raccoon").pictures)


def test_renders_are_of_the_scene_in_several_layouts() -> None:
    pictures = renders(Scene("wolf", "oil", "beach"), (0, 1, 2))
    assert pictures.shape == (3, 3, 128, 128)
    assert not torch.equal(pictures[0], pictures[1])


def test_every_target_has_another_one_of_its_own() -> None:
    protocol = report_protocol(2, 5, 1)
    others = [protocol.other(target) for target in protocol.targets]
    assert sorted(map(str, others)) == sorted(map(str, protocol.targets))
    assert all(other != target for other, target in zip(others, protocol.targets, strict=True))


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(InputError, match="13 subjects were asked for, and there are 12"):
        report_protocol(subjects=13)
    with pytest.raises(InputError, match="5 prompts were asked for, and there are 4"):
        tuning_protocol(prompts=5)
    with pytest.raises(InputError, match="at least one subject, two prompts"):
        report_protocol(prompts=1)


def test_a_character_is_found_by_its_name_as_a_file() -> None:
    names = list(training_subjects())
    assert any(" " in name for name in names)
    assert [character(file_name(name)) for name in names] == names
    assert not any(" " in file_name(name) for name in names)
