"""The prompts of a corpus, drawn from a grammar or read from a user's file, with what is new about each."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from palp.corpus.contract import CorpusPrompt, Split
from palp.corpus.grammar import SLOT, Grammar
from palp.errors import InputError

__all__ = ["PromptCounts", "draw_prompts", "fresh_prompts", "read_prompts"]

TRIES = 200  # draws for each prompt wanted
HELD_OUT_IN = 10  # of a user's own prompts, one cluster in so many is held out


@dataclass(frozen=True)
class PromptCounts:
    """How many prompts of each split."""

    train: int
    paraphrase: int = 0
    combination: int = 0
    word: int = 0
    longer: int = 0


def draw_prompts(grammar: Grammar, counts: PromptCounts, seed: int) -> list[CorpusPrompt]:
    """So many prompts, no two of one meaning but a paraphrase and its training prompt; the same for a seed.

    Raises:
        InputError: the grammar has not so many.
    """
    rng = np.random.default_rng(seed)
    decks = {name: _deck(element.known, rng) for name, element in grammar.elements.items()}
    asked: dict[Split, int] = {
        "train": counts.train, "combination": counts.combination, "word": counts.word, "longer": counts.longer,
    }  # fmt: skip
    drawn: dict[Split, list[dict[str, str]]] = {split: [] for split in asked}
    seen: set[str] = set()
    for split, wanted in asked.items():
        draws = (_words(grammar, decks, rng, split) for _ in range(TRIES * max(wanted, 1)))
        fitting = (words for words in draws if _fits(split, words, drawn["train"]))
        drawn[split] = _new(grammar, fitting, split, counts.longer > 0, wanted, seen)
        _check_enough(split, len(drawn[split]), wanted)
    numbered = [(split, number, words) for split, rows in drawn.items() for number, words in enumerate(rows)]
    prompts = [_prompt(grammar, split, number, words, rng) for split, number, words in numbered]
    retold = [words for words in drawn["train"] if _has_another_wording(grammar, words)][: counts.paraphrase]
    _check_enough("paraphrase", len(retold), counts.paraphrase)
    prompts += [_prompt(grammar, "paraphrase", number, words, rng) for number, words in enumerate(retold)]
    return sorted(prompts, key=lambda prompt: prompt.key)


def fresh_prompts(grammar: Grammar, known: Iterable[str], longer: bool, count: int, seed: int) -> list[CorpusPrompt]:
    """Up to so many training prompts, no two of one meaning; fewer where the grammar has no more.

    Args:
        known: clusters that are not drawn.
        longer: whether prompts that say every element are held out.
    """
    rng = np.random.default_rng(seed)
    decks = {name: _deck(element.known, rng) for name, element in grammar.elements.items()}
    draws = (_words(grammar, decks, rng, "train") for _ in range(TRIES * count))
    found = _new(grammar, draws, "train", longer, count, set(known))
    prompts = [_prompt(grammar, "train", number, words, rng) for number, words in enumerate(found)]
    return [replace(prompt, key=f"fresh-{number:05d}") for number, prompt in enumerate(prompts)]


def read_prompts(path: Path) -> list[CorpusPrompt]:
    """A user's prompts: a line each, or JSON lines of text and, if wanted, cluster, elements and split.

    A prompt without a cluster is one of its own; of clusters without a split, one in ten is a held-out combination.

    Raises:
        InputError: no such file, or a line that is no prompt with [V].
    """
    if not path.is_file():
        raise InputError(f"there is no file of prompts {path}: check the path")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({error}): save it so") from error
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line]
    return [_own(f"{path}, line {number}", number, line, path.suffix == ".jsonl") for number, line in rows]


def _own(where: str, number: int, line: str, as_json: bool) -> CorpusPrompt:
    try:
        entry: dict[str, Any] = json.loads(line) if as_json else {"text": line}
        text = " ".join(entry["text"].split())
        cluster = str(entry.get("cluster", text.lower()))
        held_out: Split = "combination" if zlib.crc32(cluster.encode()) % HELD_OUT_IN == 0 else "train"
        split = entry.get("split", held_out)
        elements = {str(name): str(word) for name, word in entry.get("elements", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is no JSON object with a text ({error})") from error
    if text.count(SLOT) != 1 or split not in get_args(Split):
        raise InputError(f"{where} must name {SLOT} once, and a split, if it has one, of {', '.join(get_args(Split))}")
    return CorpusPrompt(f"own-{number:05d}", text, elements, cluster, split)


def _deck(words: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """The words for ever, each equally often, in a new order each time."""
    while True:
        yield from (words[int(index)] for index in rng.permutation(len(words)))


def _words(
    grammar: Grammar, decks: Mapping[str, Iterator[str]], rng: np.random.Generator, split: Split
) -> dict[str, str]:
    """A draw that may be of the split: one word of a new word's is held out, a longer prompt says every element."""
    elements = grammar.elements.items()
    share = {name: 1.0 if split == "longer" else element.share for name, element in elements}
    words = {name: next(decks[name]) for name, _ in elements if rng.random() < share[name]}
    able = [name for name, element in elements if element.held_out]
    if split == "word" and able:
        name = able[int(rng.integers(len(able)))]
        held_out = grammar.elements[name].held_out
        words[name] = held_out[int(rng.integers(len(held_out)))]
    return {name: words[name] for name in grammar.elements if name in words}


def _new(
    grammar: Grammar, draws: Iterable[dict[str, str]], split: Split, longer: bool, wanted: int, seen: set[str]
) -> list[dict[str, str]]:
    """The first so many draws that are of the split and of meanings not seen, which are seen from then on."""
    found: list[dict[str, str]] = []
    for words in draws if wanted else ():
        if _cluster(words) not in seen and _split(grammar, words, longer) == split:
            seen.add(_cluster(words))
            found.append(words)
            if len(found) == wanted:
                break
    return found


def _split(grammar: Grammar, words: Mapping[str, str], longer: bool) -> Split:
    """Where a prompt belongs; with `longer`, none that says every element is for training."""
    if any(word in grammar.elements[name].held_out for name, word in words.items()):
        return "word"
    if grammar.pair_is_held_out(words):
        return "combination"
    return "longer" if longer and words.keys() == grammar.elements.keys() else "train"


def _fits(split: str, words: Mapping[str, str], train: Sequence[Mapping[str, str]]) -> bool:
    """Whether a new combination, or a longer prompt, is one of words that training has."""
    return split not in ("combination", "longer") or words.items() <= {
        pair for other in train for pair in other.items()
    }


def _cluster(words: Mapping[str, str]) -> str:
    return "|".join(f"{name}={word}" for name, word in words.items())


def _has_another_wording(grammar: Grammar, words: Mapping[str, str]) -> bool:
    return any(len(grammar.elements[name].words[word]) > 1 for name, word in words.items())


def _prompt(
    grammar: Grammar, split: Split, number: int, words: Mapping[str, str], rng: np.random.Generator
) -> CorpusPrompt:
    """In a random wording of training; a paraphrase in the phrases that are kept from it."""
    phrases = {}
    for name, word in words.items():
        options = grammar.elements[name].words[word]
        usual = options[:-1] or options
        phrases[name] = options[-1] if split == "paraphrase" else usual[int(rng.integers(len(usual)))]
    return CorpusPrompt(f"{split}-{number:05d}", grammar.say(phrases), dict(words), _cluster(words), split)


def _check_enough(split: str, there: int, wanted: int) -> None:
    if there < wanted:
        raise InputError(
            f"{wanted} prompts of split {split} were asked for, and the grammar gives {there}: "
            "ask for fewer, or more for training, or add words"
        )
