"""Prompts of corpora: splits that hold, drawing that repeats, leaks that are found."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from palp.corpus.contract import CorpusPrompt
from palp.corpus.grammar import Grammar, read_grammar
from palp.corpus.leakage import check_prompts, check_subjects
from palp.corpus.plan import PromptPlan
from palp.corpus.prompts import PromptCounts, draw_prompts, read_prompts
from palp.errors import InputError, LeakageError
from palp.prompts import placeholders_in

COUNTS = PromptCounts(train=400, paraphrase=20, combination=20, word=20, longer=10)


def by_split(prompts: list[CorpusPrompt], split: str) -> list[CorpusPrompt]:
    return [prompt for prompt in prompts if prompt.split == split]


@pytest.fixture(params=["icons", "real"])
def grammar(request: pytest.FixtureRequest) -> Grammar:
    return read_grammar(request.param)


def test_splits_are_new_in_the_way_they_say(grammar: Grammar) -> None:
    prompts = draw_prompts(grammar, COUNTS, seed=0)
    train = by_split(prompts, "train")
    sizes = [len(by_split(prompts, s)) for s in ("train", "paraphrase", "combination", "word", "longer")]
    assert sizes == [400, 20, 20, 20, 10]
    assert len({p.text for p in prompts}) == len(prompts) == len({p.key for p in prompts})
    assert all(placeholders_in(p.text) == ["[V]"] and "{" not in p.text for p in prompts)
    words = {pair for p in train for pair in p.elements.items()}
    pairs = {pair for p in train for pair in combinations(p.elements.items(), 2)}
    for prompt in by_split(prompts, "word"):
        assert any(word in grammar.elements[name].held_out for name, word in prompt.elements.items())
        assert not prompt.elements.items() <= words
    for prompt in by_split(prompts, "combination"):
        assert prompt.elements.items() <= words
        first, second = grammar.pair
        assert ((first, prompt.elements[first]), (second, prompt.elements[second])) not in pairs
    for prompt in by_split(prompts, "longer"):
        assert prompt.elements.items() <= words
        assert len(prompt.elements) > max(len(p.elements) for p in train)
    for prompt in by_split(prompts, "paraphrase"):
        assert prompt.cluster in {p.cluster for p in train}
    check_prompts(prompts)


def test_held_out_phrases_are_in_no_training_prompt() -> None:
    prompts = draw_prompts(read_grammar("icons"), COUNTS, seed=0)
    assert not any("aquarelle" in p.text or "cartoon of" in p.text for p in by_split(prompts, "train"))


def test_without_longer_prompts_training_may_say_every_element(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    words = "{a: {words: {one: [one], two: [two]}}, b: {words: {x: [x], y: [y]}}}"
    file.write_text(f"template: '{{a}} [V] {{b}}'\npair: [a, b]\nelements: {words}")
    grammar = read_grammar(str(file))
    assert all(len(p.elements) == 2 for p in draw_prompts(grammar, PromptCounts(2), 0))
    with pytest.raises(InputError, match="of split train"):
        draw_prompts(grammar, PromptCounts(2, longer=1), 0)


def test_words_are_drawn_evenly() -> None:
    train = by_split(draw_prompts(read_grammar("icons"), PromptCounts(120), seed=1), "train")
    counts = [sum(p.elements["style"] == s for p in train) for s in read_grammar("icons").elements["style"].known]
    assert max(counts) <= 2 * min(counts)


def test_a_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    grammar = read_grammar("icons")
    assert draw_prompts(grammar, COUNTS, 3) == draw_prompts(grammar, COUNTS, 3)
    assert draw_prompts(grammar, COUNTS, 3) != draw_prompts(grammar, COUNTS, 4)


def test_fresh_prompts_are_for_training_and_of_no_meaning_that_the_corpus_has() -> None:
    plan = PromptPlan(train=60, paraphrase=4, combination=4, word=4, longer=4)
    prompts = plan.prompts()
    fresh = plan.fresh(prompts, 200)
    assert len(fresh) == 200
    assert fresh == plan.fresh(prompts, 200)
    check_prompts([*prompts, *fresh])  # nothing that is held out is in them
    assert {prompt.split for prompt in fresh} == {"train"}
    assert not {prompt.cluster for prompt in fresh} & {prompt.cluster for prompt in prompts}
    assert len({prompt.cluster for prompt in fresh}) == 200


def test_a_grammar_that_has_changed_gives_no_fresh_prompt_with_what_is_held_out(tmp_path: Path) -> None:
    path, places = tmp_path / "g.yaml", ", ".join(f"p{n}: at p{n}" for n in range(6))
    held_out = "held_out: [ink], "
    text = (
        "template: '{style} [V] {place}'\npair: [style, place]\nelements:\n"
        f"  style: {{{held_out}words: {{photo: a photo of, sketch: a sketch of, ink: an ink drawing of}}}}\n"
        f"  place: {{words: {{{places}}}}}"
    )
    path.write_text(text)
    plan = PromptPlan(str(path), train=6, paraphrase=0, combination=0, word=2, longer=0)
    prompts = plan.prompts()
    assert plan.fresh(prompts, 100)
    path.write_text(text.replace(held_out, ""))
    with pytest.raises(LeakageError, match="training has all its words"):
        plan.fresh(prompts, 100)


def test_a_small_grammar_has_few_fresh_prompts_and_a_file_none(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(
        "template: '{style} [V] {place}'\npair: [style, place]\nelements:\n"
        "  style: {words: {photo: a photo of, sketch: a sketch of}}\n  place: {words: {sea: at sea, city: in a city}}"
    )
    plan = PromptPlan(str(tmp_path / "g.yaml"), train=1, paraphrase=0, combination=0, word=0, longer=0)
    assert 1 <= len(plan.fresh(plan.prompts(), 100)) <= 3
    assert replace(plan, file="prompts.txt").fresh([], 100) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": "word"}, "has a training prompt"),
        ({"split": "combination"}, "has a training prompt"),
        ({"split": "word", "cluster": "other"}, "training has all its words"),
        ({"split": "combination", "cluster": "other"}, "training has every pair of its words"),
        ({"split": "longer", "cluster": "other"}, "training has a prompt of as many elements"),
        ({"split": "paraphrase", "cluster": "other"}, "has no training prompt"),
        ({"split": "paraphrase", "text": "A sketch  of [V] on a beach"}, "have one text"),
    ],
)
def test_leaks_are_found(change: dict[str, str], sentence: str) -> None:
    elements = {"style": "sketch", "place": "beach"}
    prompt = CorpusPrompt("a", "a sketch of [V] on a beach", elements, "sketch|beach", "train")
    changes: dict[str, Any] = {"key": "b", "text": "a drawing of [V] at the sea", **change}
    other = replace(prompt, **changes)
    with pytest.raises(LeakageError, match=sentence):
        check_prompts([prompt, other])


def test_subjects_with_the_same_pictures_are_a_leak() -> None:
    with pytest.raises(LeakageError, match=r"dog \(train\) and hound \(held_out\) have the same pictures"):
        check_subjects({"dog": "train", "hound": "held_out"}, {"dog": "1", "hound": "1"})


def test_own_prompts_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a sketch of [V]\n\na photo of  [V] at sea\n")
    plain = read_prompts(tmp_path / "p.txt")
    assert [p.key for p in plain] == ["own-00001", "own-00003"]
    assert [p.text for p in plain] == ["a sketch of [V]", "a photo of [V] at sea"]
    (tmp_path / "p.jsonl").write_text('{"text": "[V] in rain", "cluster": "rain", "split": "word"}\n')
    assert read_prompts(tmp_path / "p.jsonl") == [CorpusPrompt("own-00001", "[V] in rain", {}, "rain", "word")]
    (tmp_path / "p.jsonl").write_text('\ufeff{"text": "[V] in\u2028rain"}\n')
    assert [p.text for p in read_prompts(tmp_path / "p.jsonl")] == ["[V] in rain"]
    (tmp_path / "p.txt").write_bytes(b"a caf\xe9 and [V]")
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_prompts(tmp_path / "p.txt")
    for text, sentence in (("a cat", "line 1 must name"), ("[V] and [V]", "must name")):
        (tmp_path / "p.txt").write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_prompts(tmp_path / "p.txt")


def test_a_grammar_that_is_too_small_or_wrong_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("template: '{style} [V]'\npair: [style, style]\nelements: {style: {words: {photo: a photo of}}}")
    with pytest.raises(InputError, match="5 prompts of split train were asked for, and the grammar gives"):
        draw_prompts(read_grammar(str(file)), PromptCounts(5), 0)
    file.write_text("template: '{style}'\npair: [style, style]\nelements: {style: {words: {photo: a photo of}}}")
    with pytest.raises(InputError, match="must name each of style once"):
        read_grammar(str(file))
    style = "template: '{style} [V]'\nelements: {style: {words: {photo: a photo of}"
    for text in ("nonsense", style + ", share: abc}}\npair: [style, style]", style + "}}\npair: [style, style, style]"):
        file.write_text(text)
        with pytest.raises(InputError, match="is no grammar"):
            read_grammar(str(file))
