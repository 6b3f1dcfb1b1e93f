"""Gate 0: its rows, the line that scaling draws, and the pairs on which the subject's adapter fails."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from palp.evaluate.gate import GATE_METHODS, failing, paired, share_of_pairs, write_gate
from palp.evaluate.methods import Cell
from palp.evaluate.protocol import (
    GATE_TARGETS,
    TARGETS,
    TRANSFER,
    TUNING_TARGETS,
    Protocol,
    gate_protocol,
    report_subjects,
)
from palp.evaluate.report import SCALING, Files
from palp.evaluate.scaling_line import above_line
from palp.evaluate.study import Study
from palp.prompt_pictures import clean_latents
from tests.worlds import study, world_base


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(world_base(), tmp_path_factory.mktemp("gate"))


def test_no_prompt_is_asked_twice_and_no_teacher_is_a_subject_of_the_report() -> None:
    protocol = gate_protocol()
    assert len(set(protocol.targets)) == 24 == len(TARGETS + GATE_TARGETS)
    assert not set(protocol.targets) & set(TUNING_TARGETS)
    assert not set(TRANSFER) & set(report_subjects())
    assert set(protocol.subjects) <= set(report_subjects())


def test_an_independent_subject_has_other_weights_than_the_one_the_prompt_was_learned_on(small: Study) -> None:
    protocol = small.protocol
    cell = Cell(protocol.subjects[0], protocol.targets[0], protocol, {})
    (own, _), *nothing = GATE_METHODS["subject"].plan(cell).parts
    (independent, _), (prompt, _) = GATE_METHODS["independent_transferred"].plan(cell).parts
    assert not nothing
    assert small.shelf.job(own).content_hash != small.shelf.job(independent).content_hash
    assert small.shelf.settings(independent).rank != small.shelf.settings(own).rank
    assert cell.subject not in prompt.subjects


def test_one_teacher_and_other_sites_are_other_adapters(small: Study) -> None:
    protocol = small.protocol
    cell = Cell(protocol.subjects[0], protocol.targets[0], protocol, {})
    rows = ("transferred", "transferred_palp", "transferred_kv", "transferred_one")
    needs = [GATE_METHODS[name].plan(cell).parts[-1][0] for name in rows]
    assert len(set(needs)) == len(rows)


def test_a_row_on_the_bases_pictures_is_trained_on_those_of_its_prompt(small: Study) -> None:
    protocol = small.protocol
    cell = Cell(protocol.subjects[0], protocol.targets[0], protocol, {})
    small.train([GATE_METHODS["transferred"]])
    own, drawn, other = (
        small.shelf.job(GATE_METHODS[name].plan(cell).parts[-1][0])
        for name in ("transferred", "transferred_pictures", "transferred_pictures_other")
    )
    expected = clean_latents(small.shelf.base, own.subjects, own.seed)
    assert torch.equal(torch.stack([subject.latents for subject in drawn.subjects]), expected)
    assert not torch.equal(torch.stack([subject.latents for subject in other.subjects]), expected)
    assert len({job.content_hash for job in (own, drawn, other)}) == 3


def scores_of(study: Study, alignment: np.ndarray, identity: np.ndarray) -> dict[str, np.ndarray]:
    shape = (len(study.protocol.subjects), len(study.protocol.targets) * len(study.protocol.seeds))
    return {
        "alignment": np.broadcast_to(alignment, shape).reshape(-1).astype(float),
        "subject_on_prompt": np.broadcast_to(identity, shape).reshape(-1).astype(float),
    }


def test_the_line_gives_zero_on_itself_and_the_height_above_it(small: Study) -> None:
    zero = np.zeros(1)
    scores = {
        "subject": scores_of(small, zero + 0.4, zero + 0.8),
        "subject_0.6": scores_of(small, zero + 0.6, zero + 0.6),
        "base": scores_of(small, zero + 0.8, zero + 0.2),
        "transferred": scores_of(small, zero + 0.7, zero + 0.7),
    }
    height = above_line(scores, SCALING, small.clusters("alignment"), ("alignment", "subject_on_prompt"))
    assert height["subject"].value == pytest.approx(0)
    assert height["subject_0.6"].value == pytest.approx(0)
    assert height["transferred"].value == pytest.approx(0.7 - 0.4)
    assert height["transferred"].low == pytest.approx(0.3)


def test_pairs_that_fail_are_chosen_on_other_seeds_than_they_are_measured_on(small: Study) -> None:
    seeds = len(small.protocol.seeds)
    pairs = len(small.protocol.subjects) * len(small.protocol.targets)
    base, subject = np.ones((pairs, seeds)), np.ones((pairs, seeds))
    subject[0, : seeds // 2] = 0  # fails on the first seeds, and not on the others
    subject[1, seeds // 2 :] = 0  # the other way round
    scores = {"base": {"alignment": base.reshape(-1)}, "subject": {"alignment": subject.reshape(-1)}}
    marked = failing(scores, small).reshape(pairs, seeds)
    assert marked[0, seeds // 2 :].all()
    assert not marked[0, : seeds // 2].any()
    assert not marked[1:].any()


def test_prompts_with_a_second_thing_are_told_apart(small: Study) -> None:
    both = Protocol(("otter", "goat"), (TARGETS[0], GATE_TARGETS[0]), (0, 1), (0,))
    study = copy.copy(small)
    study.protocol = both
    assert paired(study).tolist() == [False, False, True, True] * 2
    assert not paired(small).any()


def test_a_pair_fails_or_not_whatever_the_number_of_its_seeds() -> None:
    assert share_of_pairs(np.array([False, True, True] * 2), 3) == 1.0
    assert share_of_pairs(np.array([False, True, False, False]), 2) == 0.5


def test_the_gate_writes_every_row_with_its_controls(small: Study, tmp_path: Path) -> None:
    names = (
        "base",
        "subject",
        "subject_0.6",
        "transferred",
        "transferred_pictures",
        "transferred_other",
        "independent",
    )
    write_gate(small, {name: GATE_METHODS[name] for name in names}, Files(tmp_path))
    written = json.loads((tmp_path / "results/gate0-icons.json").read_text())
    assert set(written["rows"]) == set(names)
    assert set(written["above_the_scaling_line"]) == set(names)
    assert (tmp_path / "images/gate0-icons-plane.png").is_file()
    assert written["without_one"].keys() == set(names)
    assert written["beside_a_second_thing"] == {}  # no prompt of the small study asks for one
