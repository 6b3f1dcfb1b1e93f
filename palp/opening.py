"""The opening of a picture: its noisiest steps draw a photo of the subject, and the prompt takes over from there.

A subject is learned from photos, and its adapter knows it best under "a photo of [V]". What it looks like is decided in
the noisiest steps; medium, place and light are still free in the later ones. So the first steps are drawn at the prompt
without these, "a photo of [V] next to a tree", as prompt schedules do it by hand (compare the prompt spectrum of
Zhang et al. 2023, arXiv 2305.16225), and in the others the subject's adapter can be weaker, for the shape is there, and
what else it does is what spoils prompts. The opening can be guided more strongly than what follows: that makes a shape
clearer, and contrast, which it harms elsewhere, is not decided yet. It costs nothing: a step reads one prompt or the
other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from palp.errors import InputError
from palp.prompts import PLACEHOLDER, placeholders_in

__all__ = ["Opening", "check_opening", "opening_ends", "opening_prompt"]

COMPANY = ("and", "with", "beside", "near", "next", "holding", "hugging", "riding", "carrying", "wearing")
"""Words that begin what else is there, where they follow the subject."""
SETTING = (
    *("in", "inside", "on", "onto", "at", "by", "under", "underwater", "over", "above", "below", "behind", "among"),
    *("between", "against", "during", "while", "through", "around", "across", "from", "as"),
)
"""Words that begin where and how it all is."""
MANNER = re.compile(r"\b(?:inspired by|in the style of)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Opening:
    """How pictures open.

    Args:
        share: of the schedule, from noise; 0 for no opening.
        rest: strength of the adapters afterwards, the subject's and the prompt's, for 1 in the opening.
        guidance: least classifier-free guidance scale in the opening; 1 leaves it to the picture's own.

    Raises:
        InputError: a share that is none.
    """

    share: float = 0.0
    rest: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_opening(self.share)

    def opens(self, prompt: str) -> bool:
        """Whether a prompt's opening has all its subjects, and lacks anything else.

        A work of art that it names is no subject, and what was learned of it is needed whole: no opening.
        """
        opening = opening_prompt(prompt)
        return self.share > 0 and opening != prompt and placeholders_in(opening) == placeholders_in(prompt)

    def guided(self, guidance: float) -> float:
        """The guidance scale in the opening of a picture with one of its own; where that is 1, none, there is none."""
        return guidance if guidance == 1 else max(guidance, self.guidance)

    def strength(self, prompt: str) -> float:
        """Of the adapters once the prompt has taken over."""
        return self.rest if self.opens(prompt) else 1.0


def opening_prompt(prompt: str) -> str:
    """What the opening draws: "a photo of" the subjects with what follows them side by side, and nothing else.

    "an oil painting of [V] next to a tree in a forest at night" gives "a photo of [V] next to a tree". A prompt
    without a subject stays as it is.
    """
    plain = MANNER.split(prompt)[0]
    named = list(PLACEHOLDER.finditer(plain))
    if not named:
        return prompt
    subjects, after = plain[named[0].start() : named[-1].end()], plain[named[-1].end() :]
    return " ".join(["a photo of", subjects, *_company(after)])


def opening_ends(timesteps: int, share: float) -> int:
    """The least timestep of the opening, which is the noisiest `share` of so many."""
    return round((1 - share) * timesteps)


def check_opening(share: float) -> None:
    """Raise InputError unless it is a share of the schedule."""
    if not 0 <= share <= 1:
        raise InputError(f"the opening is {share}, and must be a share of the steps, from 0 for none to 1")


def _company(after: str) -> list[str]:
    """The words directly after a subject that say what else is there."""
    words = re.match(r"[^,.;:!?]*", after)
    phrase = words.group().split() if words else []
    if not phrase or phrase[0].lower() not in COMPANY:
        return []
    ends = [place for place, word in enumerate(phrase) if place and word.lower() in SETTING]
    return phrase[: ends[0]] if ends else phrase
