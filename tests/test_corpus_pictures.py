"""Adapters that are trained on the base's own pictures of their prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hypernet.draws import Draws
from hypernet.evaluate.rivals import refiner
from hypernet.predict import Predictor
from palp.corpus import CorpusPrompt, open_corpus
from palp.corpus.build import build_part
from palp.corpus.folder import CorpusFolder, Part
from palp.corpus.manifest import problems
from palp.corpus.plan import CorpusPlan
from palp.corpus.subjects import read_subjects
from palp.errors import InputError
from palp.prompt_pictures import clean_latents, on_latents
from tests.corpora import tiny_corpus, tiny_hypernet
from tests.corpus_building import OPEN_GATE, corpus_files, plan_in, quiet
from tests.tiny import tiny_base
from tests.training import tensors_of


def plan_of(folder: Path) -> CorpusPlan:
    return replace(plan_in(folder, OPEN_GATE), pictures="prompt")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> CorpusFolder:
    folder = tmp_path_factory.mktemp("pictures")
    return build_part(tiny_base("sd1"), plan_of(folder / "in"), folder / "out", Part(), quiet)


def test_the_shards_keep_the_pictures_and_they_are_of_the_clean_prompt(built: CorpusFolder) -> None:
    corpus, base = open_corpus(built.path), tiny_base("sd1")
    (teacher,) = read_subjects(built, "train").values()
    assert list(problems(built)) == []
    assert corpus.recipe["pictures"] == "prompt"
    kept = corpus.pictures("own-00001")
    assert kept is not None
    assert kept.shape == (1, 4, 4, 8, 8), "one subject: four pictures of it"
    assert torch.equal(kept, clean_latents(base, [teacher.at("a sketch of [V]")], seed=0))
    assert not torch.equal(kept, clean_latents(base, [teacher.at("a cat to [V]")], seed=0))
    hat = replace(teacher, class_word="hat").at("a sketch of [V]")
    assert not torch.equal(kept, clean_latents(base, [hat], seed=0))
    assert torch.equal(on_latents([hat], kept)[0].latents, kept[0])
    twins = corpus.pictures("own-00001-twin")
    assert twins is not None
    assert not torch.equal(kept, twins), "another seed has other pictures"


def test_an_adapter_depends_on_them(built: CorpusFolder, tmp_path: Path) -> None:
    own = build_part(tiny_base("sd1"), plan_in(tmp_path / "in", OPEN_GATE), tmp_path / "out", Part(), quiet)
    plain, scenes = open_corpus(own.path), open_corpus(built.path)
    assert plain.pictures("own-00001") is None
    left, right = (tensors_of(corpus.adapter("own-00001")) for corpus in (plain, scenes))
    assert any(not torch.allclose(left[name], right[name]) for name in left)


def test_pictures_that_a_killed_run_had_drawn_are_taken_and_give_the_same_bytes(
    built: CorpusFolder, tmp_path: Path
) -> None:
    folder, base, plan = CorpusFolder(tmp_path / "out"), tiny_base("sd1"), plan_of(built.path.parent / "in")

    def kill(what: str, done: float, total: int) -> None:
        if what == "prompts drawn" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_part(base, plan, folder.path, Part(), kill)
    kept = sorted((folder.work / "items").glob("*.pictures.safetensors"))
    assert len(kept) == 3
    when = kept[0].stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        build_part(base, plan, folder.path, Part(), kill)
    assert kept[0].stat().st_mtime_ns == when, "not drawn again"
    again, straight = corpus_files(build_part(base, plan, folder.path, Part(), quiet)), corpus_files(built)
    assert again.keys() == straight.keys()
    assert [name for name in again if again[name] != straight[name]] == []


def test_another_kind_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pictures is 'all', and must be one of subject, prompt"):
        replace(plan_in(tmp_path), pictures="all")


def prompt_pictures(prompts: list[CorpusPrompt], subjects: int) -> Mapping[str, Tensor]:
    """Latents that say which prompt and which subject they are of."""
    return {
        prompt.key: torch.stack([torch.full((1, 4, 8, 8), 10.0 * i + n) for n in range(subjects)])
        for i, prompt in enumerate(prompts)
    }


def test_a_hypernetwork_learns_on_the_pictures_of_its_prompts() -> None:
    corpus = tiny_corpus(tiny_base("sd1"))
    subjects = [subject for subject in corpus.subjects if not subject.held_out]
    pictures = prompt_pictures(list(corpus.prompts), len(subjects))
    draws = Draws(corpus.prompts, subjects, (0, 1000), torch.device("cpu"), pictures.get)
    batch = draws.of([1], corpus.prompts[:4], 8)
    assert batch.x0[:, 0, 0, 0].tolist() == (10.0 * batch.rows + batch.subjects).tolist()
    assert set(batch.subjects.tolist()) == {0, 1}
    stranger = Draws(corpus.prompts, [corpus.subjects[2]] * 3, (0, 1000), torch.device("cpu"), pictures.get)
    assert set(stranger.of([1], corpus.prompts[:1], 16).x0[:, 0, 0, 0].tolist()) == {0.0, 1.0}


def test_predictions_are_trained_on_with_the_pictures_that_their_oracle_had() -> None:
    base = tiny_base("sd1")
    plain = tiny_corpus(base)
    corpus = replace(plain, latents=prompt_pictures(list(plain.prompts), 2))
    trainer = refiner(Predictor(base, tiny_hypernet(base, plain)), corpus, corpus.prompts[:2], 1)
    got = [subject.latents.mean().item() for job in trainer.jobs for subject in job.subjects]
    list(trainer.run())
    assert got == [0.0, 1.0, 10.0, 11.0]
