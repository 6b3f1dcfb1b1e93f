"""The caption grammar: what scenes are called, and which are kept from training."""

from __future__ import annotations

import numpy as np
import pytest

from palp.base.icons.grammar import (
    COMPANIONS,
    PALETTES,
    PLACES,
    STYLES,
    WEATHERS,
    Scene,
    caption,
    concepts,
    glyphs,
    random_scene,
    training_subjects,
    vocabulary,
    with_article,
)
from palp.base.icons.places import DRAW


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (Scene("cat"), "a photo of a cat"),
        (Scene("owl", style="sketch", place="beach"), "a pencil sketch of an owl on a beach"),
        (
            Scene("ufo", "oil", "desert", "night", "warm", "elephant"),
            "an oil painting of a ufo next to an elephant in a desert at night in warm colors",
        ),
    ],
)
def test_first_paraphrase(scene: Scene, expected: str) -> None:
    assert caption(scene) == expected


@pytest.mark.parametrize(
    ("noun", "expected"), [("fox", "a fox"), ("owl", "an owl"), ("ufo", "a ufo"), ("[V]", "[V]"), ("[V2]", "[V2]")]
)
def test_articles(noun: str, expected: str) -> None:
    assert with_article(noun) == expected


def test_a_subject_word_can_be_replaced() -> None:
    assert caption(Scene("cat", place="forest"), subject="[V]") == "a photo of [V] in a forest"


def test_paraphrases_say_the_same_scene() -> None:
    scene = Scene("cat", "comic", "snow field", "fog", "pastel", "dog")
    rng = np.random.default_rng(0)
    said = {caption(scene, rng) for _ in range(200)}
    assert len(said) > 20
    for sentence in said:
        style, rest = next((s, sentence.removeprefix(s)) for s in STYLES["comic"] if sentence.startswith(s))
        link = next(link for link in COMPANIONS if f" a cat {link} a dog " in rest)
        rest = rest.removeprefix(f" a cat {link} a dog ")
        place = next(p for p in PLACES["snow field"] if rest.startswith(p))
        weather, colours = next(
            (w, c) for w in WEATHERS["fog"] for c in PALETTES["pastel"] if rest == f"{place} {w} {c}"
        )
        assert style
        assert weather
        assert colours


def test_a_paraphrase_depends_on_the_seed_alone() -> None:
    scene = Scene("cat", "oil", "cave", "night")
    first, second = (caption(scene, np.random.default_rng(5)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("simple", [0.0, 0.4])
def test_training_never_draws_a_held_out_combination(simple: float) -> None:
    rng = np.random.default_rng(0)
    drawn = [random_scene(rng, simple=simple) for _ in range(600)]
    assert not any(scene.held_out for scene in drawn)
    held_out = [random_scene(rng, simple=simple, held_out=True) for _ in range(60)]
    assert all(scene.held_out for scene in held_out)

    def combinations(scenes: list[Scene]) -> set[tuple[str, str, str]]:
        return {(scene.style, scene.place, scene.subject) for scene in scenes}

    assert combinations(drawn).isdisjoint(combinations(held_out))


def test_one_combination_in_ten_is_held_out() -> None:
    scenes = [Scene(subject, style, place) for subject in concepts() for style in STYLES for place in PLACES]
    share = sum(scene.held_out for scene in scenes) / len(scenes)
    assert share == pytest.approx(0.1, abs=0.01)


def test_weather_palette_and_companion_do_not_move_a_scene_over_the_split() -> None:
    for style in STYLES:
        bare = Scene("fox", style, "beach")
        assert Scene("fox", style, "beach", "rain", "cold", "cat").held_out == bare.held_out


def test_random_scenes_use_every_word_and_no_other() -> None:
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(1500)]
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {scene.place for scene in scenes} == set(PLACES) == set(DRAW)
    assert {scene.weather for scene in scenes} == set(WEATHERS)
    assert {scene.palette for scene in scenes} == set(PALETTES)
    assert {scene.subject for scene in scenes} == set(concepts())
    assert all(scene.companion != scene.subject for scene in scenes)


def test_vocabulary_holds_every_word_of_every_caption() -> None:
    rng = np.random.default_rng(2)
    words = set(vocabulary())
    assert list(vocabulary()) == sorted(words)
    for _ in range(400):
        sentence = caption(random_scene(rng, simple=0.2), rng)
        assert set(sentence.split()) <= words, sentence


def test_glyph_table() -> None:
    table, subjects = glyphs(), training_subjects()
    assert table["subjects"].keys() == subjects.keys()
    assert set(subjects).isdisjoint(concepts())
    assert len({*table["concepts"].values(), *table["subjects"].values()}) == len(table["concepts"]) + len(subjects)
    assert sum(entry["split"] == "report" for entry in subjects.values()) == 12
    assert {entry["split"] for entry in subjects.values()} == {"train", "report"}
    assert all(set(entry["class"].split()) <= set(vocabulary()) for entry in subjects.values())
