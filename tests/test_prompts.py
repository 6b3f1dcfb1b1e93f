"""Prompts made from a target prompt, class words and artworks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from palp.errors import InputError, UnknownPlaceholderError
from palp.prompts import Prompts, article, make_prompts, placeholders_in


@dataclass(frozen=True)
class W:
    """A word without pictures."""

    class_word: str
    placeholder: str = "[V]"
    artwork: bool = False


def test_one_subject() -> None:
    assert make_prompts([W("owl")], "a sketch of [V] on a beach") == {
        "[V]": Prompts(
            personal="a photo of [V]",
            clean="a sketch of an owl on a beach",
            target="a sketch of [V] on a beach",
            photo="a photo of an owl",
        )
    }


def test_without_a_target_the_subject_is_learned_alone() -> None:
    assert make_prompts([W("cat")])["[V]"] == Prompts(
        "a photo of [V]", "a photo of a cat", "a photo of [V]", "a photo of a cat"
    )


@pytest.mark.parametrize(
    ("target", "clean"),
    [
        ("[V]", "an owl"),
        ("a [V] in the snow", "an owl in the snow"),
        ("A  [V]", "An owl"),
        ("the [V]", "the owl"),
        ("my [V] and a cat", "my owl and a cat"),
        ("a photo of a red [V]", "a photo of a red owl"),
        ("a photo of a sleeping [V]", "a photo of a sleeping owl"),
        ("a girl holding [V]", "a girl holding an owl"),
        ("a girl riding on [V], at night", "a girl riding on an owl, at night"),
        ("oil painting, [V] next to [V]", "oil painting, an owl next to an owl"),
    ],
)
def test_class_words_get_articles_where_the_sentence_has_none(target: str, clean: str) -> None:
    assert make_prompts([W("owl")], target)["[V]"].clean == clean


@pytest.mark.parametrize(
    ("target", "clean"),
    [("a sketch of a [V]", "a sketch of a cat"), ("the [V]", "the cat"), ("a photo of [V]", "a photo of a cat")],
)
def test_an_article_of_the_class_word_is_said_once(target: str, clean: str) -> None:
    assert make_prompts([W("a cat")], target)["[V]"].clean == clean


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("cat", "a cat"),
        ("owl", "an owl"),
        ("hourglass", "an hourglass"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("Old boot", "an Old boot"),
        ("a pair of shoes", "a pair of shoes"),
        ("some rice", "some rice"),
    ],
)
def test_articles(noun: str, expected: str) -> None:
    assert article(noun) == expected


def test_several_subjects_share_clean_and_target_prompts() -> None:
    made = make_prompts([W("cat", "[V1]"), W("owl", "[V2]")], "[V1] and [V2] at a table")
    assert {name: (p.personal, p.photo) for name, p in made.items()} == {
        "[V1]": ("a photo of [V1]", "a photo of a cat"),
        "[V2]": ("a photo of [V2]", "a photo of an owl"),
    }
    assert {p.clean for p in made.values()} == {"a cat and an owl at a table"}


@pytest.mark.parametrize(
    "target",
    [
        "an oil painting of [V1]",
        "an oil painting of [V1] inspired by [V2] painting",
        "an oil painting of [V1], in the style of [V2]",
        "an oil painting of [V1] inspired by [V2] paintings",
        "an oil painting of [V1] inspired by [V2]'s painting",
        "an oil painting of [V1] inspired by [V2] oil painting",
    ],
)
def test_art_inspired(target: str) -> None:
    words = [W("cat", "[V1]"), W("oil painting", "[V2]", artwork=True)]
    made = make_prompts(words, target)
    assert {name: (p.personal, p.photo) for name, p in made.items()} == {
        "[V1]": ("a photo of [V1]", "a photo of a cat"),
        "[V2]": ("an oil painting of [V2]", "an oil painting"),
    }
    assert {p.clean for p in made.values()} == {"an oil painting of a cat"}
    full = target if "[V2]" in target else "an oil painting of [V1] inspired by [V2] painting"
    assert {p.target for p in made.values()} == {full}


def test_the_rest_of_an_art_prompt_stays() -> None:
    words = [W("cat", "[V1]"), W("oil painting", "[V2]", artwork=True)]
    made = make_prompts(words, "an oil painting of [V1] inspired by [V2] painting on the moon")
    assert made["[V1]"].clean == "an oil painting of a cat on the moon"


def test_a_technique_may_hold_any_sign() -> None:
    words = [W("cat", "[V1]"), W("pastel (soft", "[V2]", artwork=True)]
    assert make_prompts(words, "a [V1] inspired by [V2] drawings")["[V1]"].clean == "a cat"


@pytest.mark.parametrize(
    ("words", "target", "sentence"),
    [
        ([W("cat")], "a sketch of a cat", "names no subject"),
        ([], "a sketch of [V]", "at least one subject"),
        ([W("cat"), W("owl")], "a sketch of [V]", "placeholder of its own"),
        ([W("cat", "V")], "a sketch of V", "cannot be a placeholder"),
        ([W("  ")], "a sketch of [V]", "class word"),
        ([W("oil painting", artwork=True)], "a sketch of [V]", "no artwork"),
        (
            [W("cat", "[V1]"), W("oil painting", "[V2]", artwork=True)],
            "[V1] holding [V2]",
            "as if it were a subject",
        ),
    ],
)
def test_refused(words: list[W], target: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_prompts(words, target)


def test_unknown_placeholder_names_the_known_ones() -> None:
    with pytest.raises(UnknownPlaceholderError, match=r"\[V3\].*\[V1\], \[V2\]"):
        make_prompts([W("cat", "[V1]"), W("owl", "[V2]")], "[V1] and [V3]")


def test_placeholders_in_order_and_once() -> None:
    assert placeholders_in("[V2] and [V1] and [V2], [W]") == ["[V2]", "[V1]"]
