"""The words in square brackets of a prompt, held against those that were learned."""

from __future__ import annotations

import re
from collections.abc import Collection

from palp.errors import InputError, UnknownPlaceholderError

__all__ = ["check_words", "words_in"]

BRACKETED = re.compile(r"\[[^\[\]]*\]")


def words_in(prompt: str) -> list[str]:
    """Every [word] of a prompt, in order, each once."""
    return list(dict.fromkeys(BRACKETED.findall(prompt)))


def check_words(prompt: str, learned: Collection[str]) -> None:
    """Raise unless the prompt names at least one learned word, and no other; without learned words, none at all.

    Raises:
        InputError: words were learned and the prompt uses none, or it came as bytes of another encoding than UTF-8.
        UnknownPlaceholderError: the prompt uses one that was not learned.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise InputError(f"the prompt {prompt!r} is not UTF-8: write it in that encoding")
    used = words_in(prompt)
    names = ", ".join(sorted(learned)) or "none"
    if unknown := [word for word in used if word not in learned]:
        raise UnknownPlaceholderError(
            f"the prompt {prompt!r} names {unknown[0]}, and the learned words are: {names}; use one of these"
        )
    if learned and not used:
        raise InputError(
            f"the prompt {prompt!r} does not name the subject: write {names} where it is to appear, "
            f"such as 'a pencil sketch of {min(learned)} on a beach'"
        )
