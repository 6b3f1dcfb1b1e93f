"""Whether what is held out is new: prompts by text, meaning and words, subjects by name and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from palp.corpus.contract import CorpusPrompt
from palp.errors import InputError, LeakageError

__all__ = ["check_prompts", "check_subjects"]


def check_prompts(prompts: Sequence[CorpusPrompt]) -> None:
    """Raise unless every held-out prompt is new in the way that its split says.

    Raises:
        LeakageError: a text or a cluster of training is held out, a paraphrase has no training prompt, a new word or
            combination is in training, or a prompt as long as a longer one.
        InputError: no training prompts, or two prompts of one key or text.
    """
    train = [prompt for prompt in prompts if prompt.split == "train"]
    if not train or len({prompt.key for prompt in prompts}) < len(prompts):
        raise InputError(f"{len(prompts)} prompts were given, {len(train)} for training: give some, each its own key")
    texts: dict[str, CorpusPrompt] = {}
    for prompt in prompts:
        other = texts.setdefault(" ".join(prompt.text.lower().split()), prompt)
        if other is not prompt:
            kind = LeakageError if other.split != prompt.split else InputError
            raise kind(f"the prompts {other.key} and {prompt.key} have one text, {prompt.text!r}: keep one of them")
    clusters = {prompt.cluster for prompt in train}
    words = {pair for prompt in train for pair in prompt.elements.items()}
    pairs = {pair for prompt in train for pair in _pairs(prompt)}
    longest = max(len(prompt.elements) for prompt in train)
    for prompt in prompts:
        if reason := _leak(prompt, clusters, words, pairs, longest):
            raise LeakageError(f"the prompt {prompt.key}, {prompt.text!r}, is held out as a {prompt.split}, {reason}")


def _leak(
    prompt: CorpusPrompt,
    clusters: set[str],
    words: set[tuple[str, str]],
    pairs: set[frozenset[tuple[str, str]]],
    longest: int,
) -> str | None:
    if prompt.split == "train":
        return None
    if (prompt.split == "paraphrase") != (prompt.cluster in clusters):
        verb = "has no" if prompt.split == "paraphrase" else "has a"
        return f"and its cluster {prompt.cluster!r} {verb} training prompt"
    if prompt.split == "word" and prompt.elements and prompt.elements.items() <= words:
        return "and training has all its words"
    if prompt.split == "combination" and prompt.elements and _pairs(prompt) <= pairs:
        return "and training has every pair of its words"
    if prompt.split == "longer" and prompt.elements and len(prompt.elements) <= longest:
        return "and training has a prompt of as many elements"
    return None


def _pairs(prompt: CorpusPrompt) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for pair in combinations(prompt.elements.items(), 2)}


def check_subjects(roles: Mapping[str, str], contents: Mapping[str, str]) -> None:
    """Raise unless no two subjects show the same pictures.

    Args:
        roles: "train", "probe" or "held_out", by name.
        contents: hash of each subject's pictures.

    Raises:
        LeakageError: two do, whatever their roles.
    """
    first: dict[str, str] = {}
    for name, content in contents.items():
        other = first.setdefault(content, name)
        if other != name:
            raise LeakageError(
                f"the subjects {other} ({roles[other]}) and {name} ({roles[name]}) have the same pictures: keep one"
            )
