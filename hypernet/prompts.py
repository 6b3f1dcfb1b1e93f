"""What the hypernetwork reads: the target prompt with [V] filled by the class word, encoded by the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from palp.base import Base, TextState
from palp.errors import InputError
from palp.prompts import Prompts, make_prompts, placeholders_in

__all__ = ["encode_clean", "prompts_of"]


@dataclass(frozen=True)
class _Slot:
    """The subject's place in a prompt; a `palp.prompts.Word`."""

    placeholder: str
    class_word: str
    artwork: bool = False


def prompts_of(prompt: str, class_word: str) -> Prompts:
    """y_P, y_c, y and the photo prompt of a prompt about one subject.

    Raises:
        InputError: the prompt names no subject, or several.
    """
    named = placeholders_in(prompt)
    if len(named) != 1:
        raise InputError(
            f"the prompt {prompt!r} names {len(named)} subjects, and an adapter is predicted for one: "
            "write [V] once where it belongs"
        )
    return make_prompts([_Slot(named[0], class_word)], prompt)[named[0]]


@torch.no_grad()
def encode_clean(base: Base, prompts: Sequence[str], class_words: Sequence[str]) -> TextState:
    """The states of y_c of each prompt.

    Raises:
        InputError: as `prompts_of`.
    """
    return base.encode_prompts([prompts_of(*pair).clean for pair in zip(prompts, class_words, strict=True)])
