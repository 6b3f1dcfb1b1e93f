"""Who scores pictures: an interface, and the picture world's two judges behind it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hypernet.prompts import prompts_of
from palp.base.fingerprint import weights_fingerprint
from palp.base.icons.grammar import Scene
from palp.base.icons.judges import AttributeJudge, Eyes, SmallCLIP, labels
from palp.corpus import CorpusPrompt, CorpusSubject
from palp.errors import InputError
from palp.evaluate.protocol import character, renders

__all__ = ["METRICS", "Judge", "PictureScores", "WorldJudge", "check_words"]

METRICS = ("alignment", "text", "subject", "diversity", "subject_on_photo")
LAYOUTS = tuple(range(4))  # seeds of the renders that a subject is compared with

PictureScores: TypeAlias = dict[str, list[float]]
"""One number a picture, by metric."""


@runtime_checkable
class Judge(Protocol):
    """Scores pictures; nothing is averaged."""

    @property
    def identity(self) -> str:
        """The same for judges that give the same scores."""

    def on_prompt(
        self, pictures: Float[Tensor, "n 3 H W"], prompt: CorpusPrompt, subject: CorpusSubject
    ) -> PictureScores:
        """ "alignment", "text", "subject" and "diversity" of pictures of a prompt."""

    def on_photo(self, pictures: Float[Tensor, "n 3 H W"], subject: CorpusSubject) -> PictureScores:
        """ "subject_on_photo" of pictures of "a photo of [V]"."""


class WorldJudge:
    """The attribute classifier and the small CLIP of the picture world; neither is a training signal of anything.

    alignment: mean over the prompt's elements of 1 where the classifier's first guess is the word asked for; without
    elements it is `text`. text: cosine of CLIP's embeddings of the picture and of y_c. subject: cosine of the
    classifier's subject embedding to the mean over renders of the subject in the prompt's scene.
    diversity: mean of 1 − cosine of CLIP's embeddings to the other pictures of the same prompt and subject.
    """

    def __init__(self, judges: tuple[AttributeJudge, SmallCLIP]) -> None:
        self._eyes = Eyes(judges)
        self.identity = "-".join(weights_fingerprint(judge) for judge in judges)
        self._ideal = lru_cache(maxsize=None)(self._face)

    def on_prompt(
        self, pictures: Float[Tensor, "n 3 H W"], prompt: CorpusPrompt, subject: CorpusSubject
    ) -> PictureScores:
        """As the class says."""
        logits, faces = self._eyes.attributes(pictures)
        looks = self._eyes.looks(pictures)
        text = looks @ self._eyes.words([prompts_of(prompt.text, subject.class_word).clean])[0]
        hits = [_hits(logits[name], name, word) for name, word in prompt.elements.items() if name in logits]
        scene = tuple((name, word) for name, word in prompt.elements.items() if name in vars(Scene("")))
        scores = {
            "alignment": torch.stack(hits).mean(0) if hits else text,
            "text": text,
            "subject": faces @ self._ideal(subject.name, scene),
            "diversity": _apart(looks),
        }
        return {name: values.tolist() for name, values in scores.items()}

    def on_photo(self, pictures: Float[Tensor, "n 3 H W"], subject: CorpusSubject) -> PictureScores:
        """As the class says."""
        faces = self._eyes.attributes(pictures)[1]
        return {"subject_on_photo": (faces @ self._ideal(subject.name, ())).tolist()}

    def _face(self, name: str, scene: tuple[tuple[str, str], ...]) -> Float[Tensor, "dim"]:
        ideals = renders(replace(Scene(character(name)), **dict(scene)), LAYOUTS)
        return functional.normalize(self._eyes.attributes(ideals)[1].mean(0), dim=0)


def check_words(prompt: CorpusPrompt) -> None:
    """Raise InputError for a prompt with an element that the picture world has no such word for."""
    known = labels()
    for name, word in prompt.elements.items():
        if name in known and word not in known[name]:
            raise InputError(
                f"{prompt.text!r} asks for the {name} {word!r}, which the picture world has not: "
                "evaluate a corpus of the grammar icons"
            )


def _hits(logits: Float[Tensor, "n words"], attribute: str, word: str) -> Float[Tensor, "n"]:
    return (logits.argmax(1) == labels()[attribute].index(word)).float()


def _apart(looks: Float[Tensor, "n dim"]) -> Float[Tensor, "n"]:
    """Mean distance of each to the others; 0 where it is alone."""
    others = max(len(looks) - 1, 1)
    return (1 - looks @ looks.T).sum(1) / others
