"""What is measured on each picture, with the picture world's two judges; nothing is averaged here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from palp.base.icons.grammar import Scene
from palp.base.icons.judges import AttributeJudge, Eyes, SmallCLIP, labels
from palp.evaluate.protocol import Protocol, class_word, clean_prompt, renders

__all__ = ["PHOTO_METRICS", "PROMPT_METRICS", "Examiner", "Scores"]

PROMPT_METRICS = (
    "text", "style", "class", "ambiance_1", "ambiance_2", "alignment",
    "subject_on_prompt", "identity_on_prompt", "ideal_distance",
)  # fmt: skip
PHOTO_METRICS = ("subject_on_photo", "identity_on_photo")
LAYOUTS = tuple(range(4))  # seeds of the renders that pictures are compared with

Scores: TypeAlias = Mapping[str, NDArray[np.float64]]
"""One number a picture, by metric."""


class Examiner:
    """Both judges, and the ideals of a protocol: each target with the character itself, rendered in four layouts.

    text: cosine of SmallCLIP's embeddings of the picture and of y_c.
    style, class, ambiance_1 (place), ambiance_2 (weather or palette, their mean where both are asked): 1 where the
    attribute judge's first guess is the word asked for, else 0.
    alignment: mean of style, ambiance_1 and ambiance_2, and of the second thing where one is asked for.
    subject_on_prompt: cosine of the judge's subject embedding to the mean over the ideals. identity_on_prompt: 1
    where, of all characters evaluated, the right one's ideals are the nearest. …_on_photo: the same for pictures of
    "a photo of [V]".
    ideal_distance: 1 − cosine of SmallCLIP's picture embeddings to an ideal, averaged over layouts.

    Args:
        judges: frozen, on any device.
        protocol: subjects and targets.
    """

    def __init__(self, judges: tuple[AttributeJudge, SmallCLIP], protocol: Protocol) -> None:
        self._eyes = Eyes(judges)
        self._protocol = protocol

    def on_prompt(self, pictures: Float[Tensor, "n 3 128 128"], subject: str, target: Scene) -> Scores:
        """`PROMPT_METRICS` of pictures of a target."""
        logits, faces = self._eyes.attributes(pictures)
        seen, asked = self._eyes.looks(pictures), self._eyes.words([clean_prompt(target, subject)])
        extras = [name for name in ("weather", "palette") if getattr(target, name) != "none"]
        second = ["companion"] if target.companion is not None else []
        hits = {name: _hits(logits, name, getattr(target, name)) for name in ("style", "place", *extras, *second)}
        ambiance_2 = torch.stack([hits[name] for name in extras]).mean(0)
        likeness, recognised = self._identity(faces, subject, target)
        values = {
            "text": seen @ asked[0],
            "style": hits["style"],
            "class": _hits(logits, "subject", class_word(subject)),
            "ambiance_1": hits["place"],
            "ambiance_2": ambiance_2,
            "alignment": torch.stack([hits["style"], hits["place"], ambiance_2, *(hits[name] for name in second)]).mean(
                0
            ),
            "subject_on_prompt": likeness,
            "identity_on_prompt": recognised,
            "ideal_distance": 1 - (seen @ self._ideal_looks[subject, target].T).mean(1),
        }
        return {name: value.double().numpy() for name, value in values.items()}

    def on_photo(self, pictures: Float[Tensor, "n 3 128 128"], subject: str) -> Scores:
        """`PHOTO_METRICS` of pictures of "a photo of [V]"."""
        likeness, recognised = self._identity(self._eyes.attributes(pictures)[1], subject, Scene(""))
        return {"subject_on_photo": likeness.double().numpy(), "identity_on_photo": recognised.double().numpy()}

    def _identity(self, faces: Tensor, subject: str, scene: Scene) -> tuple[Tensor, Tensor]:
        """Cosine to the subject's ideals in the scene, and whether no other subject's are nearer."""
        likeness = faces @ torch.stack([self._faces[name, scene] for name in self._protocol.subjects]).T
        own = self._protocol.subjects.index(subject)
        return likeness[:, own], (likeness.argmax(1) == own).float()

    @cached_property
    def _faces(self) -> dict[tuple[str, Scene], Float[Tensor, "dim"]]:
        """Mean subject embedding of a subject's ideals, for every target and for a plain photo."""
        scenes = (*self._protocol.targets, Scene(""))
        return {
            (name, scene): functional.normalize(self._eyes.attributes(_ideals(name, scene))[1].mean(0), dim=0)
            for name in self._protocol.subjects
            for scene in scenes
        }

    @cached_property
    def _ideal_looks(self) -> dict[tuple[str, Scene], Float[Tensor, "layouts dim"]]:
        """SmallCLIP's embeddings of the ideals."""
        return {
            (name, target): self._eyes.looks(_ideals(name, target))
            for name in self._protocol.subjects
            for target in self._protocol.targets
        }


def _ideals(name: str, scene: Scene) -> Float[Tensor, "layouts 3 128 128"]:
    return renders(replace(scene, subject=name), LAYOUTS)


def _hits(logits: Mapping[str, Tensor], attribute: str, word: str) -> Float[Tensor, "n"]:
    """1 where the judge's first guess is the word."""
    return (logits[attribute].argmax(1) == labels()[attribute].index(word)).float()
