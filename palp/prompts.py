"""The prompts of a subject, made from the user's target prompt: y_P, y_c, y, and the photo prompt.

y "a sketch of [V]" with class word "owl" gives y_P "a photo of [V]", y_c "a sketch of an owl" and the photo
prompt "a photo of an owl" (paper, Section 4). With an artwork [V2] (art-inspired personalization), y "an oil
painting of [V1] inspired by [V2] painting" gives y_c "an oil painting of an owl".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from palp.errors import InputError, UnknownPlaceholderError

__all__ = ["NEGATIVE", "Prompts", "Word", "article", "make_prompts", "placeholders_in"]

NEGATIVE = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"
"""The prompt of what pictures should not be, for NFSD (Katzir et al. 2023, arXiv 2310.17590)."""

PLACEHOLDER = re.compile(r"\[V\d*\]")
DETERMINERS = {
    *("a", "an", "the", "this", "that", "these", "those", "some", "one", "two", "three", "four", "five"),
    *("my", "your", "his", "her", "its", "our", "their"),
}
BOUNDARIES = {  # words that end a noun phrase
    *("of", "with", "without", "and", "or", "as", "like", "in", "inside", "on", "onto", "into", "at", "by"),
    *("for", "from", "to", "near", "beside", "behind", "between", "next", "under", "below", "over", "above"),
    *("around", "through", "against", "is", "are", "was"),
}
ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)
SOUNDS_LIKE_A_CONSONANT = re.compile(r"(uni|use|usu|ukul|eu|one\b|once\b)", re.IGNORECASE)
SOUNDS_LIKE_A_VOWEL = re.compile(r"([aeiou]|hour|honest|heir)", re.IGNORECASE)


@runtime_checkable
class Word(Protocol):
    """A placeholder and what the base would call the thing; `palp.subjects.Subject` is one."""

    @property
    def placeholder(self) -> str:
        """Such as "[V]"."""

    @property
    def class_word(self) -> str:
        """Such as "cat"; of an artwork its technique, such as "oil painting"."""

    @property
    def artwork(self) -> bool:
        """Whether its pictures are of a work of art, whose manner is to be taken over."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of one subject.

    Args:
        personal: y_P, "a photo of [V]".
        clean: y_c, the target prompt with class words, for the frozen base.
        target: y, the target prompt, for sampling.
        photo: "a photo of a cat": y_P with the class word.
    """

    personal: str
    clean: str
    target: str
    photo: str


def make_prompts(words: Sequence[Word], target: str | None = None) -> dict[str, Prompts]:
    """The prompts of each word of one picture, by placeholder.

    Args:
        words: the subjects, and at most one artwork.
        target: the user's prompt; None to learn the subjects alone, where target is y_P itself.

    Raises:
        InputError: no words, two with one placeholder, or a prompt that names none of them.
        UnknownPlaceholderError: the prompt names a placeholder that is none of the words.
    """
    known = _checked(words)
    own = {word: (_personal(known[word]), _photo(known[word])) for word in known}
    if target is None:
        return {word: Prompts(personal, photo, personal, photo) for word, (personal, photo) in own.items()}
    target = " ".join(target.split())
    _check_target(target, known)
    target, clean = _with_artwork(target, known)
    clean = _with_class_words(clean, {name: word.class_word for name, word in known.items()})
    return {word: Prompts(personal, clean, target, photo) for word, (personal, photo) in own.items()}


def placeholders_in(prompt: str) -> list[str]:
    """The placeholders in a prompt, in order, each once."""
    return list(dict.fromkeys(PLACEHOLDER.findall(prompt)))


def article(noun: str) -> str:
    """The noun with "a" or "an", unless it begins with a determiner: "an owl", "a pair of shoes"."""
    if noun.split()[0].lower() in DETERMINERS:
        return noun
    return f"{_a_or_an(noun)} {noun}"


def _checked(words: Sequence[Word]) -> dict[str, Word]:
    for word in words:
        if not PLACEHOLDER.fullmatch(word.placeholder):
            raise InputError(f"{word.placeholder!r} cannot be a placeholder: use [V], [V1], [V2], …")
        if not word.class_word.strip() or PLACEHOLDER.search(word.class_word):
            raise InputError(f"{word.class_word!r} cannot be the class word of {word.placeholder}: say 'cat'")
    known = {word.placeholder: word for word in words}
    if len(known) < len(words) or not words:
        raise InputError(
            f"placeholders {[word.placeholder for word in words]} were given: "
            "give at least one subject, each with a placeholder of its own"
        )
    if sum(word.artwork for word in words) > 1 or all(word.artwork for word in words):
        raise InputError("give at least one subject that is no artwork, and at most one artwork")
    return known


def _check_target(target: str, known: Mapping[str, Word]) -> None:
    named = placeholders_in(target)
    for name in named:
        if name not in known:
            raise UnknownPlaceholderError(
                f"the prompt {target!r} names {name}, and the subjects are {_list(known)}: use one of these"
            )
    if not any(not known[name].artwork for name in named):
        subjects = _list(name for name, word in known.items() if not word.artwork)
        raise InputError(
            f"the prompt {target!r} names no subject: write {subjects} where it belongs, as in 'a sketch of [V]'"
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _personal(word: Word) -> str:
    return f"{article(word.class_word) if word.artwork else 'a photo'} of {word.placeholder}"


def _photo(word: Word) -> str:
    return article(word.class_word) if word.artwork else f"a photo of {article(word.class_word)}"


def _with_artwork(target: str, known: Mapping[str, Word]) -> tuple[str, str]:
    """The target prompt naming the artwork, and the same without it."""
    for name, word in known.items():
        if not word.artwork:
            continue
        noun = word.class_word.split()[-1]
        if name not in target:
            return f"{target} inspired by {name} {noun}", target
        kinds = "|".join(re.escape(kind) for kind in (word.class_word, noun, "painting", "drawing"))
        named = rf",?\s*(inspired by|in the style of)\s+{re.escape(name)}(['’]s)?(\s+({kinds})s?)?(?!\w)"
        clean = re.sub(named, "", target, flags=re.IGNORECASE).strip()
        if name in clean:
            raise InputError(
                f"the prompt {target!r} names the artwork {name} as if it were a subject: "
                f"write 'inspired by {name} {noun}'"
            )
        return target, clean
    return target, target


def _with_class_words(prompt: str, nouns: Mapping[str, str]) -> str:
    """The prompt with each placeholder's noun in its place, with an article where the sentence has none."""
    while found := PLACEHOLDER.search(prompt):
        before, noun = prompt[: found.start()], nouns[found.group()]
        last = before.split()[-1] if before.split() else ""
        noun = article(noun) if _wants_article(before) else ARTICLE.sub("", noun)
        if last.lower() in ("a", "an"):
            before = f"{before.rstrip().removesuffix(last)}{last[0]}{_a_or_an(noun)[1:]} "
        prompt = before + noun + prompt[found.end() :]
    return prompt


def _wants_article(before: str) -> bool:
    """Whether a noun after these words needs one: "photo of …", "a boy hugging …", not "a red …"."""
    phrase: list[str] = []
    for word in reversed(before.split()):
        if word.lower() in BOUNDARIES or not word[-1].isalnum():
            break
        phrase.insert(0, word.lower())
        if word.lower() in DETERMINERS:
            break
    if not phrase:
        return True
    return phrase[-1].endswith("ing") and not (len(phrase) > 1 and phrase[-2] in DETERMINERS)


def _a_or_an(noun: str) -> str:
    vowel = SOUNDS_LIKE_A_VOWEL.match(noun) and not SOUNDS_LIKE_A_CONSONANT.match(noun)
    return "an" if vowel else "a"
