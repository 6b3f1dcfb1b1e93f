"""An evaluation from end to end on a tiny base: what is written, what is done once, and what a kill costs."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import palp.evaluate.shelf as shelf_module
from palp.adapter import Adapter
from palp.base import Base
from palp.base.icons.grammar import Scene
from palp.base.icons.judges import labels
from palp.draw import Picture, draw
from palp.errors import InputError
from palp.evaluate.composition import Composed, draw_composed
from palp.evaluate.intervals import Estimate
from palp.evaluate.methods import METHODS, choose_methods
from palp.evaluate.metrics import PHOTO_METRICS, PROMPT_METRICS, Examiner
from palp.evaluate.protocol import clean_prompt, photo_prompt, renders, target_prompt
from palp.evaluate.report import Files, write_evaluation
from palp.evaluate.study import RENDERED, Study
from palp.evaluate.summary import CURVE_SHARES, gains
from palp.evaluate.sweep import GRID, choose, read_choices, sweep
from palp.guidance import Prompt
from palp.train import Trainer
from tests.worlds import TINY, quiet, study, world_base, world_judges

METRICS = {*PROMPT_METRICS, *PHOTO_METRICS}


@pytest.fixture(scope="module")
def base() -> Base:
    return world_base()


def files_of(folder: Path) -> dict[str, int]:
    """Every file with the time of its last change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_the_table_has_every_row_and_metric_and_a_second_run_does_nothing(base: Base, tmp_path: Path) -> None:
    methods = choose_methods("base,subject,unguided,palp,score_composition", METHODS)
    rows = write_evaluation(study(base, tmp_path / "work"), methods, Files(tmp_path / "docs"), with_curve=True)
    table = json.loads((tmp_path / "docs/results/palp-icons.json").read_text())
    assert set(table["rows"]) == {*methods, RENDERED} == set(rows)
    for row in table["rows"].values():
        assert row.keys() == METRICS
        for metric, entry in row.items():
            assert entry.keys() == {"value", "low", "high", "n"}
            assert entry["low"] <= entry["value"] <= entry["high"], metric
            assert entry["n"] == 2 * 2 * 2
    assert set(table["gains_over_subject"]) == {*methods, RENDERED} - {"subject"}
    assert set(table["gains_over_unguided"]) == {*methods, RENDERED} - {"unguided"}
    curve = json.loads((tmp_path / "docs/results/palp-icons-curve.json").read_text())["rows"]
    steps = {max(1, round(share * TINY["steps"])) for share in CURVE_SHARES}
    assert set(curve) == {f"{name}@{step}" for name in ("subject", "palp") for step in steps}
    assert curve["palp@4"] == table["rows"]["palp"]
    for name in ("palp-icons", "palp-icons-plane", "palp-icons-curve"):
        with Image.open(tmp_path / f"docs/images/{name}.png") as picture:
            assert min(picture.size) > 300
    before, titles = files_of(tmp_path / "work"), list[str]()
    write_evaluation(study(base, tmp_path / "work", titles), methods, Files(tmp_path / "again"), with_curve=True)
    assert files_of(tmp_path / "work") == before
    assert titles == []
    assert json.loads((tmp_path / "again/results/palp-icons.json").read_text()) == table


def tensors_in(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every file in a folder."""
    return {path.name: load_file(path) for path in folder.iterdir()}


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_training_goes_on_and_gives_the_same(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palp.draw.BATCH", 2)
    monkeypatch.setattr(shelf_module, "CHECKPOINT_S", 0.0)
    methods = choose_methods("subject,palp", METHODS).values()
    whole, broken = study(base, tmp_path / "whole"), study(base, tmp_path / "broken")
    whole.train(methods)
    steps = 0
    advance = Trainer._advance

    def until(limit: int) -> Any:
        def counted(self: Trainer) -> Any:
            nonlocal steps
            if steps == limit:
                raise Killed
            steps += 1
            return advance(self)

        return counted

    for limit in (3, 6, 11):  # in the bank of subjects, in the first of two banks of PALP, in the second
        monkeypatch.setattr(Trainer, "_advance", until(limit))
        with pytest.raises(Killed):
            study(base, tmp_path / "broken").train(methods)
    monkeypatch.setattr(Trainer, "_advance", until(100))
    broken.train(methods)
    assert steps == 3 * TINY["steps"]  # no step was done twice
    expected, found = (tensors_in(tmp_path / name / "adapters") for name in ("whole", "broken"))
    assert found.keys() == expected.keys()
    assert len(found) == 2 + 2 * 2
    for name, tensors in expected.items():
        assert found[name].keys() == tensors.keys()
        assert all(torch.equal(found[name][key], tensor) for key, tensor in tensors.items())


def test_a_training_ends_with_the_last_adapter_that_is_missing(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = study(base, tmp_path / "whole"), study(base, tmp_path / "part")
    whole.train([METHODS["subject"]], [(METHODS["subject"], 0.5)])
    steps, advance = list[int](), Trainer._advance

    def counted(self: Trainer) -> Any:
        steps.append(1)
        return advance(self)

    monkeypatch.setattr(Trainer, "_advance", counted)
    part.train([], [(METHODS["subject"], 0.5)])
    assert len(steps) == TINY["steps"] // 2
    expected, found = (tensors_in(tmp_path / name / "adapters") for name in ("whole", "part"))
    assert found.keys() < expected.keys()
    assert all(torch.equal(tensor, expected[name][key]) for name in found for key, tensor in found[name].items())


def test_other_sizes_are_other_adapters(base: Base, tmp_path: Path) -> None:
    mine = study(base, tmp_path)
    other = Study(base, world_judges(), mine.protocol, tmp_path, quiet, {**TINY, "steps": 5})
    need = METHODS["palp"].plan(_cell(mine)).parts[0][0]
    assert mine.shelf.path(need) != other.shelf.path(need)


def test_another_decoder_draws_anew(base: Base, tmp_path: Path) -> None:
    """A base's fingerprint leaves its decoder out, since adapters fit any; pictures are another decoder's."""
    vae = copy.deepcopy(base.vae)
    with torch.no_grad():
        next(vae.decoder.parameters()).add_(0.1)
    studies = [study(drawn, tmp_path) for drawn in (base, replace(base, vae=vae))]
    studies[0].train([METHODS["subject"]])
    first, second = (each.scores(METHODS["subject"])["ideal_distance"] for each in studies)
    assert not np.array_equal(first, second)


def asked_of(adapter: Adapter, prompts: Mapping[Prompt, str], *seeds: int) -> list[Composed]:
    """One picture a seed."""
    return [Composed(prompts, seed, adapter) for seed in seeds]


def test_composed_scores_without_gamma_draw_the_personal_prompt(base: Base, tmp_path: Path) -> None:
    done = study(base, tmp_path)
    done.train([METHODS["subject"]])
    adapter = done.shelf.adapter(METHODS["subject"].plan(_cell(done)).parts[0][0])
    subject, target = done.protocol.subjects[0], done.protocol.targets[0]
    prompts: dict[Prompt, str] = {
        "personal": photo_prompt(), "clean": clean_prompt(target, subject), "photo": photo_prompt(subject)
    }  # fmt: skip
    plain = draw(base, [Picture(photo_prompt(), seed, adapter) for seed in (0, 1)], done.sampling)
    composed = draw_composed(base, asked_of(adapter, prompts, 0, 1), "composed", 0.0, done.sampling)
    torch.testing.assert_close(composed, plain, rtol=1e-3, atol=1e-3)
    moved = draw_composed(base, asked_of(adapter, prompts, 0, 1), "composed", 1.5, done.sampling)
    assert not torch.allclose(moved, plain, atol=1e-2)
    y: dict[Prompt, str] = {**prompts, "target": target_prompt(target)}
    at_y = draw(base, [Picture(y["target"], seed, adapter) for seed in (0, 1)], done.sampling)
    unmoved, regional = (
        draw_composed(base, asked_of(adapter, y, 0, 1), "regional", g, done.sampling) for g in (0.0, 1.0)
    )
    torch.testing.assert_close(unmoved, at_y, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(regional, at_y, atol=1e-2)
    with pytest.raises(InputError, match="'palp' has no target to sample with"):
        draw_composed(base, asked_of(adapter, prompts, 0, 1), "palp", 1.5, done.sampling)


def test_one_guided_step_is_the_written_equation(base: Base, tmp_path: Path) -> None:
    """v = n + w (v_S(y_P) + γ (v_base(y_c) − v_base(photo)) − n), one prompt at a time."""
    from palp.bank import AdapterBank
    from palp.base.sample import sample

    done = study(base, tmp_path)
    done.train([METHODS["subject"]])
    adapter = done.shelf.adapter(METHODS["subject"].plan(_cell(done)).parts[0][0])
    prompts: dict[Prompt, str] = {
        "personal": "a photo of [V]", "clean": "an oil painting of a dog", "photo": "a photo of a dog"
    }  # fmt: skip
    bank = AdapterBank(base.unet, adapter.spec, 1)
    bank.write(0, adapter)

    def slowly(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        def ask(prompt: str, with_subject: bool) -> torch.Tensor:
            text = base.encode_prompts([prompt], adapter.placeholders)
            with bank.route(torch.zeros(len(x_t), dtype=torch.long) if with_subject else None):
                return base.predict(x_t, t, text.repeat(len(x_t)))

        null, personal = ask("", True), ask(prompts["personal"], True)
        change = ask(prompts["clean"], False) - ask(prompts["photo"], False)
        return null + done.sampling.guidance * (personal + 0.7 * change - null)

    bank.attach()
    try:
        text = base.encode_prompts([""])
        expected = sample(base, text, text, (3, 4), steps=done.sampling.steps, guide=slowly)
    finally:
        bank.detach()
    composed = draw_composed(base, asked_of(adapter, prompts, 3, 4), "composed", 0.7, done.sampling)
    torch.testing.assert_close(composed, expected, rtol=1e-3, atol=1e-3)
    other = done.shelf.adapter(METHODS["subject"].plan(_cell(done, 1)).parts[0][0])
    mixed = [*asked_of(other, prompts, 3), *asked_of(adapter, prompts, 4)]
    together = draw_composed(base, mixed, "composed", 0.7, done.sampling)
    torch.testing.assert_close(together[1], expected[1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[0], expected[0], atol=1e-2)


def test_metrics_are_what_they_say(base: Base, tmp_path: Path) -> None:
    done, judges = study(base, tmp_path), world_judges()
    subject, target = done.protocol.subjects[0], done.protocol.targets[0]
    examiner = Examiner(judges, done.protocol)
    pictures = renders(Scene(subject, "oil", "beach", "sunset"), (7, 8, 9))
    scores = examiner.on_prompt(pictures, subject, target)
    logits, faces = judges[0](pictures)

    def hit(name: str) -> list[float]:
        guesses = [labels()[name][index] for index in logits[name].argmax(1).tolist()]
        return [float(guess == getattr(target, name)) for guess in guesses]

    assert scores["style"].tolist() == hit("style")
    assert scores["ambiance_1"].tolist() == hit("place")
    both = np.mean([hit("weather"), hit("palette")], axis=0)
    assert scores["ambiance_2"].tolist() == both.tolist()
    assert scores["alignment"] == pytest.approx(np.mean([hit("style"), hit("place"), both], axis=0))
    ideals = renders(Scene(subject, *_words(target)), (0, 1, 2, 3))
    looks, seen = judges[1].embed_pictures(ideals), judges[1].embed_pictures(pictures)
    assert scores["ideal_distance"] == pytest.approx(1 - (seen @ looks.T).mean(1).numpy(), abs=1e-5)
    centre = judges[0](ideals)[1].mean(0)
    assert scores["subject_on_prompt"] == pytest.approx((faces @ centre / centre.norm()).numpy(), abs=1e-5)


def test_a_second_thing_counts_where_the_prompt_asks_for_it(base: Base, tmp_path: Path) -> None:
    done, judges = study(base, tmp_path), world_judges()
    subject, plain = done.protocol.subjects[0], done.protocol.targets[0]
    pictures = renders(Scene(subject, "oil", "beach", "sunset", companion="robot"), (7, 8, 9))
    guesses = [labels()["companion"][index] for index in judges[0](pictures)[0]["companion"].argmax(1).tolist()]
    wanted = replace(plain, companion=guesses[0])
    alone, both = (
        Examiner(judges, replace(done.protocol, targets=(target, done.protocol.targets[1]))).on_prompt(
            pictures, subject, target
        )["alignment"]
        for target in (plain, wanted)
    )
    hits = np.array([float(guess == guesses[0]) for guess in guesses])
    assert hits[0] == 1
    assert both == pytest.approx((3 * alone + hits) / 4)


def test_gains_are_paired_by_picture(base: Base, tmp_path: Path) -> None:
    done = study(base, tmp_path)
    low = {metric: np.arange(8.0) for metric in METRICS}
    high = {metric: np.arange(8.0) + 0.5 for metric in METRICS}
    found = gains(done, {"a": low, "b": high}, "a")
    assert found.keys() == {"b"}
    for entry in found["b"].values():
        assert (entry.value, entry.low, entry.high, entry.n) == (0.5, 0.5, 0.5, 8)


def test_the_choice_keeps_the_subject() -> None:
    def row(alignment: float, on_prompt: float, on_photo: float) -> dict[str, Estimate]:
        names = ("alignment", "subject_on_prompt", "subject_on_photo")
        values = (alignment, on_prompt, on_photo)
        return {name: Estimate(value, value, value, 1) for name, value in zip(names, values, strict=True)}

    control = row(0.5, 0.8, 1.0)
    assert choose([row(0.6, 0.8, 1.0), row(0.9, 0.8, 0.96), row(0.7, 0.8, 0.97)], control) == 2
    assert choose([row(0.9, 0.8, 0.5), row(0.1, 0.1, 0.9)], control) == 1


def test_only_what_has_settings_is_swept(base: Base, tmp_path: Path) -> None:
    rows, chosen = sweep(study(base, tmp_path), ["subject", "score_composition"])
    gammas = {f"score_composition gamma={setting['gamma']:g}" for setting in GRID["score_composition"]}
    assert set(rows) == {"unguided", *gammas}
    assert set(chosen) == {"score_composition"}
    assert chosen["score_composition"] in GRID["score_composition"]
    with pytest.raises(InputError, match="none of subject, base has settings to sweep: name some of palp"):
        sweep(study(base, tmp_path), ["subject", "base"])


def test_choices_are_read_from_a_sweep_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"chosen": {"palp": {"alpha": 4.0}}}))
    assert read_choices(path) == {"palp": {"alpha": 4.0}}
    path.write_text("[]")
    with pytest.raises(InputError, match="has no choices of a sweep"):
        read_choices(path)


def _cell(of: Study, subject: int = 0) -> Any:
    from palp.evaluate.methods import Cell

    return Cell(of.protocol.subjects[subject], of.protocol.targets[0], of.protocol, {})


def _words(scene: Scene) -> tuple[str, str, str, str]:
    return (scene.style, scene.place, scene.weather, scene.palette)
